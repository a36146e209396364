"""Resampling of volumes from one grid in the patient to another."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import SimpleITK as sitk

from ..config import Triple
from .volume import Geometry, Volume

Interpolation = Literal["nearest", "linear", "bspline"]

_INTERPOLATORS = {"nearest": sitk.sitkNearestNeighbor, "linear": sitk.sitkLinear, "bspline": sitk.sitkBSpline}
_BLOCK = 16
"""Output planes averaged at a time: the extra memory is a few planes of the source."""


def orient(volume: Volume, orientation: str = "RAS") -> Volume:
    """Permute and flip the voxel axes so that x grows to the right, y to anterior, z to superior; shares memory.

    Oblique grids take the nearest such axes and keep their tilt. `none` changes nothing.
    """
    if orientation == "none":
        return volume
    # A single voxel with the same direction shows which axes to swap and flip, without moving the data.
    source = volume.geometry
    probe = sitk.Image(1, 1, 1, sitk.sitkUInt8)
    probe.SetDirection(source.direction)
    finder = sitk.DICOMOrientImageFilter()
    finder.SetDesiredCoordinateOrientation(orientation)
    direction = finder.Execute(probe).GetDirection()
    order, flips = finder.GetPermuteOrder(), finder.GetFlipAxes()
    shape = [source.shape_zyx[2 - axis] for axis in order][::-1]
    spacing = [source.spacing_xyz[axis] for axis in order]
    swapped = replace(
        source,
        shape_zyx=(shape[0], shape[1], shape[2]),
        spacing_xyz=(spacing[0], spacing[1], spacing[2]),
        direction=tuple(np.reshape(source.direction, (3, 3))[:, list(order)].ravel().tolist()),
    )
    x, y, z = (shape[2 - axis] - 1 if flips[axis] else 0 for axis in range(3))
    array = volume.array.transpose([2 - axis for axis in order][::-1])[tuple(slice(None, None, -1 if flip else 1) for flip in flips[::-1])]
    return Volume(array, replace(swapped, origin_xyz=swapped.point((x, y, z)), direction=tuple(direction)), volume.modality)


def grid_at(geometry: Geometry, spacing_zyx: Triple, *, centred: bool) -> Geometry:
    """The grid of another spacing over the same part of the patient.

    Args:
        geometry: The grid to cover.
        spacing_zyx: New voxel edges in mm.
        centred: True: as many voxels as cover the image whole, sharing its centre. False: round(extent / spacing) voxels from the same
            first voxel centre, as the released script has it.
    """
    shape, first = [], []
    for size, old, new in zip(geometry.shape_zyx, geometry.spacing_zyx, spacing_zyx, strict=True):
        ratio = size * old / new
        count = max(1, math.ceil(ratio - 1e-3) if centred else round(ratio))
        shape.append(count)
        first.append(((size - 1) - (count - 1) * new / old) / 2 if centred and (count, new) != (size, old) else 0.0)
    return _regridded(geometry, shape, spacing_zyx, first)


def _regridded(geometry: Geometry, shape_zyx: Sequence[int], spacing_zyx: Sequence[float], first_zyx: Sequence[float]) -> Geometry:
    """The grid of other voxels along the same axes; its first one lies at a place given in the old ones."""
    (z, y, x), (dz, dy, dx), (z0, y0, x0) = shape_zyx, spacing_zyx, first_zyx
    return replace(geometry, shape_zyx=(z, y, x), spacing_xyz=(dx, dy, dz), origin_xyz=geometry.point((x0, y0, z0)))


def resample(
    volume: Volume, grid: Geometry, interpolation: Interpolation = "linear", *, fill: float | None = 0.0, average: bool = False
) -> Volume:
    """Sample a volume at the voxel centres of a grid, by physical position.

    Args:
        volume: What to sample.
        grid: Where.
        interpolation: nearest keeps the voxel type, the others return float32.
        fill: Value beyond the volume; None continues its border outwards.
        average: Along axes that become coarser each new voxel is a weighted mean of the old ones instead of a sample between two of them,
            so that fine detail does not alias; the border continues outwards there. The grids must have the same axes.
    """
    if average:
        # Where the border continues, linear interpolation is the same weighting with a narrower triangle, and faster than ITK's.
        volume = _weighted_along(volume, grid, coarser_only=interpolation != "linear" or fill is not None)
    if grid == volume.geometry:
        kept = volume.array if interpolation == "nearest" else volume.array.astype(np.float32, copy=False)
        return Volume(kept, grid, volume.modality)
    image = volume.to_sitk()
    kind = image.GetPixelID() if interpolation == "nearest" else sitk.sitkFloat32
    onto = grid.shape_zyx[::-1], sitk.Transform(), _INTERPOLATORS[interpolation], grid.origin_xyz, grid.spacing_xyz, grid.direction
    sampled = sitk.Resample(image, *onto, defaultPixelValue=fill or 0.0, outputPixelType=kind, useNearestNeighborExtrapolator=fill is None)
    return Volume(sitk.GetArrayFromImage(sampled), grid, volume.modality)


def _weighted_along(volume: Volume, grid: Geometry, *, coarser_only: bool) -> Volume:
    """The volume on a grid that equals `grid` along all axes, or along those that become coarser and its own along the others."""
    source = volume.geometry
    first = (np.linalg.inv(source.affine) @ (*grid.origin_xyz, 1))[2::-1]
    weights: list[np.ndarray | None] = []
    shape, spacing, start = list(source.shape_zyx), list(source.spacing_zyx), [0.0, 0.0, 0.0]
    for axis in range(3):
        ratio = grid.spacing_zyx[axis] / source.spacing_zyx[axis]
        if coarser_only and ratio <= 1 + 1e-6:
            weights.append(None)
            continue
        weights.append(_weights(source.shape_zyx[axis], grid.shape_zyx[axis], float(first[axis]), ratio))
        shape[axis], spacing[axis], start[axis] = grid.shape_zyx[axis], grid.spacing_zyx[axis], float(first[axis])
    if all(w is None for w in weights):
        return volume
    between = _regridded(source, shape, spacing, start) if any(w is None for w in weights) else grid
    return Volume(_weighted(volume.array, weights), between, volume.modality)


def _weights(old: int, new: int, first: float, ratio: float) -> np.ndarray:
    """Rows [new, old] of weights: a triangle that reaches to the neighbouring voxels, new or old, whichever are farther apart.

    Voxels beyond the border count as the border voxel.
    """
    centres = first + ratio * np.arange(new)
    width = max(1.0, ratio)
    reach = math.ceil(width) + 1
    places = np.round(centres)[:, None] + np.arange(-reach, reach + 1)
    height = np.maximum(0, 1 - np.abs(places - centres[:, None]) / width)
    rows = np.zeros((new, old))
    np.add.at(rows, (np.arange(new)[:, None], np.clip(places, 0, old - 1).astype(int)), height)
    return (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)


def _weighted(array: np.ndarray, weights: list[np.ndarray | None]) -> np.ndarray:
    """Apply weights [new, old] along z, y and x (None: leave the axis alone), some planes at a time, float32."""
    over_z, over_y, over_x = weights
    shape = [n if w is None else len(w) for n, w in zip(array.shape, weights, strict=True)]
    result = np.empty(shape, np.float32)
    for z in range(0, shape[0], _BLOCK):
        if over_z is None:
            part = array[z : z + _BLOCK].astype(np.float32, order="C")
        else:
            rows = over_z[z : z + _BLOCK]
            low, high = _band(rows)
            planes = array[low:high].astype(np.float32, order="C")
            part = (rows[:, low:high] @ planes.reshape(high - low, -1)).reshape(len(rows), *array.shape[1:])
        if over_y is not None:
            part = _banded(part, over_y, 1)
        if over_x is not None:
            part = _banded(part, over_x, 2)
        result[z : z + _BLOCK] = part
    return result


def _banded(planes: np.ndarray, weights: np.ndarray, axis: int) -> np.ndarray:
    """Apply weights [new, old] along axis 1 or 2 of planes [z, y, x]; only the old lines a block of new ones needs are multiplied."""
    shape = list(planes.shape)
    shape[axis] = len(weights)
    result = np.empty(shape, np.float32)
    for start in range(0, len(weights), 2 * _BLOCK):
        rows = weights[start : start + 2 * _BLOCK]
        low, high = _band(rows)
        if axis == 1:
            np.matmul(rows[:, low:high], planes[:, low:high], out=result[:, start : start + len(rows)])
        else:
            np.matmul(planes[:, :, low:high], rows[:, low:high].T, out=result[:, :, start : start + len(rows)])
    return result


def _band(rows: np.ndarray) -> tuple[int, int]:
    """First and one past the last column in use."""
    used = np.flatnonzero(rows.any(axis=0))
    return int(used[0]), int(used[-1]) + 1
