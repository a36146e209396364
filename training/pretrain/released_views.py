"""Views as the released code draws them: two crops that overlap, the reference changed less than the target."""

from dataclasses import replace

import numpy as np

from mass_core.augmentation.appearance import AppearanceConfig
from mass_core.augmentation.poses import Vector

from .config import EpisodeConfig

WEAK = AppearanceConfig(multiply=(0.9, 1.1), add=0.1, gamma=(0.8, 1.2), contrast=(0.8, 1.2), blur_voxels=(0.8, 1.2), noise=0.02)
"""Intensity changes of reference views."""


def weak(config: EpisodeConfig) -> EpisodeConfig:
    """Poses of reference views, which turn and scale in half of the cases and are never sheared."""
    return replace(config, affine_probability=0.5, shear=0.0)


def overlapping(rng: np.random.Generator, extent_mm: Vector, spacing_mm: float, window: int, overlap: float) -> tuple[Vector, Vector]:
    """Centres [3] of two views laid as the released code lays them, see `EpisodeConfig.overlap`; in the middle where a scan is too small.

    Args:
        rng: the episode's own generator.
        extent_mm: [3], of the scan.
        spacing_mm: voxel size of the views.
        window: edge of the views in voxels.
        overlap: share of the wider crops both have in common.
    """
    crop = np.minimum((window + 40) * spacing_mm, extent_mm)
    low, high = crop / 2, extent_mm - crop / 2
    first = rng.uniform(low, high)
    shift = (1 - overlap) * crop
    second = rng.uniform(np.maximum(low, first - shift), np.minimum(high, first + shift))
    return first, second
