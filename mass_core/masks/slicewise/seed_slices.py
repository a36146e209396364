"""Choice of the axes and slices on which 2D masks are made."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...config import Triple
from ...errors import InputError

NEARLY_CUBIC = 1.3
"""Voxels whose longest edge is at most this many times the shortest have no finest plane (paper 6.1)."""
_ROUNDING = 1e-4
"""A file's 3.0000001 mm are 3 mm."""


def seed_axes(spacing_zyx: Triple, *, all_axes: bool = False) -> tuple[int, ...]:
    """The axes to cut slices across.

    Args:
        spacing_zyx: voxel edges in mm.
        all_axes: cut across all three, for scans with nearly cubic voxels.

    Returns:
        0, 1 or 2 for z, y or x: the axis whose slices have the smallest mean pixel edge, z for nearly cubic voxels; or all three.
    """
    if all_axes:
        return 0, 1, 2
    if max(spacing_zyx) <= NEARLY_CUBIC * min(spacing_zyx) * (1 + _ROUNDING):
        return (0,)
    edges = [sum(spacing_zyx) - edge for edge in spacing_zyx]
    return (edges.index(min(edges)),)


def seed_slices(occupied: Sequence[bool] | NDArray[np.bool_], spacing_mm: float, interval_mm: float, at_least: int = 1) -> list[int]:
    """The slices on which 2D masks are made.

    They are max(1, floor(interval / spacing)) slices apart (paper 6.1), from the first to the last that shows the body; what is left over
    is shared between both ends.

    Args:
        occupied: for each slice, whether the body is on it.
        spacing_mm: between slices.
        interval_mm: wanted between seed slices.
        at_least: as many slices, closer together if need be, as far as there are.

    Returns:
        Their numbers, ascending; none if the body is nowhere.
    """
    if spacing_mm <= 0 or interval_mm <= 0:
        raise InputError(f"Slices are {spacing_mm:g} mm apart, seed slices {interval_mm:g} mm.", "Both must be above zero.")
    found = np.flatnonzero(occupied)
    if not len(found):
        return []
    first, last = int(found[0]), int(found[-1])
    step = max(1, math.floor(interval_mm / spacing_mm + _ROUNDING))
    start = first + (last - first) % step // 2
    seeds = list(range(start, last + 1, step))
    if len(seeds) >= at_least:
        return seeds
    return sorted(set(np.linspace(first, last, min(at_least, last - first + 1)).round().astype(int).tolist()))


def by_bisection(count: int) -> list[list[int]]:
    """Numbers 0 to count - 1 in rounds: the middle one, the middles of both halves, of the quarters, and so on."""
    rounds, spans = [], [(0, count)]
    while spans := [(start, stop) for start, stop in spans if start < stop]:
        middles = [(start + stop) // 2 for start, stop in spans]
        rounds.append(middles)
        spans = [half for (start, stop), middle in zip(spans, middles, strict=True) for half in ((start, middle), (middle + 1, stop))]
    return rounds
