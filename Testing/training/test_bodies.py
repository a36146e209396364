"""Random bodies: the same from the same seed, true pairs within a family, sides that mirror each other."""

import functools

import numpy as np
import pytest
import SimpleITK as sitk

from training.pretrain import bodies
from training.pretrain.bodies import LABELS, MM, body, member, write_families
from training.pretrain.synthetic import RIGHT, synthetic_image

SIZE = 64


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Bodies of fewer voxels: each of 112 takes over a second."""
    monkeypatch.setattr(bodies, "SIZE", SIZE)


@functools.cache
def plan(seed):
    return body(LABELS, np.random.default_rng(seed))


def test_a_body_depends_on_its_seed_alone():
    assert np.array_equal(plan(3), plan.__wrapped__(3)) and not np.array_equal(plan(3), plan(4))


def test_numbers_stay_within_the_family():
    for seed in range(4):
        values = np.unique(plan(seed))
        own = values[values > 0] % RIGHT
        assert LABELS < own.min() and own.max() < 2 * LABELS and len(np.unique(own)) > 10


def test_right_structures_mirror_left_ones():
    pairs = [(labels, value) for labels in map(plan, range(8)) for value in np.unique(labels[labels > RIGHT])]
    assert pairs
    for labels, value in pairs[:20]:
        z, y, x = np.nonzero(labels == value)
        assert x.mean() < SIZE / 2  # The stored side is the right half.
        others = np.argwhere(labels == value - RIGHT)
        if len(others) > 100 and len(x) > 100:
            assert others[:, 2].mean() > SIZE / 2


def test_members_show_the_same_structures_elsewhere():
    one = plan(5)
    members = [member(one, np.random.default_rng(seed)) for seed in range(3)]
    shared = set(np.unique(members[0])) & set(np.unique(members[1])) & set(np.unique(members[2]))
    assert len(shared) > 6 and all(max(labels.shape) <= SIZE for labels in members)
    assert len({labels.shape for labels in members}) > 1


def test_written_label_maps_hold_millimetres_and_give_images(tmp_path):
    write_families(tmp_path, families=1, members=2, seed=0)
    image = sitk.ReadImage(str(tmp_path / "body_00_1.nii.gz"))
    assert image.GetSpacing() == (MM, MM, MM)
    labels = sitk.GetArrayFromImage(image)
    drawn = synthetic_image(labels, np.random.default_rng(0), 1)
    assert drawn.shape == labels.shape and np.isfinite(drawn).all()
    assert len(list(tmp_path.glob("*.nii.gz"))) == 2
