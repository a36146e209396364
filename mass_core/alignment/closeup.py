"""Refinement of an alignment around a single structure, on finer voxels than the whole reference allows."""

import torch
from torch import Tensor

from .align import Alignment, Target
from .atlas import distance_at
from .features import mind
from .fields import mostly, pooled, resized, sample, smoothed, voxel_grid
from .intensities import with_intensities
from .refine import refined
from .warp import Warp

_STEPS_OF_HALF, _STEPS = 6, 2
"""Gauss-Newton steps at half resolution and at full."""


def refined_around(found: Alignment, value: int, target: Target) -> Warp:
    """The alignment around one structure, refined; as found where the atlas holds no finer surroundings or the target does not reach there.

    Args:
        found: the alignment of the whole reference.
        value: the label.
        target: the scan it was aligned with.
    """
    close = found.atlas.closeups.get(value)
    if close is None:
        return found
    shift = found.shift + _displacement_mm(found, value)
    under = target.closely_under(close.grid, shift)
    if under is None:
        return found
    index = voxel_grid(close.scan.values.shape, found.field.device)
    points = close.scan.points_mm(index) - shift.view(3, 1, 1, 1)
    field = close.scan.index(found.reference_mm(points)) - index
    fixed, moving = mind(under.values), mind(close.scan.values)
    there, here = under.usable.float(), close.scan.usable.float()
    finest_fixed, finest_moving = with_intensities((fixed, moving), (under, close.scan), field)
    coarser = pooled(finest_fixed, 2), pooled(finest_moving, 2), mostly(there, 2), mostly(here, 2)
    half = refined(*coarser, resized(field, coarser[0].shape[1:]), steps=_STEPS_OF_HALF)
    field = refined(finest_fixed, finest_moving, there, here, resized(half, there.shape), steps=_STEPS)
    difference = ((fixed - sample(moving, index + field)) ** 2).mean(0)
    return Warp(close.scan, shift, field, smoothed(difference[None], 4)[0])


def _displacement_mm(found: Alignment, value: int) -> Tensor:
    """Mean displacement [3] z, y, x of the structure by the field."""
    index = voxel_grid(found.field.shape[1:], found.field.device)
    distance = distance_at(found.atlas.distances[value], found.scan.points_mm(index + found.field))
    weight = (distance > -found.scan.mm).float()
    return torch.einsum("idhw,dhw->i", found.field, weight) / weight.sum().clamp(min=1) * found.scan.mm
