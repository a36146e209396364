"""Three channels of a grey scan, and the slices masks start on: numbers that can be checked by hand."""

import dataclasses

import numpy as np
import pytest

from mass_core.errors import InputError
from mass_core.masks.slicewise.channels import LINEAR_HU, PROFILES, Profile, one_range, profile, three_channels, window, with_channels
from mass_core.masks.slicewise.seed_slices import by_bisection, seed_axes, seed_slices


def test_abdomen_windows_are_the_papers() -> None:
    """60/350, 15/250, 150/1200: the window's ends are black and white, its centre is grey."""
    assert PROFILES["abdomen_ct"].channels == ((-115, 235), (-110, 140), (-450, 750))
    hu = np.array([-1000, -450, -115, -110, 15, 60, 140, 150, 235, 750, 2000], np.float32).reshape(1, 1, -1)
    soft, contrast, bone = np.moveaxis(three_channels(hu, PROFILES["abdomen_ct"]), -1, 0)
    assert soft.ravel().tolist() == [0, 0, 0, 4, 95, 128, 186, 193, 255, 255, 255]
    assert contrast.ravel().tolist() == [0, 0, 0, 0, 128, 173, 255, 255, 255, 255, 255]
    assert bone.ravel()[[0, 1, 7, 9, 10]].tolist() == [0, 0, 128, 255, 255]


def test_mr_quantiles_are_of_the_body() -> None:
    """The body holds 0 .. 100, so that the quantiles are their own percentages; what lies around it does not move them."""
    array = np.full((1, 2, 101), -5000.0)
    array[0, 0] = np.arange(101)
    body = np.zeros(array.shape, bool)
    body[0, 0] = True
    seen = three_channels(array, PROFILES["brain_mr"], body)
    assert seen.shape == (1, 2, 101, 3) and seen.dtype == np.uint8
    assert seen[0, 0, [4, 5, 50, 95, 96], 0].tolist() == [0, 0, 128, 255, 255]
    assert seen[0, 0, [15, 50, 85], 1].tolist() == [0, 128, 255]
    assert seen[0, 0, [1, 99], 2].tolist() == [0, 255]
    assert not seen[0, 1].any()
    assert np.array_equal(
        three_channels(array, PROFILES["brain_mr"], np.zeros(array.shape, bool)), three_channels(array, PROFILES["brain_mr"])
    )


def test_quantiles_that_coincide_show_what_lies_above() -> None:
    """PET of which 95 % is nothing."""
    array = np.zeros((1, 1, 100))
    array[..., 99] = 7.0
    assert three_channels(array, PROFILES["whole_body_pet"])[0, 0, [0, 99], 0].tolist() == [0, 255]


def test_ablation_strategies_repeat_one_range() -> None:
    linear = dataclasses.replace(PROFILES["abdomen_ct"], channels=one_range(LINEAR_HU))
    seen = three_channels(np.array([[[-400.0, 550.0, 1500.0]]]), linear)
    assert seen[0, 0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


def test_strategies_of_the_ablation_change_nothing_but_the_channels() -> None:
    """Linear is the paper's range for CT; MR has no fixed one, and takes all there is."""
    ct, mr = PROFILES["chest_ct"], PROFILES["brain_mr"]
    assert with_channels(ct, "three") is ct
    assert with_channels(ct, "linear") == dataclasses.replace(ct, channels=((-400, 1500),) * 3)
    assert with_channels(ct, "single") == dataclasses.replace(ct, channels=((-1350, 150),) * 3)
    assert with_channels(mr, "single") == dataclasses.replace(mr, channels=((5, 95),) * 3)
    suv = with_channels(PROFILES["pet_suv"], "linear")
    seen = three_channels(np.array([[[2.0, 7.0, 12.0]]]), suv)
    assert seen[0, 0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


def test_profiles_follow_the_modality() -> None:
    assert [profile("auto", m) for m in ("ct", "mr", "pet")] == [PROFILES[n] for n in ("abdomen_ct", "abdomen_mr", "whole_body_pet")]
    with pytest.raises(InputError, match="is for MR, the scan is CT"):
        profile("brain_mr", "ct")
    with pytest.raises(InputError, match="no profile 'knee'"):
        profile("knee", "mr")


def test_the_released_values_have_their_names() -> None:
    """A row of the released table each: windows, smallest areas, thresholds."""
    head = PROFILES["released_structseg_head_oar"]
    assert head.channels == (window(90, 300), window(55, 120), window(600, 3000))
    assert (head.min_pixels, head.min_voxels, head.min_predicted_iou, head.min_stability) == (10, 30, 0.3, 0.5)
    assert (head.interval_mm, head.min_slices, head.duplicate_iou, head.keep) == (30, 10, 0.95, "larger")
    assert PROFILES["released_autopet_suv"].unit == "intensity" and PROFILES["released_autopet_suv"].channels[2] == (0, 30)
    assert sum(name.startswith("released_") for name in PROFILES) == 11
    ours = PROFILES["abdomen_ct"]
    assert (ours.interval_mm, ours.duplicate_iou, ours.keep, ours.max_per_slice) == (15, 0.9, "random", 70)


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": ((0, 0), (0, 1), (0, 1))},
        {"unit": "percent", "channels": ((0, 101), (0, 1), (0, 1))},
        {"interval_mm": 0},
        {"min_voxels": 0},
        {"duplicate_iou": 1.5},
    ],
)
def test_profiles_that_cannot_work_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        Profile(**{"modality": "ct", "channels": one_range((0, 1)), **wrong})


@pytest.mark.parametrize(("value", "match"), [(np.nan, "not finite"), (np.inf, "not finite"), (3.0, "Every voxel of the image is 3")])
def test_images_that_show_nothing_are_refused(value: float, match: str) -> None:
    array = np.full((2, 2, 2), 3.0)
    array[0, 0, 0] = value
    with pytest.raises(InputError, match=match):
        three_channels(array, PROFILES["abdomen_ct"])


@pytest.mark.parametrize(
    ("spacing_zyx", "axes"),
    [((5, 0.7, 0.7), (0,)), ((0.7, 5, 0.7), (1,)), ((0.7, 0.7, 5), (2,)), ((1, 1, 1), (0,)), ((1.0, 1.3, 1.0), (0,)), ((1, 1.5, 1), (1,))],
)
def test_slices_are_cut_where_pixels_are_finest(spacing_zyx: tuple, axes: tuple) -> None:
    assert seed_axes(spacing_zyx) == axes and seed_axes(spacing_zyx, all_axes=True) == (0, 1, 2)


@pytest.mark.parametrize(
    ("count", "spacing", "interval", "expected"),
    [
        (16, 5.0, 15, [0, 3, 6, 9, 12, 15]),
        (18, 5.0, 15, [1, 4, 7, 10, 13, 16]),  # two slices are left over: one at each end
        (16, 4.0, 15, [0, 3, 6, 9, 12, 15]),  # floor(3.75) = 3
        (5, 20.0, 15, [0, 1, 2, 3, 4]),
        (11, 3.0000001, 15, [0, 5, 10]),  # a rounded 3 mm is 3 mm
        (3, 1.0, 15, [1]),
        (1, 1.0, 15, [0]),
    ],
)
def test_seeds_lie_an_interval_apart(count: int, spacing: float, interval: float, expected: list) -> None:
    assert seed_slices([True] * count, spacing, interval) == expected


def test_seeds_lie_in_the_body_only() -> None:
    occupied = np.zeros(40, bool)
    occupied[[10, 11, 20]] = True
    assert seed_slices(occupied, 3.0, 15) == [10, 15, 20]
    assert seed_slices(np.zeros(40, bool), 3.0, 15) == []


def test_a_least_number_of_seeds() -> None:
    assert seed_slices([True] * 19, 3.0, 30, at_least=10) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert seed_slices([True] * 4, 3.0, 30, at_least=10) == [0, 1, 2, 3]


def test_intervals_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="above zero"):
        seed_slices([True], 1.0, 0)


def test_bisection_goes_from_the_middle_outwards_and_leaves_nothing_out() -> None:
    assert by_bisection(7) == [[3], [1, 5], [0, 2, 4, 6]]
    assert by_bisection(2) == [[1], [0]] and by_bisection(1) == [[0]] and by_bisection(0) == []
    assert all(sorted(sum(by_bisection(count), [])) == list(range(count)) for count in range(40))
