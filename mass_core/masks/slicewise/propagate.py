"""Propagation of a mask on one slice through the volume: a tracker follows it from slice to slice, both ways.

All objects of all seed slices go in lock step: counted from its seed, each is at the same step, so one pass of the network serves many. An
object is done in a direction at the first slice where nothing of it is left: what follows could not be connected to the seed. The two
directions are independent and share only the seed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...volumes.boxes import Box
from ..mask_set import Bools
from .batch_size import BatchSize


class Tracker(Protocol):
    """Interface of a network that tracks objects from slice to slice. Memories are opaque, but bounded in size."""

    def start(self, slices: Sequence[int], masks: Bools) -> list[Any]:
        """Memories of objects that are known on one slice each.

        Args:
            slices: number of each object's slice.
            masks: [B,h,w] the objects there.
        """

    def step(self, slices: Sequence[int], memories: Sequence[Any]) -> tuple[Bools, list[Any]]:
        """The same objects on the next slices.

        Args:
            slices: next to the one each object was seen on last.
            memories: of each, all after equally many steps; they are not changed.

        Returns:
            Masks [B,h,w], and the memories with what was seen here.
        """


class Seed(NamedTuple):
    """A 2D mask to carry through the volume."""

    at: int
    """Number of its slice."""
    mask: Bools
    """[h,w], not empty."""


class _Patch(NamedTuple):
    """A mask of one slice, cut to its bounding box."""

    top: int
    left: int
    mask: Bools


@dataclass
class _Trail:
    """An object propagated in one direction."""

    seed: Seed
    direction: int
    memory: Any
    at: int
    seen: dict[int, _Patch] = field(default_factory=dict)
    """By slice."""
    ended: bool = False
    """Nothing was left of it on the last slice."""


def propagate(tracker: Tracker, seeds: Sequence[Seed], count: int, batch: BatchSize) -> Iterator[tuple[int, tuple[Box, Bools]]]:
    """Carry masks through the volume.

    Args:
        tracker: follows the objects.
        seeds: where they start.
        count: slices of the volume.
        batch: objects at a time, in both directions each; when memory does not suffice it is halved and these objects start again.

    Yields:
        For each seed, in any order: its number, and the object: bounding box (slice, row, column) and values inside it.
    """
    # Large objects reach far: together with their like they keep the batch full for longest.
    waiting = sorted(range(len(seeds)), key=lambda number: -np.count_nonzero(seeds[number].mask))
    while waiting:
        group = waiting[: batch.size]
        try:
            trails = _follow(tracker, [seeds[number] for number in group], count)
        except (RuntimeError, MemoryError) as error:
            batch.halve(error)
            continue
        waiting = waiting[len(group) :]
        for number, (forth, back) in zip(group, trails, strict=True):
            yield number, _stacked({**forth.seen, **back.seen})


def _follow(tracker: Tracker, seeds: Sequence[Seed], count: int) -> list[tuple[_Trail, _Trail]]:
    """Both directions of each object, to their ends."""
    pairs = [
        (_Trail(seed, 1, memory, seed.at, {seed.at: _patch(seed.mask)}), _Trail(seed, -1, memory, seed.at))
        for seed, memory in zip(seeds, tracker.start([seed.at for seed in seeds], np.stack([seed.mask for seed in seeds])), strict=True)
    ]
    going = [trail for pair in pairs for trail in pair]
    while going := [trail for trail in going if _advance(trail, count)]:
        masks, later = tracker.step([trail.at for trail in going], [trail.memory for trail in going])
        for trail, mask, memory in zip(going, masks, later, strict=True):
            trail.memory = memory
            if mask.any():
                trail.seen[trail.at] = _patch(mask)
            else:
                trail.ended = True
    return pairs


def _advance(trail: _Trail, count: int) -> bool:
    """Move on to the next slice; false where the trail ends, whose memory is then freed."""
    trail.at += trail.direction
    goes_on = not trail.ended and 0 <= trail.at < count
    if not goes_on:
        trail.memory = None
    return goes_on


def _patch(mask: Bools) -> _Patch:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return _Patch(top, left, mask[top : rows[-1] + 1, left : columns[-1] + 1].copy())


def _stacked(seen: dict[int, _Patch]) -> tuple[Box, Bools]:
    """The object of the patches on neighbouring slices."""
    first, last = min(seen), max(seen)
    top, left = min(patch.top for patch in seen.values()), min(patch.left for patch in seen.values())
    bottom = max(patch.top + patch.mask.shape[0] for patch in seen.values())
    right = max(patch.left + patch.mask.shape[1] for patch in seen.values())
    result: NDArray[np.bool_] = np.zeros((last + 1 - first, bottom - top, right - left), bool)
    for index, (row, column, mask) in seen.items():
        result[index - first, row - top : row - top + mask.shape[0], column - left : column - left + mask.shape[1]] = mask
    return Box((first, top, left), (last + 1, bottom, right)), result
