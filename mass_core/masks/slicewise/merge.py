"""Post-processing of propagated masks: one connected part each, no tiny ones, no duplicates (paper 6.1).

A mask is a bounding box and the values inside it, as everywhere; the whole volume is never filled.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...volumes.boxes import Box
from ...volumes.components import connected_parts
from ..packed import Found, Packed


def part_at_seed(found: Found, axis: int, index: int) -> Found | None:
    """The largest of the connected parts that show on the seed slice, in its tight box.

    Args:
        found: what was carried through the volume.
        axis: across which the slices lie, 0, 1 or 2 for z, y or x.
        index: of the seed slice in the volume.

    Returns:
        None: nothing shows on the seed slice.
    """
    (start, _), mask = found
    numbers, parts = connected_parts(mask)
    place = index - start[axis]
    if not 0 <= place < mask.shape[axis]:
        return None
    on_seed = np.unique(numbers.take(place, axis=axis))
    candidates = [int(number) for number in on_seed if number]
    if not candidates:
        return None
    largest = max(candidates, key=lambda number: parts[number - 1].voxels)
    box = parts[largest - 1].box
    return box.shifted(start), numbers[box.slices()] == largest


def distinct(masks: Iterable[Found], most_iou: float, seed: int = 0, keep: Literal["random", "larger"] = "random") -> list[int]:
    """Indices of the masks left when one of every two that overlap too much is dropped.

    Masks are visited in an order drawn by chance, or from large to small, and stay unless one that stayed overlaps them too much.

    Args:
        masks: of one volume, none empty; gone through once.
        most_iou: largest intersection over union two masks that stay may have.
        seed: of the order; the same seed gives the same choice.
        keep: random, as the paper has it, or larger, as the released code has it.

    Returns:
        Their numbers, ascending.
    """
    table = _Table(masks)
    if keep == "random":
        order = np.random.default_rng(seed).permutation(len(table.packed))
    else:
        order = np.argsort(-table.voxels, kind="stable")
    stayed: list[int] = []
    for number in order.tolist():
        if not table.overlaps(number, np.array(stayed, np.int64), most_iou):
            stayed.append(number)
    return sorted(stayed)


def uncovered(masks: list[Found], others: list[Found], most_iou: float) -> list[int]:
    """Ascending indices of the masks that none of the others overlaps too much. No mask of either is empty."""
    table, rivals = _Table([*masks, *others]), np.arange(len(masks), len(masks) + len(others))
    return [number for number in range(len(masks)) if not table.overlaps(number, rivals, most_iou)]


def cross_section(found: Found, axis: int, index: int) -> Found | None:
    """Cross-section of a mask on one slice of the volume, one voxel thick; None: it is empty.

    Args:
        found: the mask.
        axis: across which the slice lies.
        index: of the slice in the volume.
    """
    (start, stop), mask = found
    if not start[axis] <= index < stop[axis]:
        return None
    plane = mask.take([index - start[axis]], axis=axis)
    low, high = list(start), list(stop)
    low[axis], high[axis] = index, index + 1
    return (Box.of(low, high), plane) if plane.any() else None


class _Table:
    """Masks of a volume, ready to be compared."""

    def __init__(self, masks: Iterable[Found]) -> None:
        self.packed: list[Packed] = []
        corners: list[tuple[int, ...]] = []
        for found in masks:  # one at a time: they come out of less memory than they fill
            self.packed.append(Packed.of(found))
            corners.append((*found[0][0], *found[0][1]))
        self.boxes = np.array(corners, np.int64).reshape(-1, 6)
        self.voxels = np.array([mask.voxels for mask in self.packed], np.int64)

    def overlaps(self, number: int, others: NDArray[np.int64], most_iou: float) -> bool:
        """True if a mask overlaps one of the others too much."""
        return any(self.packed[number].iou(self.packed[rival]) > most_iou for rival in self._rivals(number, others, most_iou))

    def _rivals(self, number: int, others: NDArray[np.int64], most_iou: float) -> list[int]:
        """Those of the others whose boxes and sizes allow an IoU above the limit.

        IoU > t needs more than t / (1 + t) of the voxels of both in common. No more can be in common than the boxes share, or the smaller
        has.
        """
        low = np.maximum(self.boxes[number, :3], self.boxes[others, :3])
        high = np.minimum(self.boxes[number, 3:], self.boxes[others, 3:])
        shared = np.maximum(high - low, 0).prod(axis=1)
        most_common = np.minimum(shared, np.minimum(self.voxels[number], self.voxels[others]))
        needed = most_iou / (1 + most_iou) * (self.voxels[number] + self.voxels[others])
        return others[most_common > needed - 1e-6].tolist()
