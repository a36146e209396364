"""Fusion of alignment prior and network probability, voxel by voxel."""

import math
from dataclasses import asdict, dataclass

import numpy as np

from ..volumes.boxes import Box
from .prior import Prior

LEAST = 1e-3
"""Probabilities of the network count as at least this, and at most 1 minus this."""
_VOXEL_MM = 3.0
"""Recorded weights are per mm of an alignment on voxels of this size; distances of coarser ones count less, as they may be off by more."""


@dataclass(frozen=True)
class NetworkEvidence:
    """Evidence of how well the network finds one structure in a target, each from 0 to 1."""

    self_dice: float
    """Dice of what it finds in the reference itself."""
    sureness: float
    """Mean probability of as many voxels as the structure has, the most probable ones where alignment puts it."""
    agreement: float
    """Dice of its mask and the aligned one."""


def reliability(facts: NetworkEvidence) -> float:
    """Estimated Dice of the network's mask: a logistic function of the evidence."""
    score = OFFSET + sum(WEIGHTS[name] * value for name, value in asdict(facts).items())
    return 1 / (1 + math.exp(-score))


OFFSET = -3.776
WEIGHTS = {"self_dice": 0.715, "sureness": 1.651, "agreement": 4.019}
"""Fitted on 153 structures of validation patients and random bodies, each set counted alike, with the bundled weights: correlation with the
true Dice 0.96, mean error 0.06; on 20 others 0.09. The form is that of `Testing.benchmarks.fit_alignment`."""


def evidence_terms(prior: Prior, distance_mm: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, ...]:
    """The four terms that are weighted: the trusted distance to the aligned surface and the network's log odds, each once as far as the
    network is reliable for this structure, and once as far as it is not.

    What several references say adds up, as log odds of independent observers do. Trust counts by its square root: by itself it left too
    little of an alignment that is only just trusted where the network sees nothing. Distances count in voxels of the alignment.

    Args:
        prior: for trust, the alignment's voxels, the number of references and the reliability of the network.
        distance_mm: of the prior for some voxels, positive inside.
        probability: of the network for the same.
    """
    odds = np.clip(probability, LEAST, 1 - LEAST)
    odds = np.log(odds / (1 - odds), dtype=np.float32)
    trusted = np.float32(math.sqrt(prior.trust) * prior.references * _VOXEL_MM / prior.voxel_mm) * distance_mm
    return prior.reliability * trusted, (1 - prior.reliability) * trusted, prior.reliability * odds, (1 - prior.reliability) * odds


def fused(prior: Prior, box: Box, probability: np.ndarray) -> np.ndarray:
    """Probability float32 of a structure from both; it reaches the threshold the weights record where the structure is likelier than not.

    Where the references' scans have ended before the structure did, the network alone decides if it is reliable.

    Args:
        prior: where the alignment puts it, and how both are weighted.
        box: of the target's voxels, inside the prior's.
        probability: the network's in this box.
    """
    distance = prior.distance[box.seen_from(prior.box.low).slices()]
    terms = evidence_terms(prior, distance, probability)
    score = np.full(probability.shape, prior.weights[0], np.float32)
    for weight, term in zip(prior.weights[1:], terms, strict=True):
        score += weight * term
    both = np.asarray(1 / (1 + np.exp(-np.clip(score, -30, 30))), np.float32)
    return np.where(prior.unknown(distance), probability * np.float32(prior.continued), both)
