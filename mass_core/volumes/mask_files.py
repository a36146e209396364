"""Mask files: one label map, or several where segments overlap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from . import dicom_frames
from .appearance import Segment, header_fields, segments_of
from .image_io import several_values
from .label_maps import only, thresholded
from .volume import Volume

Read = Callable[[Path, int | None], Volume]
"""Reads an image, one frame of it if a number is given."""


@dataclass(frozen=True, kw_only=True)
class How:
    """Interpretation of the mask of a reference."""

    frame: int | None = None
    """Index of the volume in a file of several; ignored for other files."""
    labels: Sequence[int] | None = None
    """Values that count; None: all."""
    same_grid: bool = False
    """The mask belongs to its image voxel for voxel, wherever its header says it lies."""
    threshold: float | None = None
    """Values from this on are label 1; None: values are labels."""


def read_masks(path: Path, image: Volume, how: How, read: Read = Volume.read) -> list[Volume]:
    """The label maps of a mask file: one, or several if its segments overlap.

    Args:
        path: of the mask.
        image: the one it belongs to.
        how: what to make of it.
        read: how to read a file.

    Raises:
        MassError: as `Volume.read`, and if it shall have the grid of its image but not the shape.
    """
    masks = [only(thresholded(mask, how.threshold), how.labels) for mask in _layers(path, how.frame, read)]
    masks = [mask.on_grid_of(image) if how.same_grid else mask for mask in masks]
    marked = [mask for mask in masks if mask.array.any()]
    return marked or masks[:1]


def read_mask(path: Path, image: Volume, how: How) -> Volume:
    """The one label map of a mask file.

    Raises:
        MassError: as `read_masks`, and if segments overlap.
    """
    return _only_one(path, read_masks(path, image, how))


def read_label_map(path: Path, read: Read = Volume.read) -> Volume:
    """The label map of a file.

    Raises:
        MassError: as `Volume.read`, and if segments overlap.
    """
    return _only_one(path, _layers(path, None, read))


def _only_one(path: Path, layers: Sequence[Volume]) -> Volume:
    if len(layers) > 1:
        raise InputError(
            f"Segments of {path} overlap, and a label map holds one label per voxel.", "Export them as a label map, without the overlaps."
        )
    return layers[0]


def _layers(path: Path, frame: int | None, read: Read) -> list[Volume]:
    count = several_values(path)
    segmented = path.name.lower().endswith(".seg.nrrd") or path.is_file() and dicom_frames.kind(path) == "segmentation"
    if count > 1 and frame is None and segmented:
        return _together(path, [read(path, number) for number in range(count)])
    return [read(path, frame if count > 1 else None)]  # where none of several is chosen, reading says so


def _together(path: Path, layers: Sequence[Volume]) -> list[Volume]:
    """Layers as few label maps as hold them without an overlap, each segment with its own number."""
    segments = segments_of(header_fields(path))
    numbered = [_renumbered(layer, [one for one in segments if one.layer == number]) for number, layer in enumerate(layers)]
    joined: list[Volume] = []
    for layer in numbered:
        for number, other in enumerate(joined):
            if not np.any((other.array > 0) & (layer.array > 0)):
                joined[number] = replace(other, array=np.where(layer.array > 0, layer.array, other.array))
                break
        else:
            joined.append(layer)
    return joined


def _renumbered(layer: Volume, segments: Sequence[Segment]) -> Volume:
    """A layer with the numbers of its segments, where those differ from its values."""
    if all(segment.number == segment.value for segment in segments):
        return layer
    array = np.zeros(layer.array.shape, np.uint16)
    for segment in segments:
        array[layer.array == segment.value] = segment.number
    numbers = ", ".join(f"{segment.number} {segment.appearance.name}" for segment in segments)
    return replace(layer, array=array, notes=(*layer.notes, f"Segments of different layers share a value and were numbered: {numbers}."))
