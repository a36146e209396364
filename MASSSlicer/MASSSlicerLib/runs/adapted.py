"""A task adapted to references, valid while these and the weights do not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

from ..scene import exchange as scene
from .order import Reference, Settings


@dataclass(frozen=True)
class Adapted:
    """Result of Adapt."""

    file: Path
    seconds: float
    dice: tuple[float, float]
    """On views of the references, before and after."""
    of: tuple
    """State of the references and settings it was made with."""

    def text(self) -> str:
        """Description in a sentence."""
        text = _("Uses the task adapted to the references ({seconds:.0f} s). Dice on them: {before:.2f} before, {after:.2f} after.")
        return text.format(seconds=self.seconds, before=self.dice[0], after=self.dice[1])


def state(references: Sequence[Reference], settings: Settings) -> tuple:
    """Fingerprint of references and settings, without reading a voxel."""
    return (settings.weights, settings.recipe, *map(_reference_state, references))


def _reference_state(reference: Reference) -> tuple:
    drawn = reference.segmentation
    names = tuple((i, style.name, scene.drawn_at(drawn, i)) for i, style in scene.label_styles(drawn, reference.chosen()).items())
    return (scene.state(reference.volume), drawn.GetID(), drawn.GetTransformNodeID(), names)
