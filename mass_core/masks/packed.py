"""Masks as packed bits, whose overlap is counted eight voxels at a time."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..volumes.boxes import Box
from .mask_set import Bools

Found = tuple[Box, Bools]

_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)
"""Ones of every byte, for NumPy below 2."""


class Packed(NamedTuple):
    """A mask as bits that lie alike in all masks of a volume: every row along x starts at a multiple of eight voxels."""

    box: Box
    """z, y, and x in bytes."""
    rows: NDArray[np.uint8]
    """[z, y, x in bytes], first voxel in the highest bit."""
    voxels: int

    @classmethod
    def of(cls, found: Found) -> "Packed":
        """Pack a mask."""
        ((z, y, x), _), mask = found
        rows = np.packbits(np.pad(mask, ((0, 0), (0, 0), (x % 8, 0))), axis=-1)
        return cls(Box.at((z, y, x // 8), rows.shape), rows, int(np.count_nonzero(mask)))

    def iou(self, other: "Packed") -> float:
        """Intersection over union."""
        common = self.common(other)
        return common / (self.voxels + other.voxels - common)

    def common(self, other: "Packed") -> int:
        """Voxels of both; only bytes inside both boxes are looked at."""
        both = self.box.common(other.box)
        if both is None:
            return 0
        one, two = (mask.rows[both.seen_from(mask.box.low).slices()] for mask in (self, other))
        return _count(one & two)


def _count(bits: NDArray[np.uint8]) -> int:
    """Ones among all bits."""
    counts = np.bitwise_count(bits) if hasattr(np, "bitwise_count") else _ONES[bits]
    return int(counts.sum(dtype=np.int64))
