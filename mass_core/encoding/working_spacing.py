"""The working spacing of a structure, from its extent and thickness in the reference."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ..config import Recipe, Triple
from ..volumes.boxes import Box
from ..volumes.resample import orient
from ..volumes.volume import Geometry, Volume

LADDER = 1.15
"""Ratio between neighbouring working spacings; labels whose spacings fall on one rung share their windows."""
_THICKNESS_VOXELS = 4_000_000
"""Voxels from which a structure's thickness is measured on every second (third, ...) voxel only."""


def common_spacing(spacings: Sequence[Triple]) -> Triple:
    """The one spacing for a label seen in several references: the middle one (of two middle ones the finer)."""
    return sorted(spacings)[(len(spacings) - 1) // 2]


def working_spacing(image: Geometry, labels: Volume, value: int, box: Box, recipe: Recipe) -> Triple:
    """The voxel size at which a structure is best seen, in mm, equal along all axes; a rung of the ladder.

    The longest side of the structure shall fill `extent_fraction` of the window, but its thickness (twice the 95th percentile of the
    distance from inside to the surface) shall span `thickness_voxels`, and the window shall not be larger than the reference image:
    there would be nothing to see in the rest. All within `spacing_limits_mm`, and not finer than the finest edge of the image's voxels:
    finer ones show nothing more, and halving them takes eight times as long.

    Args:
        image: grid of the reference image.
        labels: its label map of integers.
        value: of the structure's label.
        box: of the label in the label map.
        recipe: limits and what is wanted.
    """
    mask = orient(labels.cropped(box), recipe.orientation)
    edges = mask.geometry.spacing_zyx
    by_extent = max(n * s / w for n, s, w in zip(mask.array.shape, edges, recipe.window_zyx, strict=True)) / recipe.extent_fraction
    by_view = max(n * s for n, s in zip(image.shape_zyx, image.spacing_zyx, strict=True)) / max(recipe.window_zyx)
    spacing = min(by_extent, by_view, thickness_mm(mask.array == value, edges) / recipe.thickness_voxels)
    low, high = recipe.spacing_limits_mm
    finest, rungs = (math.log(edge / low) / math.log(LADDER) for edge in (max(low, min(image.spacing_zyx)), high))
    rung = max(round(math.log(max(spacing, low) / low) / math.log(LADDER)), math.ceil(finest - 1e-9))
    edge = low * LADDER ** min(rung, math.floor(rungs + 1e-9))
    return edge, edge, edge


def thickness_mm(mask: np.ndarray, spacing_zyx: Triple) -> float:
    """Twice the 95th percentile of the distance from a mask's voxels to the nearest voxel outside it, in mm."""
    stride = max(1, math.ceil((mask.size / _THICKNESS_VOXELS) ** (1 / 3)))
    steps = [stride if n >= 8 * stride else 1 for n in mask.shape]
    thinned = np.pad(mask[tuple(slice(None, None, step) for step in steps)], 1)
    distance = ndimage.distance_transform_edt(thinned, sampling=[s * step for s, step in zip(spacing_zyx, steps, strict=True)])
    return 2 * float(np.percentile(distance[thinned], 95))
