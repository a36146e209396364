"""Carrying masks through a volume with a tracker that knows where every object is."""

from collections.abc import Sequence
from unittest.mock import Mock

import numpy as np
import pytest

from mass_core.errors import InputError
from mass_core.masks.slicewise.batch_size import BatchSize
from mass_core.masks.slicewise.frames import Frames
from mass_core.masks.slicewise.propagate import Seed, propagate

COUNT, HEIGHT, WIDTH = 20, 12, 16


class Atlas:
    """Follows objects by looking them up in a map of labels [n,h,w]; its memories are the slices an object was seen on.

    Args:
        labels: the map.
        most: objects at once before memory runs out.
    """

    def __init__(self, labels: np.ndarray, most: int = 10**6) -> None:
        self.labels, self.most = labels, most
        self.steps: list[list[int]] = []
        self.starts: list[int] = []
        self.ways: dict[tuple, None] = {}

    def start(self, slices: Sequence[int], masks: np.ndarray) -> list:
        self.starts.append(len(slices))
        return [(int(self.labels[index][mask].max()), (index,)) for index, mask in zip(slices, masks, strict=True)]

    def step(self, slices: Sequence[int], memories: Sequence) -> tuple[np.ndarray, list]:
        if len(slices) > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        assert len({len(way) for _, way in memories}) == 1, "all objects have taken equally many steps"
        self.steps.append(list(slices))
        later = [(value, (*way, index)) for (value, way), index in zip(memories, slices, strict=True)]
        self.ways.update(dict.fromkeys(later))
        return np.stack([self.labels[index] == value for (value, _), index in zip(memories, slices, strict=True)]), later


def scene() -> np.ndarray:
    """1 on slices 3 to 9, moving one column a slice; 2 on all slices; 3 on 5 to 6 and again on 8."""
    labels = np.zeros((COUNT, HEIGHT, WIDTH), np.uint8)
    for index in range(3, 10):
        labels[index, 1:4, index - 2 : index + 2] = 1
    labels[:, 6:11, 10:15] = 2
    labels[[5, 6, 8], 6:8, 2:4] = 3
    return labels


def seed(labels: np.ndarray, index: int, value: int) -> Seed:
    return Seed(index, labels[index] == value)


def found(tracker: Atlas, seeds: list[Seed], batch: int = 100) -> dict[int, np.ndarray]:
    """The objects on the whole grid, by number of their seed."""
    result = {}
    for number, ((start, stop), mask) in propagate(tracker, seeds, COUNT, BatchSize(batch)):
        assert mask.shape == tuple(np.subtract(stop, start)) and all(
            mask.any(axis=tuple({0, 1, 2} - {axis}))[[0, -1]].all() for axis in range(3)
        )
        result[number] = np.zeros((COUNT, HEIGHT, WIDTH), bool)
        result[number][tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = mask
    return result


def test_objects_are_found_whole_from_any_seed() -> None:
    labels = scene()
    seeds = [seed(labels, 3, 1), seed(labels, 6, 1), seed(labels, 9, 1), seed(labels, 0, 2), seed(labels, 19, 2), seed(labels, 7, 2)]
    objects = found(Atlas(labels), seeds)
    assert sorted(objects) == [0, 1, 2, 3, 4, 5]
    assert all(np.array_equal(objects[n], labels == (1 if n < 3 else 2)) for n in objects)


def test_an_object_ends_at_its_first_empty_slice() -> None:
    """The object beyond slice 7 cannot be connected to the seed on slice 5, so it is not visited."""
    labels = scene()
    tracker = Atlas(labels)
    assert np.flatnonzero(found(tracker, [seed(labels, 5, 3)])[0].any(axis=(1, 2))).tolist() == [5, 6]
    assert tracker.steps == [[6, 4], [7]]


def test_all_objects_of_all_seeds_go_in_lock_step() -> None:
    labels = scene()
    tracker = Atlas(labels)
    found(tracker, [seed(labels, 5, 3), seed(labels, 17, 2), seed(labels, 4, 1)])
    assert tracker.starts == [3]
    assert tracker.steps[0] == [18, 16, 5, 3, 6, 4], "larger seeds first, forth and back"
    assert tracker.steps[1] == [19, 15, 6, 2, 7]
    assert len(tracker.steps) == 17, "as long as the longest way, 17 slices back"


def test_directions_know_the_seed_and_themselves_only() -> None:
    labels = scene()
    tracker = Atlas(labels)
    found(tracker, [seed(labels, 6, 1)])
    longest = {way for _, way in tracker.ways if len(way) == 5}
    assert longest == {(6, 7, 8, 9, 10), (6, 5, 4, 3, 2)}


@pytest.mark.parametrize(("batch", "starts"), [(1, [1] * 5), (2, [2, 2, 1]), (100, [5])])
def test_batches_bound_the_state_and_do_not_change_the_result(batch: int, starts: list) -> None:
    labels = scene()
    seeds = [seed(labels, 5, 3), seed(labels, 17, 2), seed(labels, 4, 1), seed(labels, 8, 1), seed(labels, 2, 2)]
    tracker = Atlas(labels)
    objects = found(tracker, seeds, batch)
    assert tracker.starts == starts
    assert all(np.array_equal(objects[n], found(Atlas(labels), seeds)[n]) for n in range(5))


def test_want_of_memory_halves_the_batch_and_goes_on() -> None:
    labels = scene()
    seeds = [seed(labels, index, 2) for index in range(10)]
    tracker, batch = Atlas(labels, most=5), BatchSize(8)
    objects = dict(propagate(tracker, seeds, COUNT, batch))
    assert sorted(objects) == list(range(10)) and batch.size == 2
    assert tracker.starts == [8, 4, 2, 2, 2, 2, 2], "two batches that were too large, then five that fit"
    assert all(box == ((0, 6, 10), (COUNT, 11, 15)) and mask.all() for box, mask in objects.values())


def test_a_batch_of_one_that_is_too_large_is_told() -> None:
    labels = scene()
    with pytest.raises(RuntimeError, match="out of memory"):
        list(propagate(Atlas(labels, most=0), [seed(labels, 0, 2)], COUNT, BatchSize(4)))


def test_other_failures_stop_the_run() -> None:
    class Broken(Atlas):
        def step(self, slices: Sequence[int], memories: Sequence) -> tuple[np.ndarray, list]:
            raise RuntimeError("shapes do not match")

    labels = scene()
    with pytest.raises(RuntimeError, match="shapes"):
        list(propagate(Broken(labels), [seed(labels, 0, 2)], COUNT, BatchSize(4)))


def test_a_volume_of_one_slice_and_no_seeds() -> None:
    labels = np.ones((1, 4, 4), np.uint8)
    tracker = Atlas(labels)
    assert [box for _, (box, _) in propagate(tracker, [seed(labels, 0, 1)], 1, BatchSize(4))] == [((0, 0, 0), (1, 4, 4))]
    assert tracker.steps == [] and list(propagate(tracker, [], 1, BatchSize(4))) == []


def test_each_slice_is_encoded_once() -> None:
    look = Mock(side_effect=lambda image: image.shape)
    frames = Frames(np.zeros((5, 2, 3, 3), np.uint8), look)
    assert [frames[i] for i in (0, 4, 0, 4, 1, 0)] == [(2, 3, 3)] * 6 and look.call_count == 3
    assert len(frames) == 5 and frames.shape == (2, 3)


def test_features_beyond_the_room_give_way() -> None:
    look = Mock(side_effect=lambda image: object())
    frames = Frames(np.zeros((5, 2, 3, 3), np.uint8), look, most=2)
    first = frames[0]
    frames[1]
    assert frames[0] is first
    frames[2]  # 1 was not used for longest
    assert frames[0] is first and look.call_count == 3
    frames[1]
    assert look.call_count == 4
    with pytest.raises(InputError, match="pictures"):
        Frames(np.zeros((5, 2, 3), np.uint8), len)
