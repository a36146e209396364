"""References, settings and destination of a run, and its progress."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from mass_core.worker.client import Client

from ..scene import exchange as scene


@dataclass(frozen=True)
class Reference:
    """A scan with the segments to find."""

    volume: slicer.vtkMRMLScalarVolumeNode
    segmentation: slicer.vtkMRMLSegmentationNode
    segment_ids: tuple[str, ...] = ()
    """Empty: all segments."""

    def chosen(self) -> list[str]:
        """IDs of the segments that count."""
        present = scene.segment_ids(self.segmentation)
        return [i for i in present if i in self.segment_ids] if self.segment_ids else present


@dataclass(frozen=True)
class Settings:
    """Settings of a segmentation; options left out are those recorded with the weights."""

    weights: str = "small"
    device: str = "auto"
    precision: str = "auto"
    recipe: str = "default"
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of a recipe by name (docs/preprocessing.md)."""
    assess: bool = False
    """Also estimate the quality of each result; takes longer."""

    def params(self) -> dict[str, Any]:
        """As parameters of the worker's methods."""
        return {name: value for name, value in vars(self).items() if name != "assess"}


@dataclass(frozen=True)
class Destination:
    """Destination of results: the scene or a folder."""

    into: slicer.vtkMRMLSegmentationNode | None = None
    """Existing segmentation that gets the new segments; None: a new one for each target."""
    name: str = "{target} MASS"
    """Of new segmentations."""
    folder: Path | None = None
    """Results become files here and the scene stays as it is."""
    ending: str = ".seg.nrrd"
    skip_done: bool = True
    """Skip targets whose file exists; else overwrite it."""


@dataclass(frozen=True)
class Progress:
    """Progress of a run."""

    text: str
    fraction: float
    """Of the whole run, 0 to 1."""
    eta_s: float | None
    """Seconds to its end; None: not known yet."""


def host_of(client: Client) -> str:
    """Computer that a client's worker runs on; empty: this one."""
    return str(client.worker.get("host", ""))


def place_of(device: str, host: str) -> str:
    """Device in words, with the computer it belongs to if that is another one."""
    return _("{device} of {host}").format(device=device, host=host) if device and host else device


def duration(seconds: float) -> str:
    """Duration in words."""
    if seconds < 90:
        return _("{seconds:.0f} s").format(seconds=max(1, seconds))
    if seconds < 90 * 60:
        return _("{minutes:.0f} min").format(minutes=seconds / 60)
    return _("{hours:.1f} h").format(hours=seconds / 3600)
