"""Masks from supervoxels: what they are on images whose objects are known."""

import numpy as np
import pytest

pytest.importorskip("skimage")

from scipy import ndimage  # noqa: E402

from mass_core.errors import InputError  # noqa: E402
from mass_core.masks.supervoxels.merge_tree import merge_tree, neighbours  # noqa: E402
from mass_core.masks.supervoxels.slic import SlicConfig, equalise, foreground, generate  # noqa: E402

SPACING = (2.0, 1.0, 1.0)


def scene() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A bright body with a ball, a rod and a shell, with noise, in air; millimetres, not voxels, make the ball round."""
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip((24, 48, 48), SPACING, strict=True)), indexing="ij")
    objects = {
        "ball": (z - 24) ** 2 + (y - 16) ** 2 + (x - 16) ** 2 < 8**2,
        "rod": ((y - 34) ** 2 + (x - 14) ** 2 < 3**2) & (z > 8) & (z < 40),
        "block": (abs(z - 24) < 8) & (abs(y - 32) < 6) & (abs(x - 32) < 7),
    }
    body = ((y - 24) / 22) ** 2 + ((x - 24) / 22) ** 2 < 1
    array = np.where(body, 0.0, -6.0)
    for value, name in ((1.0, "ball"), (2.0, "rod"), (-1.0, "block")):
        array[objects[name]] = value
    noise = np.random.default_rng(0).normal(0, 0.15, array.shape)
    return (array + np.where(body, noise, 0)).astype(np.float32), {**objects, "body": body}


@pytest.fixture(scope="module")
def found() -> list:
    return generate(scene()[0], SPACING, config=SlicConfig(masks=200))


def best_dice(found: list, truth: np.ndarray) -> float:
    best = 0.0
    for (start, stop), mask in found:
        part = truth[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        best = max(best, 2 * float((part & mask).sum()) / float(mask.sum() + truth.sum()))
    return best


@pytest.mark.parametrize("name", ["ball", "rod", "block"])
def test_objects_of_the_scene_are_among_the_masks(found: list, name: str) -> None:
    assert best_dice(found, scene()[1][name]) > 0.9


def test_each_mask_is_one_object_in_its_tight_box(found: list) -> None:
    body = scene()[1]["body"]
    sizes = [int(mask.sum()) for _, mask in found]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] >= 30 and sizes[0] <= 0.25 * body.sum() * 1.05
    for (start, stop), mask in found:
        assert mask.shape == tuple(b - a for a, b in zip(start, stop, strict=True)) and mask.dtype == bool
        assert all(mask.any(axis=tuple(a for a in range(3) if a != axis))[[0, -1]].all() for axis in range(3))
        assert ndimage.label(mask)[1] == 1
        assert body[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))][mask].mean() > 0.9


def test_masks_differ_from_each_other(found: list) -> None:
    full = np.zeros((len(found), *scene()[0].shape), bool)
    for row, ((start, stop), mask) in zip(full, found, strict=True):
        row[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = mask
    flat = full.reshape(len(found), -1).astype(np.float32)
    common, sizes = flat @ flat.T, flat.sum(1)
    iou = common / (sizes[:, None] + sizes - common) - np.eye(len(found))
    # Filled holes may raise single pairs a little above the limit that holds for the cells.
    assert np.quantile(iou, 0.9999) <= 0.5 and iou.max() < 0.9


def test_a_seed_decides_and_repeats() -> None:
    array = scene()[0]
    few = SlicConfig(masks=20)
    one, same, other = (generate(array, SPACING, config=few, seed=seed) for seed in (1, 1, 2))
    assert [box for box, _ in one] == [box for box, _ in same] and all(np.array_equal(a[1], b[1]) for a, b in zip(one, same, strict=True))
    assert [box for box, _ in one] != [box for box, _ in other]


def test_air_is_told_from_dark_tissue() -> None:
    array, objects = scene()
    assert (foreground(array) ^ objects["body"]).mean() < 0.02
    tissue = np.random.default_rng(0).normal(0, 1, (10, 20, 20)).astype(np.float32)
    assert foreground(tissue).all()
    assert foreground(np.zeros((4, 4, 4), np.float32)).all()


def test_equalising_spreads_what_is_common() -> None:
    """Two tissues 0.1 apart beside a far outlier: apart by less than 1 % of the range before, by more than 10 % after."""
    array = np.concatenate([np.random.default_rng(0).normal(m, 0.02, 5000) for m in (0, 0.1, 20)]).astype(np.float32).reshape(3, 50, 100)
    after = equalise(array, np.ones(array.shape, bool))
    means = after.reshape(3, -1).mean(1)
    assert (means[1] - means[0]) / (after.max() - after.min()) > 0.1
    assert after.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("array", "reason"), [(np.zeros((4, 4), np.float32), "3D image"), (np.full((4, 4, 4), np.nan, np.float32), "not finite")]
)
def test_what_cannot_be_divided_is_refused(array: np.ndarray, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        generate(array, SPACING)


@pytest.mark.parametrize("shape", [(4, 4, 4), (1, 30, 30), (2, 2, 2)])
def test_tiny_flat_and_constant_images_do_not_fail(shape: tuple) -> None:
    noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert all(mask.sum() >= 30 for _, mask in generate(noise, (1.0, 1.0, 1.0)))
    assert isinstance(generate(np.zeros(shape, np.float32), (1.0, 1.0, 1.0)), list)


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError):
        SlicConfig(max_share=0)


def test_neighbours_share_a_face() -> None:
    labels = np.array([[[0, 0, 1], [2, 2, 1], [-1, 3, 1]]])
    u, v = neighbours(labels)
    assert list(zip(u.tolist(), v.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]


def test_similar_regions_merge_first() -> None:
    """Four regions in a row with means 0, 1, 5, 6 voxels each: (0 1) and (2 3) merge at 1 * 6 * 6 / 12 = 3, then all at 25 * 6 = 150."""
    pairs = np.array([0, 1, 2]), np.array([1, 2, 3])
    tree = merge_tree(pairs, np.array([[0.0], [1.0], [5.0], [6.0]]), np.full(4, 6.0))
    assert tree.parent.tolist() == [4, 4, 5, 5, 6, 6, -1]
    assert tree.height.tolist() == [0, 0, 0, 0, 3, 3, 150]
    assert [sorted(tree.below(node).tolist()) for node in (4, 5, 6)] == [[0, 1], [2, 3], [0, 1, 2, 3]]


def test_unconnected_regions_stay_apart() -> None:
    tree = merge_tree((np.array([0]), np.array([1])), np.array([[0.0], [0.0], [0.0]]), np.ones(3))
    assert tree.parent.tolist() == [3, 3, -1, -1] and sorted(tree.order.tolist()) == [0, 1, 2]


def test_the_tree_is_that_of_merging_one_by_one() -> None:
    """On a complete graph the rounds give exactly Ward's clusters, as scipy computes them."""
    from scipy.cluster.hierarchy import ward

    points = np.random.default_rng(3).normal(size=(40, 3))
    u, v = np.triu_indices(40, 1)
    tree = merge_tree((u, v), points, np.ones(40))
    ours = {frozenset(tree.below(node).tolist()) for node in range(40, 79)}
    clusters: list[frozenset] = [frozenset([i]) for i in range(40)]
    for one, two, _, _ in ward(points):
        clusters.append(clusters[int(one)] | clusters[int(two)])
    assert ours == set(clusters[40:])
