"""Dense search for displacements: every displacement of a box is compared at every voxel, then coupled with a smooth field.

Coupled convex optimisation after Heinrich et al. (MICCAI 2014) and Siebert et al. (IEEE TMI 2024): the best displacement of each voxel is
drawn, in rounds of growing weight, towards the smoothed field of its neighbours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .fields import inverse_error, made_inverse, mean_of_cube, voxel_grid

_COUPLING = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Weight of the distance to the smoothed field in each round, in units of squared feature difference per squared voxel."""
_STILL = 0.01
"""Penalty of the longest displacements, as a share of the usual difference: in air all fit alike, and none shall be made there."""


def search(fixed: Tensor, moving: Tensor, known_fixed: Tensor, known_moving: Tensor, reach: int) -> Tensor:
    """The displacement field [3,D,H,W] from features to features.

    Args:
        fixed: features [C,D,H,W].
        moving: features on the same grid.
        known_fixed: [D,H,W], 1 where the features may be trusted, else 0: there neighbours decide.
        known_moving: the same of `moving`; displacements that lead elsewhere cost the average.
        reach: largest displacement along each axis, in voxels.
    """
    costs, displacements, _ = _differences(fixed, moving, known_fixed, known_moving, reach)
    return _coupled(costs, displacements)


def search_both_ways(fixed: Tensor, moving: Tensor, known_fixed: Tensor, known_moving: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """The field from `search` made consistent with that of the opposite direction, and how far in voxels [D,H,W] the two disagreed."""
    costs, displacements, far = _differences(fixed, moving, known_fixed, known_moving, reach)
    forwards = _coupled(costs, displacements)
    backwards = _coupled(_of_opposite_direction(costs, displacements, far), displacements)
    return made_inverse(forwards, backwards), inverse_error(forwards, backwards)


def _differences(fixed: Tensor, moving: Tensor, known_fixed: Tensor, known_moving: Tensor, reach: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean squared feature difference [N,D,H,W] for N displacements [N,3], and what it is [N] where nothing is known: the average one."""
    side = 2 * reach + 1
    wide, wide_known = F.pad(moving[None], (reach,) * 6, mode="replicate")[0], F.pad(known_moving, (reach,) * 6)
    depth, height, width = fixed.shape[1:]
    known = known_fixed * known_moving
    usual = (((fixed - moving) ** 2).mean(0) * known).sum() / known.sum().clamp(min=1)
    costs = torch.empty(side**3, depth, height, width, device=fixed.device)
    steps = torch.cartesian_prod(*[torch.arange(side)] * 3)
    unknown = usual * (1 + _STILL * ((steps - reach) ** 2).sum(1).to(usual) / reach**2)
    for number, (z, y, x) in enumerate(steps.tolist()):
        part = (slice(z, z + depth), slice(y, y + height), slice(x, x + width))
        difference = (fixed - wide[:, part[0], part[1], part[2]]).square_().mean(0)
        costs[number] = (difference - usual) * (known_fixed * wide_known[part]) + unknown[number]
    return costs, (steps - reach).to(fixed.device, torch.float32), unknown


def _of_opposite_direction(costs: Tensor, displacements: Tensor, unknown: Tensor) -> Tensor:
    """The costs [N,D,H,W] of displacements from the moving to the fixed features: those from where they lead, the other way round."""
    opposite = unknown.view(-1, 1, 1, 1).expand_as(costs).clone()
    for number, displacement in enumerate(displacements.int().tolist()):
        ends = list(zip(displacement, costs.shape[1:], strict=True))
        here = tuple(slice(max(-step, 0), max(size - max(step, 0), 0)) for step, size in ends)
        there = tuple(slice(max(step, 0), max(size + min(step, 0), 0)) for step, size in ends)
        opposite[len(costs) - 1 - number][there] = costs[number][here]
    return opposite


def _coupled(costs: Tensor, displacements: Tensor) -> Tensor:
    """The smooth field [3,D,H,W] that agrees with low costs."""
    lengths = (displacements**2).sum(1).view(-1, 1, 1, 1)
    field = mean_of_cube(displacements[costs.min(0).indices].permute(3, 0, 1, 2))
    for weight in _COUPLING:
        # |d - u|^2 without |u|^2, which is the same for all displacements.
        distance = lengths - 2 * torch.einsum("nc,cdhw->ndhw", displacements, field)
        best = torch.add(costs, distance, alpha=weight).min(0).indices  # faster than argmin on a CPU
        field = mean_of_cube(displacements[best].permute(3, 0, 1, 2))
    return field


def robust_affine(field: Tensor, weights: Tensor, *, kept: float = 0.6, rounds: int = 5, stiffness: float = 0.01) -> Tensor:
    """The field of the affine map that fits a field best, the least fitting voxels left out (least trimmed squares).

    Args:
        field: [3,D,H,W].
        weights: [D,H,W], how much each voxel counts.
        kept: share of the voxels that count in the end.
        rounds: of fitting and leaving out.
        stiffness: draws the linear part to zero, so that few or flat voxels cannot turn or stretch everything.
    """
    index = voxel_grid(field.shape[1:], field.device).flatten(1).double()
    weight, wanted = weights.flatten().double(), field.flatten(1).double()
    middle = (index * weight).sum(1, keepdim=True) / weight.sum().clamp(min=1e-9)
    design = torch.cat([index - middle, torch.ones_like(index[:1])])
    ridge = torch.diag(torch.tensor([(max(field.shape[1:]) / 2) ** 2] * 3 + [0.0], dtype=torch.float64, device=field.device)) * stiffness
    counted = weight
    fitted = wanted
    for _ in range(rounds):
        left = (design * counted) @ design.T + (ridge + 1e-9 * torch.eye(4, dtype=torch.float64, device=field.device)) * counted.sum()
        fitted = torch.linalg.solve(left, (design * counted) @ wanted.T).T @ design
        error = (wanted - fitted).norm(dim=0)
        counted = weight * (error <= error[weight > 0].kthvalue(max(1, int(kept * int((weight > 0).sum()))))[0])
    return fitted.float().view_as(field)
