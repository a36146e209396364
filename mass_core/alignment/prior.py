"""Prior of a structure in a target, from all references aligned with it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import Triple
from ..volumes.boxes import Box
from ..volumes.resample import grid_at, resample
from ..volumes.volume import Geometry, Volume
from .align import Alignment, Target
from .atlas import REACH_MM, distance_at, places_in
from .beyond import Cut, beyond, cuts, extended
from .closeup import refined_around
from .contrast import with_contrast
from .fields import sample, voxel_grid
from .intensities import has_vanished
from .patches import with_patches
from .trust import LEAST_TRUST, doubt, evidence, trust
from .warp import Warp

_SIMILARITY = 0.01
"""Feature difference at which a reference counts a quarter of one that fits perfectly (weights fall with its square)."""
_BEYOND = 1e-6
"""Weight of a reference beyond the end of its scan beside others: it does not show if the structure goes on there."""
_VANISHED = "it stands out in the reference but not at that position of the scan, so it may lie elsewhere, as lesions do, or be absent"
_DEEP = 2.0
"""Voxels of the alignment from the surface to the middle of a structure; an alignment that is a little off may miss a thinner one."""
_RELIABLE = 0.5
"""Reliability above which the network continues a structure that the references' scans cut off."""


@dataclass(frozen=True, eq=False)
class Prior:
    """One structure in a target, by place and shape."""

    box: Box
    """Of the target's voxels; the structure is inside it, if it lies where the references show it."""
    distance: np.ndarray
    """Distance to the surface in mm, float32 [z,y,x] of the box, positive inside; 0 where it is unknown because every reference's scan has
    ended before the structure did."""
    trust: float
    """Estimated chance, 0 to 1, that the structure overlaps its truth by half."""
    reason: str
    """Reason against it; empty where it is trusted."""
    weights: tuple[float, float, float, float, float]
    """Weights of the sum with the network's probability (`alignment.fusion`)."""
    voxel_mm: float
    """Edge of the alignment's voxels: about how far it may be off."""
    references: float = 1.0
    """Number of references, each counted as it is trusted beside the best one."""
    reliability: float = 1.0
    """Of the network for this structure (`alignment.fusion.reliability`)."""
    beyond: float = 0.0
    """Share of the box where the target goes on beyond the end of references' scans that cut the structure off."""

    @property
    def continued(self) -> bool:
        """If the network alone continues the structure beyond the end of the references' scans: where it is reliable."""
        return self.beyond > 0 and self.reliability > _RELIABLE

    def unknown(self, distance: np.ndarray) -> np.ndarray:
        """Mask of the voxels beyond the end of the references' scans, from the prior's distance there."""
        return (distance == 0) & (self.beyond > 0)


def combined(
    alignments: Sequence[Alignment], value: int, target: Target, weights: tuple[float, float, float, float, float]
) -> Prior | None:
    """The structure's prior in a target.

    Alignments that are trusted are first refined around the structure, and patches decide where its surface lies to the voxel. Several
    references are averaged, each voxel by how well they resemble the target there (locally weighted multi-atlas fusion). Distances count
    up to a voxel in the average, so that one reference far off does not outweigh several that agree; what lies deeper inside or further
    outside on average keeps that distance.

    Args:
        alignments: of references that show the label.
        value: the label.
        target: the scan they were aligned with.
        weights: of the recipe (`Recipe.fusion`).

    Returns:
        None where the structure would lie outside the target altogether.
    """
    facts = [evidence(one, value) for one in alignments]
    trusts = [trust(some) for some in facts]
    sources = [_Source.of(one, value, worth, target) for one, worth in zip(alignments, trusts, strict=True)]
    geometry = target.volume.geometry
    box = _box(sources, geometry)
    if box is None:
        return None
    part = geometry.cropped(box)
    mm, off = min(one.warp.scan.mm for one in sources), max(one.scan.mm for one in alignments)
    coarse = grid_at(part, tuple(max(own, mm / 2) for own in part.spacing_zyx), centred=True)  # type: ignore[arg-type]
    seen = target.intensities(coarse)
    mean, unknown, vanished = _averaged(sources, points_mm_of(coarse, target.device), seen, coarse.spacing_zyx, mm)
    values, usable = (some.cpu().numpy() for some in seen)
    carried = with_contrast(mean.cpu().numpy(), values, usable > 0.5, coarse.spacing_zyx, off)
    carried[unknown.cpu().numpy()] = 0
    distance = resample(Volume(carried, coarse), part, fill=None).array
    best = max(range(len(trusts)), key=trusts.__getitem__)
    if vanished and max(float(one.distance.array.max()) for one in sources) >= min(_DEEP * off, REACH_MM - 0.1):
        return Prior(box, distance, 0.0, _VANISHED, weights, off)
    count, ended = sum(trusts) / max(trusts), float(unknown.float().mean())
    return Prior(box, distance, trusts[best], doubt(facts[best], trusts[best]), weights, off, count, beyond=ended)


@dataclass(frozen=True, eq=False)
class _Source:
    """One structure of one aligned reference."""

    warp: Warp
    """The alignment, refined around the structure if it is trusted."""
    distance: Volume
    """To the surface, in the reference."""
    trust: float
    scan: Geometry
    """All of the reference."""
    cuts: Sequence[Cut]
    """Borders of the reference that cut the structure off."""

    @classmethod
    def of(cls, alignment: Alignment, value: int, worth: float, target: Target) -> "_Source":
        """The structure `value` of an alignment that is worth that much trust."""
        distance, scan = alignment.atlas.distances[value], alignment.atlas.coarse.geometry
        warp = refined_around(alignment, value, target) if worth >= LEAST_TRUST else alignment
        return cls(warp, distance, worth, scan, cuts(distance, scan))


def _averaged(
    sources: Sequence[_Source], points: Tensor, seen: tuple[Tensor, Tensor], spacing: Triple, mm: float
) -> tuple[Tensor, Tensor, bool]:
    """Average distance [d,h,w] to the surface at points of the target; where it is unknown; and if the structure has vanished there.

    `seen` are the target's intensities at these points, and which are usable.
    """
    total, near, counted = (torch.zeros(points.shape[1:], device=points.device) for _ in range(3))
    unknown, vanished = torch.ones(points.shape[1:], dtype=torch.bool, device=points.device), []
    for one in sources:
        places = one.warp.reference_mm(points)
        difference = sample(one.warp.difference[None], one.warp.in_box(points))[0]
        weight = (one.trust + 1e-3) / (difference + _SIMILARITY) ** 2
        in_scan = places_in(one.scan, places)
        weight[((in_scan < 0) | (in_scan > 1)).any(0)] *= _BEYOND
        unknown &= beyond(one.cuts, in_scan)
        distance_mm, vanishes = _carried_over(one.warp, one.distance, places, spacing, seen, mm)
        if one.trust >= LEAST_TRUST:
            vanished.append(vanishes)
        total += weight * distance_mm
        near += weight * distance_mm.clamp(-mm, mm)
        counted += weight
    mean = total / counted
    return near / counted + mean - mean.clamp(-mm, mm), unknown, bool(vanished) and all(vanished)


def _carried_over(
    warp: Warp, map_mm: Volume, places: Tensor, spacing: Triple, seen: tuple[Tensor, Tensor], mm: float
) -> tuple[Tensor, bool]:
    """Distance to the surface at some places of a reference, by patches; and if what stands out there is not seen in the target.

    Args:
        warp: from the target to the reference.
        map_mm: distances in the reference.
        places: in the reference.
        spacing: of the target's points.
        seen: intensities of the target at the matching points, and which are usable.
        mm: voxel size of the alignment.
    """
    moved, there = sample(torch.stack([warp.scan.values, warp.scan.usable.float()]), warp.scan.index(places))
    known, distance = seen[1] * (there > 0.5).float(), distance_at(map_mm, places)
    vanished = has_vanished(distance, seen[0], moved, known, 2 * mm)
    return with_patches(distance, seen[0], moved, known, spacing, mm), vanished


def _box(sources: Sequence[_Source], target: Geometry) -> Box | None:
    """Voxels of the target in which some reference sees the structure, half the known distance around; up to the target's end where all
    references cut it off."""
    corners = []
    for one in sources:
        warp = one.warp
        index = voxel_grid(warp.field.shape[1:], warp.field.device)
        distance = distance_at(one.distance, warp.scan.points_mm(index + warp.field))
        where = (distance > -REACH_MM / 2).nonzero()
        if len(where):
            ends = torch.stack([where.amin(0), where.amax(0)]).float()
            places = torch.cartesian_prod(ends[:, 0], ends[:, 1], ends[:, 2]).T
            corners.append(warp.scan.points_mm(places) - warp.shift[:, None])
    if not corners:
        return None
    to_index = np.linalg.inv(target.affine)
    points = torch.cat(corners, 1).cpu().numpy()[::-1]
    found = (to_index[:3, :3] @ points + to_index[:3, 3:])[::-1]
    start, stop = np.floor(found.min(1)).astype(int), np.ceil(found.max(1)).astype(int) + 1
    if (stop <= 0).any() or (start >= target.shape_zyx).any():
        return None
    box = Box.of(start, stop).grown((1, 1, 1), target.shape_zyx)
    for one in sources if all(one.cuts for one in sources) else []:
        box = extended(box, one.scan, one.cuts, target)
    return box


def points_mm_of(grid: Geometry, device: torch.device) -> Tensor:
    """Voxel centres [3,d,h,w] of a grid, z, y, x in LPS mm."""
    affine = torch.from_numpy(grid.affine[2::-1, [2, 1, 0, 3]].astype(np.float32)).to(device)
    index = voxel_grid(grid.shape_zyx, device)
    return torch.einsum("ij,jdhw->idhw", affine[:, :3], index) + affine[:, 3].view(3, 1, 1, 1)
