"""Probabilities of several working grids combined on the target's grid."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from mass_core.config import Recipe
from mass_core.inference.blending import TopLabels
from mass_core.inference.decision import WorkingResult, interpolated, keep_largest_parts, nearest
from mass_core.volumes.boxes import Box
from mass_core.volumes.preprocess import prepare
from mass_core.volumes.volume import Geometry, Volume


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def ball_in_coarse_voxels(numbers: Sequence[int]) -> tuple[WorkingResult, np.ndarray]:
    """A ball of 24 mm as probabilities on a 4 mm grid, and the truth on the target's 1 mm grid."""
    grid = np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"))
    truth = ((grid - 16) ** 2).sum(0) <= 12**2
    image = Volume(truth.astype(np.float32), Geometry(shape_zyx=(32, 32, 32)))
    record = prepare(image, Recipe(spacing_zyx=(4.0,) * 3, modality="mr", body_crop="none")).record
    working = record.working
    z, y, x = np.meshgrid(*[np.arange(n) for n in working.shape_zyx], indexing="ij")
    places = np.stack([x, y, z], -1) @ working.affine[:3, :3].T + working.affine[:3, 3]
    distance = np.linalg.norm(places - 16, axis=-1)
    best = TopLabels(working.shape_zyx, 1, exact=False)
    best.put(0, Box((0, 0, 0), working.shape_zyx), 1 / (1 + np.exp((distance - 12) / 2)).astype(np.float32))
    return WorkingResult(best=best, numbers=tuple(numbers), record=record), truth


def test_probabilities_are_interpolated_not_labels() -> None:
    """Mend 14: labels decided at 4 mm and enlarged have stairs of 4 mm; interpolated probabilities give a ball."""
    group, truth = ball_in_coarse_voxels([1])
    stairs = nearest([group], 0.5, keep_largest=False) == 1
    smooth = interpolated([group], 0.5, lambda done, total: None) == 1
    assert dice(stairs, truth) < 0.95 < 0.97 < dice(smooth, truth)
    assert stairs.shape == smooth.shape == truth.shape


def test_slabs_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    group, _ = ball_in_coarse_voxels([3])
    whole = interpolated([group], 0.5, lambda done, total: None)
    monkeypatch.setattr("mass_core.inference.decision._SLAB", 5)
    assert np.array_equal(whole, interpolated([group], 0.5, lambda done, total: None))
    assert np.unique(whole).tolist() == [0, 3]


@pytest.mark.parametrize("smooth", [True, False])
def test_more_probable_group_wins(smooth: bool) -> None:
    sure, _ = ball_in_coarse_voxels([1])
    unsure = replace(sure, best=TopLabels(sure.best.shape, 1, exact=False), numbers=(2,))
    unsure.best.put(0, Box((0, 0, 0), sure.best.shape), np.full(sure.best.shape, 0.6, np.float32))
    groups = [sure, unsure]
    labels = interpolated(groups, 0.5, lambda done, total: None) if smooth else nearest(groups, 0.5, keep_largest=False)
    assert labels[16, 16, 16] == 1
    assert labels[1, 1, 1] == 2
    assert labels[0, 0, 0] == 2, "the border goes on to the edge of the target"


def test_largest_component_of_every_label() -> None:
    labels = np.array([[[1, 1, 0, 1, 2, 0, 2, 2]]], np.uint8)
    assert keep_largest_parts(labels, {}) == 2
    assert labels.tolist() == [[[1, 1, 0, 0, 0, 0, 2, 2]]]


def test_of_lookalikes_the_one_in_the_right_place_is_kept() -> None:
    """The larger part counts less for lying far off; places are given in voxels of the whole map."""
    labels = np.zeros((1, 4, 30), np.uint8)
    labels[0, 1, 2:5] = labels[0, 2, 20:25] = 1
    asked: list[tuple[float, ...]] = []

    def near_the_left(centre_zyx: tuple[float, float, float]) -> float:
        asked.append(centre_zyx)
        return 1.0 if centre_zyx[2] < 10 else 0.5

    assert keep_largest_parts(labels, {}, {1: near_the_left}) == 5
    assert labels[0, 1, 2:5].all() and not labels[0, 2].any()
    assert sorted(asked) == [(0.0, 1.0, 3.0), (0.0, 2.0, 22.0)]


def test_as_many_parts_as_asked_for() -> None:
    labels = np.array([[[1, 1, 0, 1, 2, 0, 2, 2, 0, 1, 1, 1]]], np.uint8)
    assert keep_largest_parts(labels, {1: 2, 2: 5}) == 1
    assert labels.tolist() == [[[1, 1, 0, 0, 2, 0, 2, 2, 0, 1, 1, 1]]]
