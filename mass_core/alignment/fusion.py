"""Fusion of alignment prior and network probability, voxel by voxel."""

import numpy as np

from ..volumes.boxes import Box
from .prior import Prior

LEAST = 1e-3
"""Probabilities of the network count as at least this, and at most 1 minus this."""


def evidence_terms(prior: Prior, distance_mm: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, ...]:
    """The four terms that are weighted: the trusted distance to the aligned surface and the network's log odds, each once as far as the
    network is reliable for this structure, and once as far as it is not.

    Args:
        prior: for trust and reliability.
        distance_mm: of the prior for some voxels, positive inside.
        probability: of the network for the same.
    """
    odds = np.clip(probability, LEAST, 1 - LEAST)
    odds = np.log(odds / (1 - odds), dtype=np.float32)
    trusted = np.float32(prior.trust) * distance_mm
    return prior.reliability * trusted, (1 - prior.reliability) * trusted, prior.reliability * odds, (1 - prior.reliability) * odds


def fused(prior: Prior, box: Box, probability: np.ndarray) -> np.ndarray:
    """Probability float32 of a structure from both; it reaches the threshold the weights record where the structure is likelier than not.

    Args:
        prior: where the alignment puts it, and how both are weighted.
        box: of the target's voxels, inside the prior's.
        probability: the network's in this box.
    """
    terms = evidence_terms(prior, prior.distance[box.seen_from(prior.box.low).slices()], probability)
    score = np.full(probability.shape, prior.weights[0], np.float32)
    for weight, term in zip(prior.weights[1:], terms, strict=True):
        score += weight * term
    return np.asarray(1 / (1 + np.exp(-np.clip(score, -30, 30))), np.float32)
