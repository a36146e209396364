"""A task that was adapted to references: good for these references, as they were, with these weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

from ..scene import exchange as scene
from .order import Reference, Settings


@dataclass(frozen=True)
class Adapted:
    """What Adapt made."""

    file: Path
    seconds: float
    dice: tuple[float, float]
    """On views of the references, before and after."""
    of: tuple
    """State of what it was made of."""

    def text(self) -> str:
        """What it is, in a sentence."""
        text = _("Looks for what the references show: adapted task ({seconds:.0f} s). Dice on them: {before:.2f}, adapted {after:.2f}.")
        return text.format(seconds=self.seconds, before=self.dice[0], after=self.dice[1])


def state(references: Sequence[Reference], settings: Settings) -> tuple:
    """Changes whenever references, or what would be learned from them, change; noticed without looking at a voxel."""
    return (settings.weights, settings.recipe, *map(_reference_state, references))


def _reference_state(reference: Reference) -> tuple:
    drawn = reference.segmentation
    names = tuple((i, style.name, scene.drawn_at(drawn, i)) for i, style in scene.label_styles(drawn, reference.chosen()).items())
    return (scene.state(reference.volume), drawn.GetID(), drawn.GetTransformNodeID(), names)
