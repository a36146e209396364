"""Connected parts and boxes, by eye and against scipy."""

import numpy as np
import pytest
from scipy import ndimage

from mass_core.config import Recipe
from mass_core.evaluation.metrics import dice
from mass_core.volumes.boxes import Box, bounding_box, label_boxes
from mass_core.volumes.components import body_box, closed, connected_parts, count_parts, largest_parts

NO_MARGIN = Recipe(body_margin_zyx=(0, 0, 0))


def blobs(seed: int) -> np.ndarray:
    """Ragged random parts, some with holes, some at the border."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(20, 24, 28)), rng.uniform(0.5, 2))
    return smooth > rng.uniform(-0.5, 1.2) * smooth.std()


def room(shape: tuple[int, int, int] = (12, 14, 16)) -> np.ndarray:
    """A scan of air."""
    return np.full(shape, -1000.0, np.float32)


def test_bounding_box():
    mask = np.zeros((4, 5, 6), bool)
    assert bounding_box(mask) is None
    mask[1, 2, 3] = mask[2, 2, 5] = True
    assert bounding_box(mask) == ((1, 2, 3), (3, 3, 6))


def test_grown_stops_at_the_border():
    assert Box((1, 2, 3), (3, 3, 6)).grown((2, 1, 1), (4, 5, 6)) == ((0, 1, 2), (4, 4, 6))


def test_label_boxes():
    labels = np.zeros((3, 3, 3), np.uint16)
    labels[0, 0, 0] = 500
    labels[1:, 1:, 2] = 2
    assert label_boxes(labels) == {2: ((1, 1, 2), (3, 3, 3)), 500: ((0, 0, 0), (1, 1, 1))}


def test_corners_do_not_connect():
    mask = np.zeros((3, 3, 3), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[1, 1, 2] = True
    assert [part.voxels for part in connected_parts(mask)[1]] == [1, 2]
    assert np.argwhere(largest_parts(mask)).tolist() == [[1, 1, 1], [1, 1, 2]]


def test_largest_of_nothing_and_of_equals():
    mask = np.zeros((3, 3, 3), bool)
    assert not largest_parts(mask).any()
    mask[2, 2, 2] = mask[0, 0, 0] = True
    assert np.argwhere(largest_parts(mask)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("seed", range(8))
def test_same_as_scipy(seed: int):
    mask = blobs(seed)
    assert np.array_equal(closed(mask, 2), ndimage.binary_closing(mask, iterations=2))
    numbers, parts = connected_parts(mask)
    assert np.array_equal(numbers, ndimage.label(mask)[0])
    assert [part.box for part in parts] == list(label_boxes(numbers).values())


@pytest.mark.parametrize("seed", range(8))
def test_body_is_the_largest_part_of_the_filled_closing(seed: int):
    mask = blobs(seed)
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(mask, iterations=2))
    parts = ndimage.label(filled)[0]
    wanted = bounding_box(parts == 1 + np.bincount(parts.ravel())[1:].argmax())
    assert body_box(np.where(mask, 0.0, -1000.0), "ct", NO_MARGIN) == wanted


def test_body_of_a_ct_leaves_the_couch_out():
    scan = room((12, 20, 16))
    scan[4:8, 4:8, 4:8] = 40
    scan[4:8, 17, 2:14] = 40
    assert body_box(scan, "ct", NO_MARGIN) == ((4, 4, 4), (8, 8, 8))
    assert body_box(scan, "ct", Recipe(body_margin_zyx=(1, 2, 30))) == ((3, 2, 0), (9, 10, 16))


def test_a_hollow_body_counts_with_its_hole():
    scan = room((20, 20, 40))
    scan[2:12, 2:12, 2:12] = 40
    scan[3:11, 3:11, 3:11] = -1000  # walls of one voxel: 488 voxels, 1000 with the hole
    scan[2:11, 2:11, 20:29] = 40  # solid: 729 voxels
    assert body_box(scan, "ct", NO_MARGIN) == ((2, 2, 2), (12, 12, 12))


def test_body_of_an_mr_is_what_is_not_black():
    scan = np.zeros((12, 12, 12), np.float32)
    scan[3:9, 3:9, 3:9] = 700
    assert body_box(scan, "mr", NO_MARGIN) == ((3, 3, 3), (9, 9, 9))


def test_no_body():
    assert body_box(room(), "ct", NO_MARGIN) is None


def test_dice():
    first, second = np.zeros(10, bool), np.zeros(10, bool)
    first[:4] = second[3:5] = True
    assert dice(first, second) == pytest.approx(2 * 1 / 6)
    assert np.isnan(dice(first & second & False, second & False))


def test_crumbs_are_not_counted():
    line = np.zeros((1, 1, 40), bool)
    line[..., :20] = line[..., 22:24] = line[..., 26:27] = True
    assert count_parts(line) == 2, "parts of 20, 2 and 1 voxels: the last is less than a tenth of the first"
    assert largest_parts(line, 2).sum() == 22
