"""Window positions, blend weights, and their sums; the first mends of the released script: 12, 18 and 51."""

import numpy as np
import pytest
import torch

from mass_core.inference.blending import TopLabels, WindowBlender, blend_weights
from mass_core.inference.sliding_window import padded, positions, starts
from mass_core.volumes.boxes import Box


@pytest.mark.parametrize(
    ("size", "window", "overlap", "expected"),
    [
        (128, 128, 0.5, [0]),
        (100, 128, 0.5, [0]),
        (129, 128, 0.5, [0, 1]),
        (192, 128, 0.5, [0, 64]),
        (256, 128, 0.5, [0, 64, 128]),
        (230, 128, 0.25, [0, 96, 102]),
        (256, 128, 0.0, [0, 128]),
        (5, 2, 0.9, [0, 1, 2, 3]),
    ],
)
def test_starts(size: int, window: int, overlap: float, expected: list[int]) -> None:
    assert starts(size, window, overlap) == expected


def released_evaluator_starts(size: int, window: int, overlap: float) -> list[int]:
    """The rule of the released evaluator (its fact sheet, section 5)."""
    stride = int(window * (1 - overlap))
    return [min(i * stride, size - window) for i in range(max(1, size // stride))]


def test_every_voxel_is_covered_and_no_window_comes_twice() -> None:
    old_misses, old_repeats = 0, 0
    for size in range(128, 400, 3):
        for overlap in (0.0, 0.25, 0.4, 0.5, 0.75):
            old, new = released_evaluator_starts(size, 128, overlap), starts(size, 128, overlap)
            assert len(new) == len(set(new))
            assert covered(new, size) == size
            old_misses += size - covered(old, size)
            old_repeats += len(old) - len(set(old))
    assert old_misses > 0, "the rule this one replaces left voxels without a window"
    assert old_repeats > 0, "and computed windows twice"


def covered(first_voxels: list[int], size: int) -> int:
    return len({voxel for start in first_voxels for voxel in range(start, min(start + 128, size))})


def test_positions_are_ordered_along_z() -> None:
    assert positions((4, 2, 6), (2, 2, 4), 0.5) == [(0, 0, 0), (0, 0, 2), (1, 0, 0), (1, 0, 2), (2, 0, 0), (2, 0, 2)]


def test_axes_shorter_than_the_window_are_padded_at_their_end() -> None:
    volume = padded(np.ones((10, 40, 20), np.float32), (32, 32, 32))
    assert volume.shape == (32, 40, 32) and volume[:10, :, :20].all() and volume.sum() == 10 * 40 * 20


def test_weights_are_a_gaussian_of_an_eighth_of_the_window() -> None:
    weights = blend_weights((17, 17, 17), floor=0)
    assert weights.max() == weights[8, 8, 8] == 1
    sigma = 17 / 8
    assert weights[8, 8, 10].item() == pytest.approx(np.exp(-0.5 * (2 / sigma) ** 2), rel=1e-5)
    assert torch.equal(weights, weights.flip(0, 1, 2))


@pytest.mark.parametrize(("floor", "corner"), [(0.0, 0.0055), (1e-3, 1.0)])
def test_corners_of_a_volume_keep_their_probability(floor: float, corner: float) -> None:
    """Mend 12: without a floor a corner's weight of 5e-11 is divided by 1e-8 at least, so it loses what the network said."""
    blend = WindowBlender((128, 128), blend_weights((128, 128, 128), floor))
    blend.add((0, 0, 0), torch.ones(1, 128, 128, 128))
    [(_, _, values)] = blend.finish(128)
    assert values[64, 64, 64] == pytest.approx(1)
    assert values[0, 0, 0] == pytest.approx(corner, rel=0.02)


def blended(maps_KDHW: torch.Tensor, window: int, *, least: float) -> tuple[np.ndarray, int]:
    """Blend of windows cut from known maps, and the most memory held."""
    count, *shape = maps_KDHW.shape
    blend = WindowBlender((shape[1], shape[2]), blend_weights((window,) * 3, 1e-3), least=least)
    result = np.zeros(maps_KDHW.shape, np.float32)
    most = 0
    todo = positions((shape[0], shape[1], shape[2]), (window,) * 3, 0.5)
    for number, (z, y, x) in enumerate(todo):
        blend.add((z, y, x), maps_KDHW[:, z : z + window, y : y + window, x : x + window])
        most = max(most, sum(patch.sums.nbytes for patch in blend._patches.values()) + blend._total.nbytes)
        if number + 1 == len(todo) or todo[number + 1][0] != z:
            next_plane = todo[number + 1][0] if number + 1 < len(todo) else shape[0]
            for label, ((z0, y0, x0), (z1, y1, x1)), values in blend.finish(next_plane):
                result[label, z0:z1, y0:y1, x0:x1] = values
    return result, most


def test_windows_that_agree_blend_to_what_they_say() -> None:
    maps = torch.rand(3, 21, 18, 25)
    result, _ = blended(maps, 8, least=0)
    np.testing.assert_allclose(result, maps.numpy(), atol=1e-6)


def test_windows_that_disagree_are_weighted() -> None:
    weights = torch.tensor([3.0, 1.0])[None, None]
    blend = WindowBlender((1, 3), weights)
    blend.add((0, 0, 0), torch.tensor([1.0, 1.0])[None, None, None])
    blend.add((0, 0, 1), torch.tensor([0.0, 0.5])[None, None, None])
    [(label, box, values)] = blend.finish(1)
    assert (label, box) == (0, ((0, 0, 0), (1, 1, 3)))
    np.testing.assert_allclose(values[0, 0], [1.0, (1 * 1 + 3 * 0) / 4, 0.5])


def test_windows_out_of_order_are_refused() -> None:
    blend = WindowBlender((4, 4), torch.ones(2, 4, 4))
    with pytest.raises(ValueError, match="ordered along z"):
        blend.add((1, 0, 0), torch.ones(1, 2, 4, 4))


def test_memory_follows_what_is_found_not_the_number_of_labels() -> None:
    """Mend 51: forty labels, each in a corner of its own, take less memory than two whole volumes would."""
    maps = torch.zeros(40, 48, 48, 48)
    for label in range(40):
        z, y, x = 12 * (label % 4), 12 * (label // 4 % 4), 12 * (label // 16)
        maps[label, z : z + 6, y : y + 6, x : x + 6] = 0.9
    result, most = blended(maps, 16, least=0.01)
    np.testing.assert_allclose(result, maps.numpy(), atol=0.01)
    one_volume = 48**3 * 4
    assert most < 2 * one_volume < 40 * one_volume


def test_what_is_left_out_is_small() -> None:
    maps = torch.rand(2, 20, 20, 20) ** 8
    whole, _ = blended(maps, 8, least=0)
    noticed, _ = blended(maps, 8, least=0.02)
    assert np.abs(whole - noticed).max() <= 0.02


BOX = Box((0, 0, 0), (1, 1, 4))


def test_best_keeps_the_most_probable_labels() -> None:
    best = TopLabels((1, 1, 4), 2, exact=True)
    best.put(0, BOX, np.array([[[0.9, 0.2, 0.5, 0.0]]], np.float32))
    best.put(1, BOX, np.array([[[0.8, 0.7, 0.5, 0.0]]], np.float32))
    best.put(2, BOX, np.array([[[0.1, 0.6, 0.4, 0.0]]], np.float32))
    assert best.decide([5, 300, 7], 0.5).tolist() == [[[5, 300, 5, 0]]], "of equal ones the lower label"
    np.testing.assert_allclose(best.probability(1, BOX)[0, 0], [0.8, 0.7, 0.5, 0])
    np.testing.assert_allclose(best.probability(2, BOX)[0, 0], [0, 0.6, 0, 0])


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_best_keeps_what_sorting_would(depth: int) -> None:
    """Labels in boxes that overlap here and there, some entered in two portions of planes."""
    rng, shape = np.random.default_rng(depth), (6, 7, 8)
    maps, best = np.zeros((9, *shape), np.float32), TopLabels(shape, depth, exact=True)
    for first, last in ((0, 3), (3, 6)):
        for label in range(9):
            low = rng.integers(0, (3, 5, 6))
            low[0] = first
            box = Box(tuple(low.tolist()), (last, *rng.integers(low[1:] + 1, shape[1:]).tolist()))
            maps[label][box.slices()] = np.where(rng.random(box.size) > 0.2, rng.random(box.size), 0)
            best.put(label, box, maps[label][box.slices()])
    order = np.argsort(-maps, axis=0, kind="stable")
    np.testing.assert_array_equal(best.most_probable(), maps.max(axis=0))
    np.testing.assert_array_equal(best.decide(range(1, 10), 0.25), np.where(maps.max(axis=0) >= 0.25, order[0] + 1, 0))
    ranks = np.argsort(order, axis=0)
    for label in range(9):
        found = best.probability(label, Box((0, 0, 0), shape))
        np.testing.assert_array_equal(found, np.where(ranks[label] < depth, maps[label], 0))


def test_threshold_is_inclusive() -> None:
    best = TopLabels((1, 1, 4), 1, exact=True)
    best.put(0, BOX, np.array([[[0.5, 0.4999, 0.6, 1.0]]], np.float32))
    assert best.decide([1], 0.5).tolist() == [[[1, 0, 1, 1]]]


def test_padding_is_cut_off() -> None:
    best = TopLabels((1, 1, 3), 1, exact=True)
    best.put(0, BOX, np.full((1, 1, 4), 0.75, np.float32))
    best.put(0, Box((1, 0, 0), (2, 1, 3)), np.full((1, 1, 3), 0.75, np.float32))
    assert best.boxes == {0: ((0, 0, 0), (1, 1, 3))}
    assert best.decide([1], 0.5).tolist() == [[[1, 1, 1]]]
