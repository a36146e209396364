"""Where aligned references put a structure in a target, and how far that may be trusted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..volumes.components import grown
from ..volumes.resample import grid_at, resample
from ..volumes.volume import Box, Geometry, Volume
from .align import Alignment
from .atlas import REACH_MM
from .fields import sample, voxel_grid

_SIMILARITY = 0.01
"""Feature difference at which a reference counts a quarter of one that fits perfectly (weights fall with its square)."""
_LEAST_SEEN = 0.05
"""Share of a structure that both scans must hold; with less, nothing speaks for the alignment."""


@dataclass(frozen=True, eq=False)
class Prior:
    """One structure in a target, by place and shape."""

    box: Box
    """Of the target's voxels; the structure is inside it, if it lies where the references show it."""
    distance: np.ndarray
    """Distance to the surface in mm, float32 [z,y,x] of the box, positive inside."""
    trust: float
    """How likely the structure overlaps its truth by half, from 0 to 1."""
    reason: str
    """What speaks against it; empty where it is trusted."""
    weights: tuple[float, float, float, float, float]
    """How it adds up with the network's probability (`alignment.fusion`)."""
    sureness: float = 1.0
    """Mean probability the network gives to as many voxels of the box as the structure has: near 0 where it does not see it."""


@dataclass(frozen=True)
class Evidence:
    """What tells how good an alignment is for one structure."""

    residual: float
    """Feature difference around all structures."""
    own_residual: float
    """The same around this one."""
    inverse_mm: float
    """Disagreement of the two directions around this one."""
    covered: float
    """Share of this one that lies inside both scans."""


def evidence(alignment: Alignment, value: int) -> Evidence:
    """What speaks for one structure of an alignment."""
    index = voxel_grid(alignment.field.shape[1:], alignment.field.device)
    distance = distance_at(alignment.atlas.distances[value], alignment.atlas.scan.points_mm(index + alignment.field))
    weight = (distance > -alignment.atlas.scan.mm).float()
    total = weight.sum().clamp(min=1e-3)
    known = alignment.known * weight
    seen = float(known.sum()) > _LEAST_SEEN * float(total)
    return Evidence(
        residual=alignment.residual if seen else 1.0,
        own_residual=float((alignment.difference * known).sum() / known.sum()) if seen else 1.0,
        inverse_mm=float((alignment.wrong_mm * weight).sum() / total),
        covered=float(known.sum() / total),
    )


def combined(
    alignments: Sequence[Alignment], value: int, target: Geometry, weights: tuple[float, float, float, float, float]
) -> Prior | None:
    """The structure's prior in a target.

    Several references are averaged, each voxel by how well they resemble the target there (locally weighted multi-atlas fusion).

    Args:
        alignments: of references that show the label.
        value: the label.
        target: grid of the target.
        weights: of the recipe (`Recipe.fusion`).

    Returns:
        None where the structure would lie outside the target altogether.
    """
    facts = [evidence(one, value) for one in alignments]
    trusts = [trust(some) for some in facts]
    box = _box(alignments, value, target)
    if box is None:
        return None
    mm = min(one.atlas.scan.mm for one in alignments)
    part = target.cropped(box)
    coarse = grid_at(part, tuple(max(own, mm / 2) for own in part.spacing_zyx), centred=True)  # type: ignore[arg-type]
    points = points_mm_of(coarse, alignments[0].field.device)
    total, counted = (torch.zeros(coarse.shape_zyx, device=points.device) for _ in range(2))
    for one, worth in zip(alignments, trusts, strict=True):
        index = one.in_box(points)
        difference = sample(one.difference[None], index)[0]
        weight = (worth + 1e-3) / (difference + _SIMILARITY) ** 2
        total += weight * distance_at(one.atlas.distances[value], one.reference_mm(points))
        counted += weight
    distance = resample(Volume((total / counted).cpu().numpy(), coarse), part, fill=None).array
    best = max(range(len(trusts)), key=trusts.__getitem__)
    return Prior(box, distance, trusts[best], _reason(facts[best], trusts[best]), weights)


def trust(facts: Evidence) -> float:
    """How likely an aligned structure overlaps its truth by half: a logistic function of the evidence, fitted on validation patients."""
    score = OFFSET + sum(weight * getattr(facts, name) for name, weight in WEIGHTS.items())
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, score))))


OFFSET = 0.32
WEIGHTS = {"residual": -37.1, "own_residual": -31.0, "covered": 4.7}
"""Testing/benchmarks/fit_alignment.py, 136 structures of validation patients in their own set and 38 where they do not belong (other body
parts), both halves counted alike. Inverse consistency added nothing."""
LEAST_TRUST = 0.5
"""Below it the alignment does not say where to look."""


def _reason(facts: Evidence, worth: float) -> str:
    """What speaks most against an alignment that is not trusted."""
    if worth >= LEAST_TRUST:
        return ""
    if facts.covered < 0.5:
        return "the reference's place of it lies outside the scan"
    return "the scan does not resemble the reference there"


def _box(alignments: Sequence[Alignment], value: int, target: Geometry) -> Box | None:
    """Voxels of the target in which some alignment sees the structure, half the known distance around."""
    corners = []
    for one in alignments:
        index = voxel_grid(one.field.shape[1:], one.field.device)
        distance = distance_at(one.atlas.distances[value], one.atlas.scan.points_mm(index + one.field))
        where = (distance > -REACH_MM / 2).nonzero()
        if len(where):
            ends = torch.stack([where.amin(0), where.amax(0)]).float()
            places = torch.cartesian_prod(ends[:, 0], ends[:, 1], ends[:, 2]).T
            corners.append(one.atlas.scan.points_mm(places) - one.shift[:, None])
    if not corners:
        return None
    to_index = np.linalg.inv(target.affine)
    points = torch.cat(corners, 1).cpu().numpy()[::-1]
    found = (to_index[:3, :3] @ points + to_index[:3, 3:])[::-1]
    start, stop = np.floor(found.min(1)).astype(int), np.ceil(found.max(1)).astype(int) + 1
    if (stop <= 0).any() or (start >= target.shape_zyx).any():
        return None
    (z0, y0, x0), (z1, y1, x1) = start.tolist(), stop.tolist()
    return grown(((z0, y0, x0), (z1, y1, x1)), (1, 1, 1), target.shape_zyx)


def points_mm_of(grid: Geometry, device: torch.device) -> Tensor:
    """Voxel centres [3,d,h,w] of a grid, z, y, x in LPS mm."""
    affine = torch.from_numpy(grid.affine[2::-1, [2, 1, 0, 3]].astype(np.float32)).to(device)
    index = voxel_grid(grid.shape_zyx, device)
    return torch.einsum("ij,jdhw->idhw", affine[:, :3], index) + affine[:, 3].view(3, 1, 1, 1)


def distance_at(volume: Volume, points_mm: Tensor) -> Tensor:
    """A distance map at points [3,d,h,w], z, y, x in LPS mm: as far as is known beyond its edge."""
    inverse = np.linalg.inv(volume.geometry.affine)[2::-1, [2, 1, 0, 3]].astype(np.float32)
    matrix = torch.from_numpy(inverse).to(points_mm.device)
    index = torch.einsum("ij,jdhw->idhw", matrix[:, :3], points_mm) + matrix[:, 3].view(3, 1, 1, 1)
    size = torch.tensor(volume.array.shape, dtype=torch.float32, device=points_mm.device).view(3, 1, 1, 1)
    places = ((2 * index + 1) / size - 1).flip(0).permute(1, 2, 3, 0)
    known = torch.from_numpy(volume.array).to(points_mm.device)[None, None] + REACH_MM
    return F.grid_sample(known, places[None], padding_mode="zeros", align_corners=False)[0, 0] - REACH_MM
