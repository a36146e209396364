"""Alignment of one reference with a target: shift, then affine, then a smooth displacement of every voxel.

From coarse to fine: candidates for the shift from cross-correlation, each judged by a dense search with a robust affine map in between;
the best one is searched again at half the voxel size and refined below the voxel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Modality, Recipe
from ..volumes.resample import resample
from ..volumes.volume import Geometry, Volume
from .atlas import Atlas, coarse_mm, intensity_limits, modality_of
from .discrete import robust_affine, search, search_both_ways
from .features import mind
from .fields import composed, mostly, pooled, resized, sample, smoothed, voxel_grid
from .intensities import with_intensities
from .refine import refined
from .scan import AlignedScan, aligned_scan, around, averaged, intensities, lattice
from .start import shifts
from .warp import Warp

_TRIES = 3
"""Shifts from correlation that are carried through the coarse search."""
_FAR_BETTER = 0.75
"""Share of the score as stored below which a mirrored target fits far better. Of scans turned upside down, two of three of head and neck,
three hippocampi and five of six random bodies reached 0.23 to 0.68; the other two, and an abdomen, 0.83 to 0.94: they do not fit well as
stored either, and are not recognised. Scans as they should be reached 0.93 and more."""
_FINE_MARGIN_MM = 20.0
"""Of the box around the structures that is refined."""
_COARSE, _MIDDLE = 4, 2
"""Voxels averaged at the two levels of the search."""


class Target:
    """A scan that references are aligned with; what several of them need is made once."""

    def __init__(self, volume: Volume, recipe: Recipe, device: torch.device) -> None:
        self.volume, self.device, self._recipe = volume, device, recipe
        self.modality: Modality = modality_of(volume, recipe)
        self._limits = intensity_limits(volume, self.modality, recipe)
        self._averaged: dict[float, Volume] = {}
        self._whole: dict[float, AlignedScan] = {}

    def with_volume(self, volume: Volume) -> "Target":
        """Another scan, to be aligned in the same way."""
        return Target(volume, self._recipe, self.device)

    def whole(self, mm: float) -> AlignedScan:
        """The whole scan on voxels of that edge."""
        if mm not in self._whole:
            self._whole[mm] = aligned_scan(self._coarser(mm), lattice(self.volume.geometry, mm), self._limits, self.device)
        return self._whole[mm]

    def under(self, grid: Geometry, shift: Tensor) -> AlignedScan:
        """The part of the target under a lattice of a reference after a shift, on that lattice."""
        return aligned_scan(self._coarser(grid.spacing_xyz[0]), _shifted(grid, shift), self._limits, self.device)

    def closely_under(self, grid: Geometry, shift: Tensor) -> AlignedScan | None:
        """The same for a small lattice of its own voxel size: only that part of the target is averaged. None where they do not meet."""
        place = _shifted(grid, shift)
        part = around(self.volume, place)
        return None if part is None else aligned_scan(averaged(part, grid.spacing_xyz[0]), place, self._limits, self.device)

    def intensities(self, grid: Geometry) -> tuple[Tensor, Tensor]:
        """Intensities and usable voxels [D,H,W] on a grid that lies at least partly in the scan."""
        part = around(self.volume, grid) or self.volume
        return intensities(resample(part, grid, average=True, fill=None), grid, self._limits, self.device)

    def _coarser(self, mm: float) -> Volume:
        if mm not in self._averaged:
            self._averaged[mm] = averaged(self.volume, mm)
        return self._averaged[mm]


def _shifted(grid: Geometry, shift: Tensor) -> Geometry:
    """A lattice of the reference, moved to its place in the target."""
    x, y, z = (np.asarray(grid.origin_xyz) - shift.cpu().numpy()[::-1]).tolist()
    return replace(grid, origin_xyz=(x, y, z))


@dataclass(frozen=True, eq=False)
class Alignment(Warp):
    """Alignment of a whole reference, with evidence of its quality."""

    atlas: Atlas
    known: Tensor
    """[D,H,W] from 0 to 1: both scans are there."""
    wrong_mm: Tensor
    """[D,H,W] how far a point ends from itself after going to the reference and back, by the coarse search."""
    residual: float
    """Mean feature difference where the structures are."""
    fixed: Tensor
    """[12,D,H,W] features of the target."""
    moved: Tensor
    """[12,D,H,W] features of the reference, carried over."""
    score: float
    """Feature difference around the structures and all over after the coarse search; the lower the better."""


def align(atlas: Atlas, target: Target, check: Callable[[], None] = lambda: None) -> Alignment:
    """Align a reference with a target.

    Args:
        atlas: the reference.
        target: the scan.
        check: called between parts of the work; may raise to stop it.
    """
    return _finished(atlas, _best_start(atlas, target, check), check)


def mirrored_axis(found: Alignment, target: Target, check: Callable[[], None] = lambda: None) -> str | None:
    """The axis of the patient along which a target fits far better mirrored than it does as stored; None where there is none.

    A body that is nearly symmetric fits both ways, so exchanged left and right are seen where organs differ, as in the abdomen.

    Args:
        found: the alignment with the target as stored.
        target: the scan.
        check: called between parts of the work; may raise to stop it.
    """
    scores = {
        name: _best_start(found.atlas, target.with_volume(mirrored(target.volume, axis)), check).score
        for axis, name in enumerate(("left to right", "front to back", "head to feet"))
    }
    best = min(scores, key=lambda name: scores[name])
    return best if scores[best] < _FAR_BETTER * found.score else None


def mirrored(volume: Volume, axis: int) -> Volume:
    """A scan whose voxels are in reverse order along the axis closest to the patient's x, y or z; the grid stays."""
    voxel_axis = int(np.abs(volume.geometry.affine[axis, :3] / np.asarray(volume.geometry.spacing_xyz)).argmax())
    return Volume(np.ascontiguousarray(np.flip(volume.array, 2 - voxel_axis)), volume.geometry, volume.modality)


def _best_start(atlas: Atlas, target: Target, check: Callable[[], None]) -> "_Try":
    """The candidate for the shift that fits best after the coarse search."""
    tries = []
    for shift in candidate_shifts(atlas, target):
        check()
        tries.append(_coarse(atlas, target.under(atlas.grid, shift), shift))
    check()
    return min(tries, key=lambda one: one.score)


def candidate_shifts(atlas: Atlas, target: Target) -> list[Tensor]:
    """Candidates for the shift: by intensities where they mean the same, by edges and outline where they may not, and the middles of both
    scans on each other. Of two that differ by less than half a voxel of the coarse search only the first is kept."""
    mm = max(coarse_mm(target.volume.geometry), coarse_mm(atlas.coarse.geometry))
    whole = target.whole(mm)
    reference = aligned_scan(averaged(atlas.coarse, mm), lattice(atlas.coarse.geometry, mm), atlas.limits, target.device)
    if atlas.modality == target.modality == "ct":
        found = shifts(whole, reference, alike=True, count=_TRIES)
    else:
        found = shifts(whole, reference, alike=False, count=_TRIES - 1)
        found += shifts(whole, reference, alike=True, count=_TRIES - 1) if atlas.modality == target.modality else []
    middles = [np.mean(volume.geometry.box_mm, axis=0)[::-1] for volume in (atlas.coarse, target.volume)]
    found.append(torch.from_numpy(np.subtract(*middles).astype(np.float32)).to(target.device))
    apart: list[Tensor] = []
    for shift in found:
        if all(float((shift - other).abs().max()) >= _COARSE * atlas.scan.mm / 2 for other in apart):
            apart.append(shift)
    return apart


@dataclass(frozen=True, eq=False)
class _Try:
    """One shift after the coarse search."""

    shift: Tensor
    under: AlignedScan
    """The target on the reference's box."""
    features: Tensor
    """Of the target."""
    field: Tensor
    """Coarse, in coarse voxels."""
    wrong: Tensor
    """[d,h,w] disagreement of both directions, coarse voxels."""
    score: float
    """Feature difference around the structures and all over; the lower the better."""


def _coarse(atlas: Atlas, under: AlignedScan, shift: Tensor) -> _Try:
    """Search, fit an affine map robustly, and search again from there."""
    features, known = mind(under.values), under.usable.float()
    fixed, moving = pooled(features, _COARSE), pooled(atlas.features, _COARSE)
    there, here = mostly(known, _COARSE), mostly(atlas.scan.usable.float(), _COARSE)
    near = pooled(atlas.near[None], _COARSE)
    field, wrong = search_both_ways(fixed, moving, there, here, reach=3)
    affine = robust_affine(field, there * torch.exp(-wrong / 2) + 1e-6)
    moved = sample(torch.cat([moving, here[None], near]), voxel_grid(affine.shape[1:], affine.device) + affine)
    field, wrong = search_both_ways(fixed, moved[:-2], there, (moved[-2] > 0.5).float(), reach=2)
    field = composed(affine, field)
    moved = sample(torch.cat([moving, near]), voxel_grid(field.shape[1:], field.device) + field)
    difference, structure = ((fixed - moved[:-1]) ** 2).mean(0), moved[-1]
    inside = structure * there
    covered = float(inside.sum() / structure.sum().clamp(min=1e-3))
    score = _mean(difference, inside) + _mean(difference, there) + 0.1 * (1 - covered)
    return _Try(shift, under, features, field, wrong, score)


def _finished(atlas: Atlas, best: _Try, check: Callable[[], None]) -> Alignment:
    """The finer levels around the structures, and evidence of the result's quality."""
    part = _part_to_refine(atlas, best.field)
    scan, under = atlas.scan.cropped(part), best.under.cropped(part)
    places = (..., *part)
    features, target_features, coarse = atlas.features[places], best.features[places], resized(best.field, atlas.near.shape)[places]
    here, there = scan.usable.float(), under.usable.float()
    finest = with_intensities((target_features, features), (under, scan), coarse)
    fixed, moving = (pooled(level, _MIDDLE) for level in finest)
    known_there, known_here = mostly(there, _MIDDLE), mostly(here, _MIDDLE)
    field = resized(coarse, fixed.shape[1:])
    moved = sample(torch.cat([moving, known_here[None]]), voxel_grid(field.shape[1:], field.device) + field)
    field = composed(field, search(fixed, moved[:-1], known_there, (moved[-1] > 0.5).float(), reach=2))
    check()
    field = refined(fixed, moving, known_there, known_here, field, steps=12)
    check()
    field = refined(*finest, there, here, resized(field, there.shape), steps=4)
    moved = sample(torch.cat([features, atlas.near[part][None], here[None]]), voxel_grid(field.shape[1:], field.device) + field)
    difference, structure = ((target_features - moved[:-2]) ** 2).mean(0), moved[-2]
    wrong = F.interpolate(best.wrong[None, None], size=atlas.near.shape, mode="trilinear", align_corners=False)[0, 0][part]
    return Alignment(
        scan=scan,
        atlas=atlas,
        shift=best.shift,
        field=field,
        difference=smoothed(difference[None], 4)[0],
        known=there * moved[-1],
        wrong_mm=wrong * (_COARSE * atlas.scan.mm),
        residual=_mean(difference, structure * there * moved[-1]),
        fixed=target_features,
        moved=moved[:-2],
        score=best.score,
    )


def _part_to_refine(atlas: Atlas, field: Tensor) -> tuple[slice, slice, slice]:
    """Voxels around the structures, where the reference shows them and where the coarse field [3,d,h,w] brings them; all voxels where
    they are too thin to hold any."""
    near = pooled(atlas.near[None], _COARSE)
    brought = sample(near, voxel_grid(field.shape[1:], field.device) + field)
    where = ((near + brought)[0] > 0).nonzero()
    if not len(where):
        return slice(0, None), slice(0, None), slice(0, None)
    margin = math.ceil(_FINE_MARGIN_MM / (_COARSE * atlas.scan.mm))
    low, high = (where.amin(0) - margin).clamp(min=0) * _COARSE, (where.amax(0) + margin + 1) * _COARSE
    z, y, x = (slice(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True))
    return z, y, x


def _mean(values: Tensor, weights: Tensor) -> float:
    return float((values * weights).sum() / weights.sum().clamp(min=1e-3))
