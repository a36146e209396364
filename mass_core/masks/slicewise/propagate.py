"""Propagation of a mask on one slice through the volume: a tracker follows it from slice to slice, both ways.

All objects of all seed slices go in lock step: counted from its seed, each is at the same step, so one pass of the network serves many. An
object is done in a direction at the first slice where nothing of it is left: what follows could not be connected to the seed. The two
directions are independent and share only the seed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple, Protocol

import numpy as np

from ...volumes.boxes import Box, bounding_box
from ..mask_set import Bools
from ..packed import Found
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


@dataclass
class _Trail:
    """An object propagated in one direction."""

    seed: Seed
    direction: int
    memory: Any
    at: int
    seen: list[Found] = field(default_factory=list)
    """What was found of it, slice by slice."""
    ended: bool = False
    """Nothing was left of it on the last slice."""


def propagate(tracker: Tracker, seeds: Sequence[Seed], count: int, batch: BatchSize) -> Iterator[tuple[int, Found]]:
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
    for group, trails in batch.batches(waiting, lambda some: _follow(tracker, [seeds[number] for number in some], count)):
        for number, (forth, back) in zip(group, trails, strict=True):
            yield number, _stacked([*forth.seen, *back.seen])


def _follow(tracker: Tracker, seeds: Sequence[Seed], count: int) -> list[tuple[_Trail, _Trail]]:
    """Both directions of each object, to their ends."""
    pairs = [
        (_Trail(seed, 1, memory, seed.at, [on_slice(seed.at, seed.mask)]), _Trail(seed, -1, memory, seed.at))
        for seed, memory in zip(seeds, tracker.start([seed.at for seed in seeds], np.stack([seed.mask for seed in seeds])), strict=True)
    ]
    going = [trail for pair in pairs for trail in pair]
    while going := [trail for trail in going if _advance(trail, count)]:
        masks, later = tracker.step([trail.at for trail in going], [trail.memory for trail in going])
        for trail, mask, memory in zip(going, masks, later, strict=True):
            trail.memory = memory
            if mask.any():
                trail.seen.append(on_slice(trail.at, mask))
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


def on_slice(index: int, mask: Bools) -> Found:
    """A mask [h,w] of a slice, not empty, as a mask one slice thick in its bounding box: slice, row, column."""
    box = bounding_box(mask[None])
    assert box is not None  # no mask is empty
    return box.shifted((index, 0, 0)), mask[None][box.slices()].copy()


def _stacked(slices: Sequence[Found]) -> Found:
    """The object whose slices these are."""
    box = reduce(Box.enclosing, (part for part, _ in slices))
    result = np.zeros(box.size, bool)
    for part, mask in slices:
        result[part.seen_from(box.low).slices()] = mask
    return box, result
