"""Refinement of a displacement field below the voxel: Gauss-Newton steps on feature differences, each followed by smoothing."""

import torch
from torch import Tensor

from .fields import length, sample, smoothed, voxel_grid

_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def refined(
    fixed: Tensor, moving: Tensor, known_fixed: Tensor, known_moving: Tensor, field: Tensor, *, steps: int, smoothing: int = 3
) -> Tensor:
    """A better fitting field.

    Args:
        fixed: features [C,D,H,W].
        moving: features on the same grid.
        known_fixed: [D,H,W], 1 where the features may be trusted, else 0.
        known_moving: the same of `moving`.
        field: [3,D,H,W] to begin with.
        steps: of the optimisation.
        smoothing: passes of `smoothed` after every step.
    """
    grid, both = voxel_grid(field.shape[1:], field.device), torch.cat([moving, known_moving[None]])
    for _ in range(steps):
        moved = sample(both, grid + field)
        step = _step(fixed, moved[:-1], moved[-1] * known_fixed)
        field = smoothed(field + step, smoothing)
    return field


def _step(fixed: Tensor, moved: Tensor, weight: Tensor) -> Tensor:
    """The damped Gauss-Newton step [3,D,H,W] of every voxel with its neighbours, at most a voxel long."""
    products = torch.zeros(9, *weight.shape, device=weight.device)
    for one, other in zip(moved, fixed, strict=True):  # channel by channel: what is added up stays in the processor's cache
        slopes = torch.gradient(one)
        for product, (a, b) in zip(products, _PAIRS, strict=False):
            product.addcmul_(slopes[a], slopes[b])
        for product, slope in zip(products[len(_PAIRS) :], slopes, strict=True):
            product.addcmul_(slope, other - one)
    xx, xy, xz, yy, yz, zz, *right = smoothed(products * weight, 1)
    trace = xx + yy + zz
    damping = 0.05 * trace.mean() + 0.02 * trace + 1e-9
    xx, yy, zz = xx + damping, yy + damping, zz + damping
    # The inverse of a symmetric 3x3 matrix, for all voxels at once.
    first = (yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy)
    second = (xx * zz - xz * xz, xy * xz - xx * yz)
    third = xx * yy - xy * xy
    determinant = xx * first[0] + xy * first[1] + xz * first[2]
    rows = (first, (first[1], *second), (first[2], second[1], third))
    step = torch.stack([sum(a * b for a, b in zip(row, right, strict=True)) for row in rows]) / determinant
    return step / length(step).clamp(min=1)
