"""References as files for the worker: scans and label maps in which one name has one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from mass_core.colors import LabelStyle
from mass_core.errors import InputError

from ..scene import exchange as scene
from ..scene.exports import Exports
from .order import Reference


@dataclass
class Written:
    """References as files."""

    masks: list[tuple[slicer.vtkMRMLScalarVolumeNode, Path]] = field(default_factory=list)
    """Label maps, each with its scan."""
    found: dict[int, LabelStyle] = field(default_factory=dict)
    """Names and colours by label."""
    warnings: list[str] = field(default_factory=list)

    def params(self, exports: Exports) -> dict[str, Any]:
        """Parameters for the worker; a scan whose file was deleted to make room is written again.

        Raises:
            MassError: if a scan cannot be written.
        """
        references = [{"image": str(exports.volume(volume)), "mask": str(mask)} for volume, mask in self.masks]
        return {"references": references, "appearance": appearance_of(self.found)}

    @property
    def there(self) -> bool:
        """True while all scans are in the scene."""
        return all(volume.GetScene() is not None for volume, _mask in self.masks)


def appearance_of(found: dict[int, LabelStyle]) -> dict[str, dict[str, Any]]:
    """Names, colours and terminology by number, as the worker wants them."""
    return {str(v): {"name": x.name, "color": x.color, "terminology": x.terminology} for v, x in found.items()}


def write_references(references: Sequence[Reference], exports: Exports) -> Written:
    """Write references to files. Segments of the same name in several references are one structure.

    Raises:
        MassError: if one cannot be used or written.
    """
    written, values = Written(), {}
    for reference in references:
        ids = reference.chosen()
        if not ids:
            raise InputError(
                _("The segmentation “{name}” has no segment.").format(name=reference.segmentation.GetName()), _("Draw one first.")
            )
        shown = scene.label_styles(reference.segmentation, ids)
        numbers = {i: values.setdefault(style.name, len(values) + 1) for i, style in shown.items()}
        for i, style in shown.items():
            written.found.setdefault(numbers[i], style)
        masks, notes = scene.write_masks(reference.volume, reference.segmentation, numbers, exports.new(".nrrd"))
        written.warnings += notes
        written.masks += [(reference.volume, mask) for mask in masks]
    return written
