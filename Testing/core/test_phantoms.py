"""The phantoms look like the scans they stand for, and the same person appears wherever the grid lies."""

import numpy as np
import pytest
from scipy import ndimage

from mass_core.data.phantoms import LABELS, subject
from mass_core.errors import InputError

COARSE = {"shape_zyx": (56, 56, 64), "spacing_zyx": (6.0, 5.6, 5.6)}


@pytest.fixture(scope="module")
def ct():
    return subject(0, "ct", **COARSE)


@pytest.fixture(scope="module")
def mr():
    return subject(0, "mr", **COARSE)


def centre_lps(labels, value: int) -> np.ndarray:
    z, y, x = ndimage.center_of_mass(labels.array == value)
    return (labels.geometry.affine @ (x, y, z, 1))[:3]


def test_every_structure_is_there_and_of_human_size(ct) -> None:
    image, labels = ct
    litres = {LABELS[v]: float((labels.array == v).sum() * 6.0 * 5.6 * 5.6 / 1e6) for v in LABELS}
    assert set(np.unique(labels.array)) == {0, *LABELS}
    assert image.geometry == labels.geometry and image.array.dtype == np.float32 and labels.array.dtype == np.uint8
    assert 0.7 < litres["liver"] < 2.5
    assert 0.05 < litres["right kidney"] < 0.25 and 0.05 < litres["left kidney"] < 0.25


def test_structures_lie_where_they_do_in_people(ct) -> None:
    _, labels = ct
    left, posterior, superior = np.array([centre_lps(labels, v) for v in sorted(LABELS)]).T
    liver, right_kidney, left_kidney, spine, aorta, right_lung, left_lung = range(7)
    assert left[liver] < 0 and left[right_kidney] < 0 < left[left_kidney] and left[right_lung] < 0 < left[left_lung]
    assert posterior[spine] > posterior[aorta] > posterior[liver]
    assert superior[right_lung] > superior[liver] > superior[right_kidney]
    assert superior[right_kidney] < superior[left_kidney]


def test_ct_is_in_hounsfield_units(ct) -> None:
    image, labels = ct
    median = {LABELS[v]: float(np.median(image.array[ndimage.binary_erosion(labels.array == v)])) for v in LABELS}
    assert image.array.min() >= -1024 and np.median(image.array[:, -3:]) == pytest.approx(-1000, abs=10)
    assert median["liver"] == pytest.approx(108, abs=25)
    assert median["aorta"] == pytest.approx(160, abs=40)
    assert median["right lung"] == pytest.approx(-830, abs=40)
    assert median["spine"] > 150


def test_mr_shows_the_same_person_on_a_scale_of_its_own(ct, mr) -> None:
    image, labels = mr
    np.testing.assert_array_equal(labels.array, ct[1].array)
    assert image.array.min() >= 0 and image.array.max() > 100
    inside = [np.median(image.array[labels.array == v]) for v in (5, 1)]
    assert inside[0] < 0.5 * inside[1], "flowing blood is darker than liver"
    other, _ = subject(1, "mr", **COARSE)
    assert not 0.8 < other.array.max() / image.array.max() < 1.25


def test_a_seed_is_a_person(ct) -> None:
    again, _ = subject(0, "ct", **COARSE)
    np.testing.assert_array_equal(again.array, ct[0].array)
    _, other = subject(1, "ct", **COARSE)
    here, there = ct[1].array == 2, other.array == 2
    assert 2 * (here & there).sum() / (here.sum() + there.sum()) < 0.8


def test_orientation_changes_the_storage_not_the_person(ct) -> None:
    """Stored with x to posterior, y to inferior, z to the left: the array is a permutation of the usual one."""
    _, stored = subject(0, "ct", shape_zyx=(64, 56, 56), spacing_zyx=(5.6, 6.0, 5.6), orientation="PIL")
    np.testing.assert_array_equal(stored.array.transpose(1, 2, 0)[::-1, ::-1, ::-1], ct[1].array)
    np.testing.assert_allclose(centre_lps(stored, 1), centre_lps(ct[1], 1), atol=1e-6)


def test_oblique_grids_see_the_person_in_the_same_place(ct) -> None:
    _, tilted = subject(0, "ct", **COARSE, oblique_degrees=20)
    assert not tilted.geometry.matches(ct[1].geometry)
    np.testing.assert_allclose(centre_lps(tilted, 2), centre_lps(ct[1], 2), atol=1.5)


@pytest.mark.parametrize("wrong", [{"modality": "us"}, {"orientation": "RRS"}, {"orientation": "RA"}, {"orientation": "XYZ"}])
def test_impossible_wishes_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(InputError):
        subject(0, **wrong)
