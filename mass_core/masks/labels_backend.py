"""Masks from label maps somebody made: an expert, or another program such as TotalSegmentator. They may join other masks of the scan."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import GeometryError, InputError
from ..resample import resample
from ..volume import Geometry, Volume
from .mask_set import Bools, Box, MaskSet
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
        InputError: if there are no labels, or they are no integers.
        GeometryError: if the label map lies elsewhere.
    """
    moved, known = numbered(labels, grid)
    masks, kept = [], []
    for number, place in enumerate(ndimage.find_objects(moved), start=1):
        if place is None or np.count_nonzero(moved[place] == number) < min_voxels:
            continue
        z, y, x = place
        masks.append((((z.start, y.start, x.start), (z.stop, y.stop, x.stop)), moved[place] == number))
        kept.append(known[number - 1])
    return masks, kept


def numbered(labels: Volume, grid: Geometry, must_share: Geometry | None = None) -> tuple[NDArray[np.int32], list[int]]:
    """A label map on another grid, its labels numbered from 1 on: label maps may hold any integers.

    Args:
        labels: integers, 0 outside; on whatever grid.
        grid: each voxel takes the label nearest to it in the patient.
        must_share: what the label map must share space with; None: the grid.

    Returns:
        Numbers [z,y,x], and the label of each number.

    Raises:
        InputError: if there are no labels, or they are no integers.
        GeometryError: if the label map lies elsewhere.
    """
    array, place = labels.array, must_share or grid
    if not np.issubdtype(array.dtype, np.integer) and not np.array_equal(array, np.floor(array)):
        raise InputError("The label map holds fractions.", "Give whole numbers, one for each structure.")
    if array.min() < 0 or array.max() < 1:
        raise InputError(f"The label map holds values from {array.min():g} to {array.max():g}.", "Labels are 1 and above, 0 is outside.")
    if not labels.geometry.overlaps(place):
        raise GeometryError(
            f"The label map lies elsewhere than the scan: {labels.geometry.describe()} and {place.describe()}.",
            "Give the label map that was drawn on this scan.",
        )
    values, numbers = np.unique(array, return_inverse=True)
    shifted = numbers.reshape(array.shape) + (1 if values[0] > 0 else 0)
    moved = resample(Volume(shifted.astype(np.int32), labels.geometry), grid, "nearest").array
    return moved, [int(value) for value in values if value > 0]


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
