"""Masks from label maps of an expert or another program such as TotalSegmentator. They may be added to other masks of the scan."""

import numpy as np
from numpy.typing import NDArray

from ..errors import GeometryError, InputError
from ..volumes.boxes import Box, label_boxes
from ..volumes.label_maps import as_label_map
from ..volumes.resample import resample
from ..volumes.volume import Geometry, Volume
from .mask_set import Bools, MaskSet
from .regrid import grid_of


def label_masks(labels: Volume, grid: Geometry, min_voxels: int = 1) -> tuple[list[tuple[Box, Bools]], list[int]]:
    """One mask for each label, whole: a label of two parts is a mask of two parts.

    Args:
        labels: integers, 0 outside; on whatever grid.
        grid: of the masks; each voxel takes the label nearest to it in the patient.
        min_voxels: smaller masks are dropped.

    Returns:
        Bounding boxes and masks by ascending label, and the labels.

    Raises:
        InputError: if there are no labels, or they are not integers.
        GeometryError: if the label map lies elsewhere.
    """
    labels = checked_labels(labels, grid)
    moved, known = numbered(labels, grid)
    masks, kept = [], []
    for number, box in label_boxes(moved).items():
        mask = moved[box.slices()] == number
        if np.count_nonzero(mask) >= min_voxels:
            masks.append((box, mask))
            kept.append(known[number - 1])
    return masks, kept


def checked_labels(labels: Volume, grid: Geometry) -> Volume:
    """A label map as integers; other images, and label maps that do not overlap the scan's grid, are refused.

    Raises:
        InputError: if there are no labels, or they are not integers.
        GeometryError: if the label map lies elsewhere.
    """
    if labels.array.dtype.kind == "f":
        labels = as_label_map(labels)
    low, high = labels.array.min(), labels.array.max()
    if low < 0 or high < 1:
        raise InputError(f"The label map holds values from {low:g} to {high:g}.", "Labels are 1 and above, 0 is background.")
    if not labels.geometry.overlaps(grid):
        raise GeometryError(
            f"The label map and the scan do not overlap: {labels.geometry.describe()} and {grid.describe()}.",
            "Give the label map that was drawn on this scan.",
        )
    return labels


def numbered(labels: Volume, grid: Geometry) -> tuple[NDArray[np.int32], list[int]]:
    """A label map on another grid, its labels numbered from 1 on: label maps may hold any integers.

    Args:
        labels: integers, 0 outside; on whatever grid.
        grid: each voxel takes the label nearest to it in the patient.

    Returns:
        Numbers [z,y,x], and the label of each number, also of those that no voxel of the grid has.
    """
    known = np.unique(labels.array)
    known = known[known > 0]
    moved = resample(labels, grid, "nearest").array
    inside = moved > 0
    numbers = np.zeros(moved.shape, np.int32)
    numbers[inside] = np.searchsorted(known, moved[inside]) + 1
    return numbers, [int(value) for value in known]


def with_labels(masks: MaskSet, labels: Volume, min_voxels: int = 1) -> MaskSet:
    """A mask set with those of a label map behind its own; `meta["per_mask"]["label"]` tells which are which.

    Args:
        masks: their `meta` says where their grid lies.
        labels: see `label_masks`.
        min_voxels: smaller masks are dropped.
    """
    more, values = label_masks(labels, grid_of(masks), min_voxels)
    before = {"label": [None] * len(masks), **masks.meta.get("per_mask", {})}
    per_mask = {name: [*column, *(values if name == "label" else [None] * len(values))] for name, column in before.items()}
    return MaskSet.of([*masks, *more], masks.shape_zyx, masks.spacing_zyx, {**masks.meta, "per_mask": per_mask})
