"""Crops of labelled scans: where they lie, what they show, and that they are the same whenever they are asked for."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mass_core.augmentation.views import cut
from mass_core.config import Recipe
from mass_core.data.dataset import Dataset
from mass_core.encoding.task import Task, TaskLabel
from training.finetune.config import CropConfig, FinetuneConfig
from training.finetune.crops import Crops, collate, steps_of, voxels_by_plane
from training.runs.distributed import ProcessGroup

from .balls import SHAPE, SPACING, write_dataset

STILL = CropConfig(affine_probability=0.0, jitter=0.0)
SHOWN = {"b": (1,)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return Dataset.read(write_dataset(tmp_path_factory.mktemp("balls"), shown=SHOWN))


def task(*spacings) -> Task:
    labels = tuple(
        TaskLabel(value=value, name=f"label {value}", spacing_zyx=spacing, tokens=(torch.zeros(11, 32),))
        for value, spacing in enumerate(spacings, 1)
    )
    return Task(labels=labels, fingerprint="f", weights="w", recipe=Recipe(), modality="mr")


def crops(dataset, *spacings, window=15, **config) -> Crops:
    settings = FinetuneConfig(**{"name": "test", "crops": STILL, "epochs": 4, **config})
    planes = {name: voxels_by_plane(dataset.labels(name)) for name in dataset.splits["train"]}
    return Crops(dataset, planes, task(*spacings), settings, window)


def views(made: Crops, numbers) -> tuple[np.ndarray, np.ndarray]:
    batch = collate([made[number] for number in numbers])
    images, classes = cut(batch, (made.window,) * 3, made.config.crops, torch.Generator().manual_seed(0))
    return images[:, 0, 0].numpy(), classes[:, 0, 0].numpy()


def middle(made: Crops, number: int) -> np.ndarray:
    """Index of the scan's voxel in the middle of a crop, counted from the part of the scan the crop holds."""
    crop = made[number]
    return crop.affine[0, :, :3] @ np.full(3, (made.window - 1) / 2) + crop.affine[0, :, 3]


def test_a_crop_at_the_scan_s_own_spacing_is_a_part_of_the_scan(dataset):
    """No rotation, no other spacing: voxel for voxel what is stored."""
    made = crops(dataset, SPACING, SPACING, window=7, crops=replace(STILL, foreground_share=1.0))
    images, classes = views(made, range(8))
    for number, image, numbers in zip(range(8), images, classes, strict=True):
        crop = made[number]
        start = np.rint(crop.affine[0, :, 3]).astype(int)
        assert np.allclose(crop.affine[0, :, 3], start, atol=1e-4) and np.allclose(crop.affine[0, :, :3], np.eye(3))
        part = tuple(slice(a, a + 7) for a in start)
        assert np.array_equal(image, crop.image[part].astype(np.float32)) and np.array_equal(numbers, crop.numbers[part])


def test_a_crop_at_another_spacing_shows_the_ball_at_its_size_in_mm(dataset):
    """6 mm radius: 905 mm3, which at 2 mm voxels is 113 of them, whatever the scan's own grid."""
    made = crops(dataset, (2.0, 2.0, 2.0), (2.0, 2.0, 2.0), window=16, crops=replace(STILL, foreground_share=1.0))
    _, classes = views(made, range(40))
    whole = [(numbers == 1).sum() for numbers in classes if not (numbers[[0, -1]] == 1).any() and (numbers == 1).any()]
    assert len(whole) > 5 and np.mean(whole) == pytest.approx(113, rel=0.15)
    assert made.groups[0].voxels[0] == pytest.approx(113, rel=0.1)


def test_foreground_crops_are_centred_in_a_class_both_alike(dataset):
    """Scan b has no second ball, which does not make it rarer."""
    made = crops(dataset, SPACING, SPACING, window=3, crops=replace(STILL, foreground_share=1.0), epochs=2, steps_per_epoch=100)
    _, classes = views(made, range(400))
    centres = classes[:, 1, 1, 1]
    assert (centres > 0).all() and np.mean(centres == 1) == pytest.approx(0.5, abs=0.08)


def test_other_crops_lie_anywhere_and_inside(dataset):
    made = crops(dataset, SPACING, SPACING, window=15, crops=replace(STILL, foreground_share=0.0), epochs=2)
    found = []
    for number in range(300):
        crop = made[number]
        corners = np.array([0, 14]) + crop.affine[0, :, 3:]
        assert corners.min() > -0.51 and (corners[:, 1] < np.array(crop.image.shape) - 0.49).all()
        found.append((crop.numbers[tuple(np.rint(middle(made, number)).astype(int))] > 0).any())
    assert 0 < np.mean(found) < 0.3


def test_a_scan_smaller_than_the_crop_lies_inside_it(dataset):
    made = crops(dataset, (4.0, 4.0, 4.0), (4.0, 4.0, 4.0), window=32, crops=replace(STILL, foreground_share=0.5))
    for number in range(40):
        assert made[number].image.shape == SHAPE


def test_a_step_trains_one_working_spacing(dataset):
    made = crops(dataset, SPACING, (2.0, 2.0, 2.0), batch_size=4)
    assert [group.rows for group in made.groups] == [(0,), (1,)]
    chosen = [{made[step * 4 + place].group for place in range(4)} for step in range(40)]
    assert all(len(groups) == 1 for groups in chosen) and {g for groups in chosen for g in groups} == {0, 1}
    numbers = [set(np.unique(made[number].numbers)) for number in range(160)]
    assert set().union(*numbers) == {0, 1}


def test_a_number_is_the_same_crop_for_everybody(dataset):
    """Whoever computes it, in whatever number of processes; and from another start of the run."""
    made = crops(dataset, SPACING, SPACING, crops=CropConfig(), steps_per_epoch=3)
    alone = list(steps_of(made, 0, ProcessGroup(0, 1, torch.device("cpu"))))
    halves = [list(steps_of(made, 0, ProcessGroup(rank, 2, torch.device("cpu")))) for rank in range(2)]
    later = list(steps_of(made, 5, ProcessGroup(0, 1, torch.device("cpu"))))
    assert len(alone) == 12 and len(later) == 7
    for whole, first, second in zip(alone, *halves, strict=True):
        for one, other in zip(whole, [*first, *second], strict=True):
            assert np.array_equal(one.affine, other.affine) and np.array_equal(one.image, other.image)
    assert all(np.array_equal(a.affine, b.affine) for x, y in zip(alone[5:], later, strict=True) for a, b in zip(x, y, strict=True))
    other = crops(dataset, SPACING, SPACING, crops=CropConfig(), seed=7)
    assert not np.array_equal(made[0].affine, other[0].affine)


def test_voxels_are_counted_plane_by_plane():
    labels = np.zeros((3, 4, 4), np.uint16)
    labels[0, 0, :3], labels[2, 1, 1], labels[2, 2, 2] = 1, 1, 700
    assert {value: counts.tolist() for value, counts in voxels_by_plane(labels).items()} == {1: [3, 0, 1], 700: [0, 0, 1]}
