"""Trust in an alignment, structure by structure: the estimated chance that the aligned structure overlaps its truth by half."""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .align import Alignment
from .atlas import REACH_MM, distance_at
from .fields import voxel_grid

_LEAST_SEEN = 0.05
"""Share of a structure that both scans must hold; with less, there is no evidence for the alignment."""
_FEWEST = 20
"""Least number of voxels around a structure for an estimate."""
OFFSET = 4.61
WEIGHTS = {"residual": -32.5, "relative_residual": -6.97, "inverse_share": -4.6, "covered": 3.19}
"""Fitted on 189 structures of validation patients and random bodies, each in its own set, and 157 where they do not belong (other bodies,
other body parts), which count a third as much: a target shows the structure more often than not. The form is that of
`Testing.benchmarks.fit_alignment`; scans of chest and brain without labels were among those where nothing belongs."""
OUTSIDE = "its aligned position lies outside the scan"
LEAST_TRUST = 0.25
"""Below it the alignment does not say where to look."""


@dataclass(frozen=True)
class Evidence:
    """Evidence of how good an alignment is for one structure."""

    residual: float
    """Feature difference around all structures."""
    relative_residual: float
    """The same around this one, as a share of what it would be between voxels paired by chance: noise and contrast cancel out."""
    inverse_share: float
    """Disagreement of the two directions around this one, as a share of its size (cube root of its volume)."""
    covered: float
    """Share of this one that lies inside both scans."""


def evidence(alignment: Alignment, value: int) -> Evidence:
    """Evidence for one structure of an alignment."""
    index = voxel_grid(alignment.field.shape[1:], alignment.field.device)
    map_mm = alignment.atlas.distances[value]
    distance = distance_at(map_mm, alignment.scan.points_mm(index + alignment.field))
    weight = (distance > -alignment.scan.mm).float()
    total = weight.sum().clamp(min=1e-3)
    known = alignment.known * weight
    seen = float(known.sum()) > _LEAST_SEEN * float(total)
    size = float(np.count_nonzero(map_mm.array > 0) * np.prod(map_mm.geometry.spacing_zyx)) ** (1 / 3)
    return Evidence(
        residual=alignment.residual if seen else 1.0,
        relative_residual=_relative_residual(alignment, (distance > 1 - REACH_MM) & (alignment.known > 0.5)) if seen else 1.0,
        inverse_share=float((alignment.wrong_mm * weight).sum() / total) / max(size, alignment.scan.mm),
        covered=float(known.sum() / total),
    )


def _relative_residual(alignment: Alignment, where: Tensor) -> float:
    """Feature difference of some voxels by the mean one of all their pairs."""
    fixed, moved = alignment.fixed[:, where], alignment.moved[:, where]
    if fixed.shape[1] < _FEWEST:
        return 1.0
    by_chance = (fixed**2).mean() + (moved**2).mean() - 2 * (fixed.mean(1) * moved.mean(1)).mean()
    return float(((fixed - moved) ** 2).mean() / by_chance.clamp(min=1e-6))


def trust(facts: Evidence) -> float:
    """Estimated chance that an aligned structure overlaps its truth by half: a logistic function of the evidence."""
    score = OFFSET + sum(weight * getattr(facts, name) for name, weight in WEIGHTS.items())
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, score))))


def doubt(facts: Evidence, worth: float) -> str:
    """Main reason against an alignment that is not trusted."""
    if worth >= LEAST_TRUST:
        return ""
    if facts.covered < 0.5:
        return OUTSIDE
    return "the scan does not resemble the reference there and may not show the structure"
