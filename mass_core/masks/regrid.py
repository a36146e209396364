"""Mask sets between grids of one patient."""

import numpy as np
from numpy.typing import NDArray

from ..config import Shape, Triple
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
        raise GeometryError("The mask set does not say where its grid lies.", "Make the masks with `mass masks` from the image file.")
    z, y, x = masks.spacing_zyx
    x0, y0, z0 = masks.meta["origin_xyz"]
    return Geometry(shape_zyx=masks.shape_zyx, spacing_xyz=(x, y, z), origin_xyz=(x0, y0, z0), direction=tuple(masks.meta["direction"]))


def regrid(
    masks: MaskSet, shape_zyx: Shape, spacing_zyx: Triple, origin_xyz: Triple, direction: tuple[float, ...], min_voxels: int = 1
) -> MaskSet:
    """Masks on another grid whose axes point the same ways, by position: each voxel takes the value of the nearest old one.

    Args:
        masks: their `meta` says where their grid lies: `origin_xyz` (LPS mm), `direction`.
        shape_zyx: of the new grid.
        spacing_zyx: of the new grid, mm.
        origin_xyz: centre of the new grid's first voxel, LPS mm.
        direction: of the new grid, nine numbers row by row.
        min_voxels: masks that keep fewer are dropped.

    Raises:
        GeometryError: if the axes are not parallel, or the masks do not say where they lie.
    """
    nearest = _nearest(masks, shape_zyx, spacing_zyx, origin_xyz, direction)
    kept: list[tuple[Box, Bools]] = []
    indices = []
    for index in range(len(masks)):
        moved = _moved(masks, index, nearest)
        if moved is not None and np.count_nonzero(moved[1]) >= min_voxels:
            kept.append(moved)
            indices.append(index)
    meta = {**masks.meta, "origin_xyz": list(origin_xyz), "direction": list(direction)}
    for name, values in masks.meta.get("per_mask", {}).items():
        meta["per_mask"] = {**meta["per_mask"], name: [values[index] for index in indices]}
    return MaskSet.of(kept, shape_zyx, spacing_zyx, meta)


def _nearest(
    masks: MaskSet, shape_zyx: Shape, spacing_zyx: Triple, origin_xyz: Triple, direction: tuple[float, ...]
) -> list[NDArray[np.int64]]:
    """For each axis z, y, x: the old index nearest to each new one; it may lie outside the old grid."""
    grid, axes = grid_of(masks), np.reshape(direction, (3, 3))
    if not np.allclose(axes, np.reshape(grid.direction, (3, 3)), atol=_TOLERANCE):
        raise GeometryError(
            "The axes of the masks and of the image do not point the same ways.",
            "Use the same --orientation for `mass masks` and `mass prepare`.",
        )
    offset_zyx = (axes.T @ np.subtract(origin_xyz, grid.origin_xyz))[::-1]
    places = [offset + np.arange(n) * new for offset, n, new in zip(offset_zyx, shape_zyx, spacing_zyx, strict=True)]
    return [np.floor(place / old + 0.5).astype(np.int64) for place, old in zip(places, masks.spacing_zyx, strict=True)]


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
