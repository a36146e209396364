"""Boxes of voxels, and the part of an array that lies in one."""

from collections.abc import Iterable
from typing import Any, NamedTuple, SupportsInt

import numpy as np
from scipy import ndimage

from ..config import Shape


class Box(NamedTuple):
    """Voxels from `low` up to, not including, `high` along z, y, x; equal to a plain pair of both. It may reach beyond its grid."""

    low: Shape
    high: Shape

    @classmethod
    def of(cls, low: Iterable[SupportsInt], high: Iterable[SupportsInt]) -> "Box":
        """From numbers of any kind, rows of arrays for instance."""
        return cls(_triple(low), _triple(high))

    @classmethod
    def at(cls, low: Iterable[SupportsInt], size: Iterable[int]) -> "Box":
        """The box of a size that begins at `low`."""
        first = _triple(low)
        return cls(first, _triple(a + n for a, n in zip(first, size, strict=True)))

    @property
    def size(self) -> Shape:
        """Voxels along each axis."""
        return _triple(b - a for a, b in zip(*self, strict=True))

    def slices(self) -> tuple[slice, slice, slice]:
        """The index that cuts the box out of an array [z, y, x]; no part of the box may lie before its first voxel."""
        (z0, y0, x0), (z1, y1, x1) = self
        return slice(z0, z1), slice(y0, y1), slice(x0, x1)

    def shifted(self, by: Iterable[SupportsInt]) -> "Box":
        """The box so many voxels further on."""
        return Box.at((a + int(n) for a, n in zip(self.low, by, strict=True)), self.size)

    def seen_from(self, origin: Iterable[SupportsInt]) -> "Box":
        """The box counted from another voxel."""
        return self.shifted(-int(n) for n in origin)

    def grown(self, by: Iterable[int], within: Iterable[int] | None = None) -> "Box":
        """The box with a margin on both sides of each axis, as far as an array of shape `within` reaches."""
        margin = tuple(by)
        low = (a - n for a, n in zip(self.low, margin, strict=True))
        wide = Box.of(low, (b + n for b, n in zip(self.high, margin, strict=True)))
        return wide if within is None else wide.clipped(within)

    def clipped(self, within: Iterable[int]) -> "Box":
        """The part inside an array of this shape; without voxels where there is none."""
        sizes = tuple(within)
        low = _triple(max(0, a) for a in self.low)
        return Box(low, _triple(max(a, min(b, n)) for a, b, n in zip(low, self.high, sizes, strict=True)))

    def common(self, other: "Box") -> "Box | None":
        """The voxels two boxes share; None: there are none."""
        both = Box.of(map(max, self.low, other.low), map(min, self.high, other.high))
        return both if all(a < b for a, b in zip(*both, strict=True)) else None

    def enclosing(self, other: "Box") -> "Box":
        """The smallest box around two."""
        return Box.of(map(min, self.low, other.low), map(max, self.high, other.high))


def bounding_box(mask: np.ndarray) -> Box | None:
    """The smallest box around what is not zero [z, y, x]; None: nothing is."""
    occupied = np.any(mask, axis=2)
    places = [np.flatnonzero(line) for line in (np.any(occupied, axis=1), np.any(occupied, axis=0), np.any(mask, axis=(0, 1)))]
    if not all(line.size for line in places):
        return None
    return Box.of((line[0] for line in places), (line[-1] + 1 for line in places))


def label_boxes(labels: np.ndarray) -> dict[int, Box]:
    """The smallest box around each label above 0 of an integer array [z, y, x], in ascending order."""
    found = enumerate(ndimage.find_objects(labels), start=1)
    return {value: Box.of((s.start for s in where), (s.stop for s in where)) for value, where in found if where is not None}


def cut(array: np.ndarray, box: tuple[Shape, Shape], fill: Any = 0) -> np.ndarray:
    """The voxels of a box that may reach beyond the array [z, y, x]; what lies beyond is `fill`."""
    whole = Box(*box)
    result = np.full(whole.size, fill, dtype=array.dtype)
    inside = whole.common(Box((0, 0, 0), _triple(array.shape)))
    if inside is not None:
        result[inside.seen_from(whole.low).slices()] = array[inside.slices()]
    return result


def _triple(values: Iterable[SupportsInt]) -> Shape:
    z, y, x = values
    return int(z), int(y), int(x)
