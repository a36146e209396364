"""Fusion of alignment and network at a voxel where they disagree."""

from dataclasses import replace

import numpy as np
import pytest

from mass_core.alignment.fusion import fused
from mass_core.alignment.prior import Prior
from mass_core.volumes.boxes import Box

_VOXEL = Box((0, 0, 0), (1, 1, 1))
_OUTSIDE = Prior(
    box=_VOXEL,
    distance=np.full((1, 1, 1), -2, np.float32),
    trust=1.0,
    reason="",
    weights=(0.0, 1.0, 2.0, 1.0, 0.0),
    voxel_mm=3.0,
    reliability=1.0,
)
"""The alignment says: 2 mm outside the surface."""


def inside(prior, probability=0.9):
    """If the voxel belongs to the structure although alignment says it is outside."""
    return bool(fused(prior, _VOXEL, np.full((1, 1, 1), probability, np.float32)) >= 0.5)


def test_a_reliable_network_that_is_sure_decides():
    assert inside(_OUTSIDE) and not inside(_OUTSIDE, probability=0.7)


@pytest.mark.parametrize(
    "stronger",
    [{"voxel_mm": 2.0}, {"references": 2.0}, {"reliability": 0.5}],
    ids=["finer alignment", "two references", "doubtful network"],
)
def test_what_speaks_for_alignment_over_the_network(stronger):
    assert not inside(replace(_OUTSIDE, **stronger))


@pytest.mark.parametrize("weaker", [{"voxel_mm": 12.0}, {"trust": 0.1}], ids=["coarse alignment", "little trust"])
def test_what_leaves_the_voxel_to_the_network(weaker):
    assert inside(replace(_OUTSIDE, **weaker), probability=0.7)


def test_a_network_that_is_not_reliable_says_nothing():
    unknown = replace(_OUTSIDE, reliability=0.0)
    assert fused(unknown, _VOXEL, np.full((1, 1, 1), 0.99, np.float32)) == fused(unknown, _VOXEL, np.full((1, 1, 1), 0.01, np.float32))
