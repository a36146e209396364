"""Patches compared around every voxel, so that a structure is carried over from where the reference looks most like the target.

An alignment is never right to the voxel. Of the places beside the matching one, each counts by how much its surroundings resemble the
target's (non-local label fusion, after Coupe et al., NeuroImage 2011).
"""

import itertools
import math
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Shape, Triple
from .intensities import IntensityMap

_OFFSETS = [(z, y, x) for z, y, x in itertools.product((-1, 0, 1), repeat=3) if abs(z) + abs(y) + abs(x) < 3]
"""In voxels. Two voxels far is as good on average, and worse for thin structures."""
_FLOOR = 0.1
"""Added to squared differences, in units of the noise: alike is alike enough."""
_LEAST_EXPLAINED = 0.1
"""Share of the target's variance which the reference's intensities must explain; below, patches cannot be compared."""
_PLANES = 16
"""Planes worked on at a time."""


def with_patches(distance: Tensor, fixed: Tensor, moved: Tensor, known: Tensor, spacing: Triple, reach: float) -> Tensor:
    """Signed distances [D,H,W] in mm to a structure's surface, changed near it as patches suggest; the structure keeps its volume.

    Args:
        distance: [D,H,W] as alignment carries it over, positive inside.
        fixed: intensities of the target.
        moved: of the reference at the matching places.
        known: 1 where both are there, else 0.
        spacing: of the voxels in mm, z, y, x.
        reach: about how far from the matching place the right one is, in mm; the surface moves no further.
    """
    to_target = IntensityMap.between(fixed, moved, known)
    if to_target.explained < _LEAST_EXPLAINED:
        return distance
    moved, clamped, result = to_target(moved), distance.clamp(-reach, reach), distance.clone()
    near = distance.abs() < reach
    offsets = {offset: _gaussian(offset, spacing, reach) for offset in _OFFSETS}
    for box in _boxes(near):
        result[box] += near[box] * known[box] * (_averaged(fixed, moved, clamped, box, offsets, to_target.noise) - clamped[box])
    if near.any():  # averages of distances shrink what is thin
        result[near] -= _level(result[near], distance[near])
    return result


def _level(values: Tensor, before: Tensor) -> float:
    """Level above which as many values lie as lay above 0 before; 0 where all or none did."""
    inside = int((before > 0).sum())
    if not 0 < inside < len(before):
        return 0.0
    between = slice(inside - 1, inside + 1)
    return float(values.sort(descending=True).values[between].mean() - before.sort(descending=True).values[between].mean())


def _gaussian(offset: Shape, spacing: Triple, sigma: float) -> float:
    return math.exp(-sum((step * mm / sigma) ** 2 for step, mm in zip(offset, spacing, strict=True)) / 2)


def _boxes(near: Tensor) -> Iterator[tuple[slice, ...]]:
    """Boxes of a few planes each that hold a mask: a long slanted structure fills little of a single one."""
    for plane in range(0, near.shape[0], _PLANES):
        where = near[plane : plane + _PLANES].nonzero()
        if len(where):
            where[:, 0] += plane
            yield tuple(slice(low, high + 1) for low, high in zip(where.amin(0).tolist(), where.amax(0).tolist(), strict=True))


def _averaged(
    fixed: Tensor, moved: Tensor, distance: Tensor, box: tuple[slice, ...], offsets: Mapping[Shape, float], noise: float
) -> Tensor:
    """Distances in a box, averaged over neighbouring voxels, weighted by the resemblance of patches of 3 x 3 x 3 voxels."""
    fixed, moved, distance = _grown(fixed, box, 1), _grown(moved, box, 2), _grown(distance, box, 1)
    size = [side - 2 for side in fixed.shape]
    total, counted = torch.zeros(2, *size, device=fixed.device)
    for offset, likely in offsets.items():
        difference = (fixed - _part(moved, offset, fixed.shape)) ** 2
        for axis, side in enumerate(size):
            difference = difference.narrow(axis, 0, side) + difference.narrow(axis, 1, side) + difference.narrow(axis, 2, side)
        weight = likely / (difference / (27 * noise) + _FLOOR) ** 2
        total += weight * _part(distance, offset, size)
        counted += weight
    return total / counted


def _grown(values: Tensor, box: tuple[slice, ...], by: int) -> Tensor:
    """A box of values and `by` voxels around it, the border continued outwards."""
    lows = [max(0, part.start - by) for part in box]
    highs = [min(size, part.stop + by) for part, size in zip(box, values.shape, strict=True)]
    inside = values[tuple(slice(low, high) for low, high in zip(lows, highs, strict=True))]
    pads = [(by - part.start + low, by + part.stop - high) for part, low, high in zip(box, lows, highs, strict=True)]
    return F.pad(inside[None, None], [pad for both in reversed(pads) for pad in both], mode="replicate")[0, 0]


def _part(values: Tensor, offset: tuple[int, ...], size: list[int] | torch.Size) -> Tensor:
    """The middle of values with a voxel more on every side, shifted by an offset."""
    return values[tuple(slice(1 + step, 1 + step + side) for step, side in zip(offset, size, strict=True))]
