"""Boxes of voxels: each step of their arithmetic beside the same done with whole arrays."""

import itertools

import numpy as np
import pytest

from mass_core.volumes.boxes import Box, bounding_box, cut, label_boxes

SHAPE = (6, 7, 8)
BOXES = [Box.at(low, size) for low, size in itertools.product([(0, 0, 0), (1, 2, 3), (-2, 4, 5)], [(1, 1, 1), (3, 4, 2), (9, 9, 9)])]


def marked(box: Box, rim: int = 12) -> np.ndarray:
    """The box in an array that begins `rim` voxels before the grid."""
    array = np.zeros([n + 2 * rim for n in SHAPE], bool)
    array[tuple(slice(a + rim, b + rim) for a, b in zip(*box, strict=True))] = True
    return array


def test_a_box_is_a_pair() -> None:
    box = Box.of(np.array([1, 2, 3]), np.array([3.0, 3, 6]))
    low, high = box
    assert box == ((1, 2, 3), (3, 3, 6)) == (low, high) and box.size == (2, 1, 3)
    assert all(type(n) is int for corner in box for n in corner)
    assert np.zeros(SHAPE)[box.slices()].shape == box.size


@pytest.mark.parametrize("box", BOXES)
def test_what_is_marked_moves_and_grows_alike(box: Box) -> None:
    assert np.array_equal(marked(box.shifted((1, -2, 0))), np.roll(marked(box), (1, -2, 0), axis=(0, 1, 2)))
    assert box.seen_from((1, -2, 0)).shifted((1, -2, 0)) == box
    assert marked(box.grown((2, 0, 1))).sum() == np.prod([n + 2 * m for n, m in zip(box.size, (2, 0, 1), strict=True)])
    grid = Box((0, 0, 0), SHAPE)
    assert np.array_equal(marked(box.grown((1, 1, 1), SHAPE)), marked(box.grown((1, 1, 1))) & marked(grid))
    assert np.array_equal(marked(box.clipped(SHAPE)), marked(box) & marked(grid))


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(BOXES, 2)))
def test_what_two_boxes_share_and_what_holds_both(one: Box, other: Box) -> None:
    both = marked(one) & marked(other)
    common = one.common(other)
    assert (common is None) == (not both.any()) and common == other.common(one)
    assert common is None or np.array_equal(marked(common), both)
    around = bounding_box(marked(one) | marked(other))
    assert around is not None and around.seen_from((12, 12, 12)) == one.enclosing(other)


def test_boxes_that_only_touch_share_nothing() -> None:
    assert Box((0, 0, 0), (2, 2, 2)).common(Box((2, 0, 0), (3, 2, 2))) is None


def test_cutting_beyond_the_array_fills_up() -> None:
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    padded = np.pad(array, 12, constant_values=-1)
    assert all(np.array_equal(cut(array, box, -1), padded[box.shifted((12, 12, 12)).slices()]) for box in BOXES)
    assert (cut(array, ((20, 0, 0), (21, 2, 2)), 5) == 5).all()


def test_the_box_of_each_label() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 2, 3:6], labels[0, 0, 0] = 4, 2
    assert label_boxes(labels) == {2: ((0, 0, 0), (1, 1, 1)), 4: ((1, 2, 3), (3, 3, 6))}
    assert bounding_box(np.zeros(SHAPE)) is None
