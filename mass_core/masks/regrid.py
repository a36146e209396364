"""Mask sets between grids of one patient."""

import numpy as np
from numpy.typing import NDArray

from ..errors import GeometryError
from ..volumes.boxes import Box, bounding_box
from ..volumes.volume import Geometry
from .mask_set import Bools, MaskSet

_TOLERANCE = 1e-3
"""Difference of direction cosines up to which axes count as parallel."""


def grid_of(masks: MaskSet) -> Geometry:
    """Geometry of a mask set's grid.

    Raises:
        GeometryError: if its `meta` does not say so.
    """
    if not {"origin_xyz", "direction"} <= set(masks.meta):
        raise GeometryError(
            "The mask set does not record the position of its grid.", "Make the masks with `mass masks` from the image file."
        )
    z, y, x = masks.spacing_zyx
    x0, y0, z0 = masks.meta["origin_xyz"]
    return Geometry(shape_zyx=masks.shape_zyx, spacing_xyz=(x, y, z), origin_xyz=(x0, y0, z0), direction=tuple(masks.meta["direction"]))


def regrid(masks: MaskSet, grid: Geometry, min_voxels: int = 1) -> MaskSet:
    """Masks on another grid whose axes point the same ways, by position: each voxel takes the value of the nearest old one.

    Args:
        masks: their `meta` says where their grid lies: `origin_xyz` (LPS mm), `direction`.
        grid: the new one.
        min_voxels: masks that keep fewer are dropped.

    Raises:
        GeometryError: if the axes are not parallel, or the masks do not say where they lie.
    """
    nearest = _nearest(grid_of(masks), grid)
    kept: list[tuple[Box, Bools]] = []
    indices = []
    for index in range(len(masks)):
        moved = _moved(masks, index, nearest)
        if moved is not None and np.count_nonzero(moved[1]) >= min_voxels:
            kept.append(moved)
            indices.append(index)
    meta = {**masks.meta, "origin_xyz": list(grid.origin_xyz), "direction": list(grid.direction)}
    for name, values in masks.meta.get("per_mask", {}).items():
        meta["per_mask"] = {**meta["per_mask"], name: [values[index] for index in indices]}
    return MaskSet.of(kept, grid.shape_zyx, grid.spacing_zyx, meta)


def _nearest(old: Geometry, new: Geometry) -> list[NDArray[np.int64]]:
    """For each axis z, y, x: the old index nearest to each new one; it may lie outside the old grid."""
    if not np.allclose(new.direction, old.direction, atol=_TOLERANCE):
        raise GeometryError(
            "The axes of the masks and of the image point in different directions.",
            "Use the same --orientation for `mass masks` and `mass prepare`.",
        )
    offset_zyx = (np.reshape(new.direction, (3, 3)).T @ np.subtract(new.origin_xyz, old.origin_xyz))[::-1]
    places = [offset + np.arange(n) * edge for offset, n, edge in zip(offset_zyx, new.shape_zyx, new.spacing_zyx, strict=True)]
    return [np.floor(place / edge + 0.5).astype(np.int64) for place, edge in zip(places, old.spacing_zyx, strict=True)]


def _moved(masks: MaskSet, index: int, nearest: list[NDArray[np.int64]]) -> tuple[Box, Bools] | None:
    """A mask's new bounding box and values; None where nothing is left."""
    (starts, stops), mask = masks.box(index), masks.mask(index)
    first, picks = [], []
    for old, start, stop in zip(nearest, starts, stops, strict=True):
        low, high = np.searchsorted(old, (start, stop)).tolist()
        first.append(low)
        picks.append(old[low:high] - start)
    moved = mask[np.ix_(*picks)]
    inner = bounding_box(moved)
    return None if inner is None else (inner.shifted(first), moved[inner.slices()])
