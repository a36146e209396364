"""Post-processing of propagated masks: the part at the seed, no duplicates."""

import itertools

import numpy as np
import pytest

from mass_core.masks.packed import Found, Packed
from mass_core.masks.slicewise.merge import cross_section, distinct, part_at_seed, uncovered


def block(start: tuple, stop: tuple) -> Found:
    return (start, stop), np.ones(np.subtract(stop, start), bool)


def full(found: Found, shape: tuple) -> np.ndarray:
    (start, stop), mask = found
    result = np.zeros(shape, bool)
    result[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = mask
    return result


def drawing() -> np.ndarray:
    """A bar along z (40 voxels) and a crumb (1) on slice 2; a larger block (48) that does not reach slice 2."""
    mask = np.zeros((9, 8, 8), bool)
    mask[0:5, 0:2, 0:4] = True
    mask[2, 6, 6] = True
    mask[5:8, 4:8, 4:8] = True
    return mask


def test_the_largest_part_on_the_seed_slice_stays() -> None:
    mask = drawing()
    (start, stop), part = part_at_seed((((10, 20, 30), (19, 28, 38)), mask), axis=0, index=12)
    assert (start, stop) == ((10, 20, 30), (15, 22, 34)) and part.all() and part.shape == (5, 2, 4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_may_lie_across_any_axis(axis: int) -> None:
    mask = np.moveaxis(drawing(), 0, axis)
    found = part_at_seed((((0, 0, 0), mask.shape), mask), axis, 2)
    assert found is not None and found[1].sum() == 40
    assert np.array_equal(np.moveaxis(full(found, mask.shape), axis, 0)[:5, :2, :4], np.ones((5, 2, 4)))


def test_nothing_on_the_seed_slice_is_no_mask() -> None:
    mask = drawing()
    whole = ((0, 0, 0), mask.shape)
    assert part_at_seed((whole, mask), 0, 8) is None
    assert part_at_seed((whole, mask), 0, 20) is None


def test_parts_touch_through_faces_only() -> None:
    mask = np.zeros((2, 2, 2), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    found = part_at_seed((((0, 0, 0), (2, 2, 2)), mask), 0, 0)
    assert found is not None and found[0] == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("old_numpy", [False, True])
def test_iou_of_packed_bits_is_that_of_the_volumes(old_numpy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if old_numpy:
        monkeypatch.delattr(np, "bitwise_count", raising=False)
    generator = np.random.default_rng(0)
    shape = (12, 15, 40)
    masks = []
    for _ in range(12):
        start = generator.integers(0, 6, 3)
        stop = start + generator.integers(1, (7, 10, 35))
        masks.append(((tuple(start), tuple(np.minimum(stop, shape))), generator.random(np.minimum(stop, shape) - start) < 0.7))
    for one, two in itertools.product(masks, masks):
        a, b = full(one, shape), full(two, shape)
        if (a | b).any():
            assert Packed.of(one).iou(Packed.of(two)) == pytest.approx((a & b).sum() / (a | b).sum())


def test_one_of_each_pair_goes() -> None:
    """100 and 95 voxels of the same rod: IoU 0.95. A rod of 85: 0.85 with the first and 0.89 with the second. One elsewhere."""
    masks = [block((0, 0, 0), (1, 1, 100)), block((0, 0, 5), (1, 1, 100)), block((0, 0, 15), (1, 1, 100)), block((1, 1, 0), (2, 2, 100))]
    choices = {tuple(distinct(masks, 0.9, seed)) for seed in range(20)}
    assert choices == {(0, 2, 3), (1, 2, 3)}
    assert distinct(masks, 0.9, seed=5) == distinct(masks, 0.9, seed=5)
    assert distinct(masks, 0.9, keep="larger") == [0, 2, 3]
    assert distinct(masks, 0.95) == [0, 1, 2, 3], "a limit may be reached"
    assert distinct([], 0.9) == []


def test_chance_prefers_none_of_a_pair() -> None:
    pair = [block((0, 0, 0), (1, 1, 100)), block((0, 0, 5), (1, 1, 100))]
    first = sum(distinct(pair, 0.9, seed) == [0] for seed in range(400))
    assert 150 < first < 250


def test_nothing_that_overlaps_too_much_is_overlooked() -> None:
    """Against all pairs of whole volumes, for shells whose boxes agree and whose voxels do not."""
    generator = np.random.default_rng(1)
    shape, masks = (10, 10, 24), []
    for _ in range(60):
        start = tuple(generator.integers(0, 3, 3).tolist())
        stop = tuple(generator.integers((7, 7, 18), (11, 11, 25)).tolist())
        mask = generator.random(np.subtract(stop, start)) < generator.choice([0.3, 0.9, 1.0])
        masks.append(((start, stop), mask))
    volumes = [full(mask, shape) for mask in masks]
    iou = np.array([[(a & b).sum() / (a | b).sum() for b in volumes] for a in volumes])
    kept = distinct(masks, 0.6, seed=3)
    assert (iou[np.ix_(kept, kept)] - np.eye(len(kept))).max() <= 0.6
    gone = sorted(set(range(60)) - set(kept))
    assert gone and (iou[np.ix_(gone, kept)].max(axis=1) > 0.6).all()


def test_a_cross_section_is_what_shows_on_a_slice() -> None:
    mask = drawing()
    found = (((10, 20, 30), (19, 28, 38)), mask)
    for axis, index, voxels in ((0, 12, 9), (0, 16, 16), (1, 20, 20), (2, 36, 13)):
        section = cross_section(found, axis, index)
        assert section is not None and section[1].sum() == voxels
        (start, stop), _ = section
        assert (start[axis], stop[axis]) == (index, index + 1) and section[1].shape == tuple(np.subtract(stop, start))
    assert cross_section(found, 0, 18) is None, "empty"
    assert cross_section(found, 0, 9) is None and cross_section(found, 0, 19) is None, "elsewhere"


def test_what_others_cover_is_told() -> None:
    """Rods of 100 voxels, shifted by 3 and 10: IoU 97/103 = 0.94 and 90/110 = 0.82."""
    other = [block((0, 0, 10), (1, 1, 110))]
    masks = [block((0, 0, 13), (1, 1, 113)), block((0, 0, 20), (1, 1, 120)), block((1, 0, 10), (2, 1, 110))]
    assert uncovered(masks, other, 0.9) == [1, 2] and uncovered(masks, other, 0.8) == [2] and uncovered(masks, other, 0.95) == [0, 1, 2]
    assert uncovered(masks, [], 0.9) == [0, 1, 2] and uncovered([], other, 0.9) == []
    assert uncovered([masks[0], masks[0]], [], 0.9) == [0, 1], "with each other they are not compared"
