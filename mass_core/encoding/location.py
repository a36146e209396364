"""Position of a structure in its scan, which decides between the structure and a lookalike elsewhere.

The network sees windows, not the scan. Of several finds that look right, the one where the references show the structure is the likelier.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ..config import Triple
from ..volumes.boxes import Box
from ..volumes.volume import Geometry, Volume

_SAME_REGION = 0.7
"""Least ratio of extents, along each axis, of scans that are taken to show the same part of the body; elsewhere places say nothing."""


@dataclass(frozen=True)
class Location:
    """A place in a scan."""

    centre_mm: Triple
    """From the middle of the scan, along the patient's left, posterior and superior."""
    scan_mm: Triple
    """Extent of the scan along the same axes."""

    @classmethod
    def of(cls, centre_zyx: Sequence[float], grid: Geometry, scan: Geometry) -> "Location":
        """The place of a point.

        Args:
            centre_zyx: in voxels of `grid`.
            grid: the grid the point is given on.
            scan: the scan it lies in.
        """
        low, high = (np.asarray(corner) for corner in scan.box_mm)
        point = grid.affine[:3, :3] @ np.asarray(centre_zyx, float)[::-1] + grid.affine[:3, 3]
        return cls(_triple(point - (low + high) / 2), extent_mm(scan))

    @classmethod
    def mean(cls, places: Sequence["Location"]) -> "Location":
        """The middle of several."""
        return cls(mean_triple([p.centre_mm for p in places]), mean_triple([p.scan_mm for p in places]))

    def same_region(self, other: "Location") -> bool:
        """True if both scans are taken to show the same part of the body: only then positions can be compared."""
        return all(min(a, b) >= _SAME_REGION * max(a, b) for a, b in zip(self.scan_mm, other.scan_mm, strict=True))


class Measured(NamedTuple):
    """Size and position of a structure."""

    ml: float
    place: Location
    extent_mm: Triple
    """Along the patient's left, posterior and superior."""

    @classmethod
    def of(cls, labels: Volume, value: int, box: Box, scan: Geometry) -> "Measured":
        """Measure a label in its box of a label map of a scan."""
        mask, grid = labels.array[box.slices()] == value, labels.geometry
        centre = np.add(box.low, ndimage.center_of_mass(mask)).tolist()
        ml = float(np.count_nonzero(mask) * np.prod(grid.spacing_xyz) / 1000)
        return cls(ml, Location.of(centre, grid, scan), extent_mm(grid.cropped(box)))


def closeness(place: Location | None, scan: Geometry, sigma_mm: float) -> Callable[[Triple], float]:
    """Weight of a part centred at a voxel (z, y, x) of a scan: 1 where the references show the structure, falling off as a Gaussian.

    Args:
        place: of the structure in its references; None: not known.
        scan: the target.
        sigma_mm: of the Gaussian; 0: places do not count.
    """
    if place is None or not sigma_mm or not Location.of((0.0, 0.0, 0.0), scan, scan).same_region(place):
        return lambda centre_zyx: 1.0

    def counts(centre_zyx: Triple) -> float:
        distance = math.dist(Location.of(centre_zyx, scan, scan).centre_mm, place.centre_mm)
        return math.exp(-((distance / sigma_mm) ** 2) / 2)

    return counts


def extent_mm(grid: Geometry) -> Triple:
    """Extent of a grid along the patient's left, posterior and superior, in mm."""
    low, high = (np.asarray(corner) for corner in grid.box_mm)
    return _triple(high - low)


def mean_triple(triples: Sequence[Triple]) -> Triple:
    """The mean, axis by axis."""
    return _triple(np.mean(triples, axis=0))


def _triple(values: np.ndarray) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z
