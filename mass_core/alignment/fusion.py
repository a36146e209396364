"""What the aligned references and the network say of a voxel, added up."""

import math

import numpy as np

from ..volumes.volume import Box, slices
from .prior import Prior

LEAST = 1e-3
"""Probabilities of the network count as at least this, and at most 1 minus this."""


def evidence_terms(distance_mm: np.ndarray, probability: np.ndarray, trust: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The terms that are weighted: trusted distance to the aligned surface, log odds of the network, and those odds as far as the alignment
    is not trusted.

    Args:
        distance_mm: positive inside, any shape.
        probability: of the network, of the same shape.
        trust: of the alignment, from 0 to 1.
    """
    odds = np.clip(probability, LEAST, 1 - LEAST)
    odds = np.log(odds / (1 - odds), dtype=np.float32)
    return trust * distance_mm, odds, (1 - trust) * odds


def fused(prior: Prior, box: Box, probability: np.ndarray, threshold: float) -> np.ndarray:
    """Probability float32 of a structure from both, such that it reaches the threshold where the structure is likelier than not.

    Args:
        prior: where the alignment puts it, and how both are weighted.
        box: of the target's voxels, inside the prior's.
        probability: the network's in this box.
        threshold: of the network's probability.
    """
    distance = prior.distance[slices(_within(box, prior.box))]
    terms = evidence_terms(distance, probability, prior.trust)
    total = (
        math.log(threshold / (1 - threshold)) + prior.weights[0] + sum(w * term for w, term in zip(prior.weights[1:], terms, strict=True))
    )
    return np.asarray(1 / (1 + np.exp(-np.clip(total, -30, 30))), np.float32)


def _within(box: Box, outer: Box) -> Box:
    """A box counted from the first voxel of another one."""
    (z, y, x), _ = outer
    (z0, y0, x0), (z1, y1, x1) = box
    return (z0 - z, y0 - y, x0 - x), (z1 - z, y1 - y, x1 - x)
