"""Reference crops: where they lie, what they show, what is said about masks that do not fit."""

import dataclasses

import numpy as np
import pytest
import torch

from mass_core.config import RELEASED_SWITCHES, Recipe, recipe
from mass_core.encoding.reference_crops import ReferenceCrop, prepare_reference
from mass_core.encoding.reference_encoder import ReferenceEncoder
from mass_core.encoding.working_spacing import common_spacing, thickness_mm, working_spacing
from mass_core.errors import GeometryError, InputError
from mass_core.model import MASS
from mass_core.model.compute import Compute
from mass_core.progress import Steps
from mass_core.volumes.boxes import Box, label_boxes
from mass_core.volumes.label_maps import as_label_map
from mass_core.volumes.preprocess import prepare
from mass_core.volumes.volume import Geometry, Volume

RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
SMALL = Recipe(window_zyx=(32, 32, 32), spacing_zyx=(1.0, 1.0, 1.0), body_crop="none")
"""Windows of 32 mm."""
CHOOSE = Recipe(window_zyx=(64, 64, 64), spacing_zyx=None)
"""The working spacing is chosen for each label."""


def released(base: Recipe) -> Recipe:
    return recipe("released", base)


def without(switch: str, base: Recipe) -> Recipe:
    """The recipe with one mend taken back."""
    return dataclasses.replace(base, **{switch: RELEASED_SWITCHES[switch]})


def placed(array: np.ndarray, spacing_mm: float = 1.0) -> Volume:
    return Volume(array, Geometry(shape_zyx=array.shape, spacing_xyz=(spacing_mm,) * 3, direction=RAS))


def scan(shape: tuple[int, int, int] = (40, 50, 60), spacing_mm: float = 1.0) -> Volume:
    """An MR in which every voxel differs from its neighbours."""
    return placed(np.random.default_rng(0).normal(100, 20, shape).astype(np.float32), spacing_mm)


def marked(shape: tuple[int, int, int], *boxes: tuple[int, ...]) -> np.ndarray:
    """A label map; each box is value, start and stop along z, y, x."""
    labels = np.zeros(shape, np.uint8)
    for value, z0, z1, y0, y1, x0, x1 in boxes:
        labels[z0:z1, y0:y1, x0:x1] = value
    return labels


def crops_of(image: Volume, labels: Volume, values: list[int], settings: Recipe) -> list[ReferenceCrop]:
    """Crops at the spacing of a recipe."""
    assert settings.spacing_zyx is not None
    return prepare_reference(image, labels, values, settings, settings.spacing_zyx)


# --- one crop


@pytest.mark.parametrize("options", [SMALL, released(SMALL)], ids=["default", "released"])
def test_crop_lies_around_the_middle_of_the_mask(options: Recipe):
    labels = placed(marked((40, 50, 60), (3, 20, 25, 20, 26, 30, 37)))
    (crop,) = crops_of(scan(), labels, [3], options)
    assert crop.image.shape == (32, 32, 32)
    assert crop.image.dtype == np.float32
    assert crop.mask.shape == (32, 32, 32)
    assert crop.mask.dtype == np.uint8
    # Middles 22, 22.5 -> 22, 33; the window begins 16 before.
    assert np.argwhere(crop.mask).min(axis=0).tolist() == [20 - 6, 20 - 6, 30 - 17]
    assert np.array_equal(crop.mask, labels.array[6:38, 6:38, 17:49] == 3)
    assert crop.geometry == labels.geometry.cropped(((6, 6, 17), (38, 38, 49)))
    assert (crop.value, crop.kept, crop.covered, crop.geometry.spacing_zyx) == (3, 1.0, 1.0, (1.0, 1.0, 1.0))


def test_every_label_has_a_crop_of_its_own_in_the_order_asked():
    labels = placed(marked((40, 50, 60), (1, 5, 9, 5, 9, 5, 9), (7, 30, 36, 30, 36, 40, 46)))
    crops = crops_of(scan(), labels, [7, 1], SMALL)
    assert [crop.value for crop in crops] == [7, 1]
    assert [int(crop.mask.sum()) for crop in crops] == [216, 64]


# --- mends


def test_mend_9_reference_and_target_are_normalised_alike():
    """A crop at the edge of a CT: padded with water and standardised by itself, its voxels get other values than in the target."""
    array = np.random.default_rng(0).integers(-50, 80, (40, 50, 60)).astype(np.int16)
    array[:, :, 30:] = -1000
    array[5:8, 5:8, 28:60] = 900
    image = placed(array)
    labels = placed(marked(array.shape, (1, 0, 8, 0, 8, 0, 8)))
    options = dataclasses.replace(SMALL, modality="ct")
    target = prepare(image, options)
    (cured,) = crops_of(image, labels, [1], options)
    (defect,) = crops_of(image, labels, [1], without("normalise_before_crop", options))
    # Middle 4 (3.5 rounds to the even 4): the window begins at -12.
    inside = Box((12, 12, 12), (32, 32, 32)).slices()
    same = target.array[:20, :20, :20]
    assert np.allclose(cured.image[inside], same, atol=1e-5)
    assert (cured.image[:12] == 0).all()
    assert np.abs(defect.image[inside] - same).mean() > 0.5
    assert np.abs(defect.image[:12]).min() > 0.1  # water is no mean of this image


def test_mend_10_a_crop_without_air_is_still_ct():
    array = np.full((40, 50, 60), -1000, np.int16)
    array[5:35, 5:45, 5:55] = 40
    array[10:30, 10:30, 10:30] = 1000
    array[15:25, 15:25, 15:25] = 60
    labels = placed(marked(array.shape, (1, 17, 23, 17, 23, 17, 23)))
    options = dataclasses.replace(SMALL, window_zyx=(16, 16, 16))
    assert crops_of(placed(array), labels, [1], options)[0].modality == "ct"
    (defect,) = crops_of(placed(array), labels, [1], released(options))
    assert defect.modality == "pet"


def test_mend_16_two_far_parts_are_both_shown():
    """Parts 90 voxels apart, in a window of 32: the crop between them shows neither."""
    labels = placed(marked((40, 50, 130), (1, 10, 18, 10, 18, 10, 18), (1, 20, 30, 20, 30, 110, 120)))
    image = scan((40, 50, 130))
    (defect,) = crops_of(image, labels, [1], without("cover_reference", SMALL))
    assert (defect.mask.sum(), defect.kept, defect.covered) == (0, 0.0, 0.0)
    assert "0%" in defect.warnings[-1]
    larger, smaller = crops_of(image, labels, [1], SMALL)
    assert (larger.mask.sum(), smaller.mask.sum()) == (1000, 512)
    assert larger.kept == pytest.approx(1000 / 1512)
    assert larger.covered == smaller.covered == 1.0
    # Each part lies in the middle of its window.
    for crop in (larger, smaller):
        assert np.argwhere(crop.mask).mean(axis=0) == pytest.approx([16, 16, 16], abs=0.5)


def test_mend_16_a_long_structure_is_shown_piece_by_piece():
    labels = placed(marked((200, 40, 40), (1, 5, 195, 18, 22, 18, 22)))
    crops = crops_of(scan((200, 40, 40)), labels, [1], SMALL)
    assert len(crops) == 4  # of 190 slices four windows of 32 show 128
    assert all(crop.mask.sum() == 32 * 16 for crop in crops)
    assert crops[0].covered == pytest.approx(128 / 190)
    assert "67% of it lies in its 4 reference crops" in crops[0].warnings[-1]
    shown = sorted(round(crop.geometry.origin_xyz[2]) for crop in crops)
    assert min(np.diff(shown)) >= 32  # no slice twice


@pytest.mark.parametrize("first", [4, 5])
def test_a_mask_that_just_fits_is_shown_whole(first: int):
    """Rounding its middle puts the released script's window beside it by one voxel every second time."""
    labels = placed(marked((40, 50, 60), (1, 4, 36, 4, 36, first, first + 32)))
    assert crops_of(scan(), labels, [1], SMALL)[0].kept == 1.0
    assert (crops_of(scan(), labels, [1], released(SMALL))[0].kept == 1.0) == (first == 4)


def test_almost_all_is_enough():
    """96 % in one window: no second one for the rest."""
    labels = placed(marked((40, 50, 60), (1, 10, 20, 10, 20, 5, 35), (1, 10, 14, 10, 13, 35, 45)))
    (crop,) = crops_of(scan(), labels, [1], SMALL)
    assert crop.kept == pytest.approx(3000 / 3120, abs=0.02)


def test_mask_coverage_keeps_thin_structures():
    """A wire of one voxel at a working spacing three times coarser."""
    labels = placed(marked((60, 60, 60), (1, 10, 50, 31, 32, 31, 32)))
    options = dataclasses.replace(SMALL, spacing_zyx=(3.0, 3.0, 3.0), window_zyx=(16, 16, 16))
    (kept,) = crops_of(scan((60, 60, 60)), labels, [1], options)
    sampled = crops_of(scan((60, 60, 60)), labels, [1], without("mask_coverage", options))
    assert kept.mask.sum() >= 1
    assert np.ptp(np.argwhere(kept.mask)[:, 1:], axis=0).tolist() == [0, 0]
    lost = placed(marked((60, 60, 60), (1, 10, 50, 32, 33, 32, 33)))
    assert [len(crops_of(scan((60, 60, 60)), m, [1], without("mask_coverage", options))) for m in (labels, lost)].count(0) == 1
    assert all(len(crops_of(scan((60, 60, 60)), m, [1], options)) == 1 for m in (labels, lost))
    assert len(sampled) in (0, 1)


@pytest.mark.parametrize("spacing", [0.7, 1.0, 1.6, 2.9])
def test_mask_coverage_keeps_volume_and_place(spacing: float):
    z, y, x = np.indices((40, 50, 60))
    ball = ((z - 21) ** 2 + (y - 24) ** 2 + (x - 30) ** 2 < 9.3**2).astype(np.uint8)
    options = dataclasses.replace(SMALL, spacing_zyx=(spacing,) * 3)
    (crop,) = crops_of(scan(), placed(ball), [1], options)
    assert crop.mask.sum() * spacing**3 == pytest.approx(ball.sum(), rel=0.03)
    middle = np.argwhere(crop.mask).mean(axis=0)
    assert crop.geometry.affine @ (*middle[::-1], 1) == pytest.approx([-30, -24, 21, 1], abs=0.15 * spacing)


def test_tiny_label_keeps_one_voxel():
    labels = placed(marked((40, 50, 60), (9, 20, 21, 20, 21, 20, 21)))
    (crop,) = crops_of(scan(), labels, [9], dataclasses.replace(SMALL, spacing_zyx=(4.0, 4.0, 4.0)))
    assert crop.mask.sum() == 1


def test_tiny_label_on_oblique_axes_is_not_lost():
    direction = (-0.8, 0.6, 0.0, -0.6, -0.8, 0.0, 0.0, 0.0, 1.0)
    grid = Geometry(shape_zyx=(40, 40, 40), origin_xyz=(-10.0, -20.0, 0.0), direction=direction)
    labels = Volume(marked((40, 40, 40), (1, 20, 22, 5, 7, 15, 17)), grid)
    (crop,) = crops_of(scan(), labels, [1], dataclasses.replace(SMALL, spacing_zyx=(5.0, 5.0, 5.0)))
    assert crop.mask.sum() == 1


def test_mask_at_its_own_spacing_is_untouched():
    rng = np.random.default_rng(1)
    ragged = placed((rng.random((20, 20, 20)) < 0.3).astype(np.uint8))
    (crop,) = crops_of(scan((20, 20, 20)), ragged, [1], SMALL)
    assert np.array_equal(crop.mask[6:26, 6:26, 6:26], ragged.array)
    assert crop.mask.sum() == ragged.array.sum()


# --- masks on other grids


def test_cut_out_mask_is_matched_by_position():
    """As 3D Slicer saves a .seg.nrrd: only the part around the segment."""
    whole = placed(marked((40, 50, 60), (1, 20, 25, 20, 26, 30, 37)))
    part = whole.cropped(((18, 18, 28), (27, 28, 40)))
    (wanted,) = crops_of(scan(), whole, [1], SMALL)
    (found,) = crops_of(scan(), part, [1], SMALL)
    assert np.array_equal(found.mask, wanted.mask)
    assert np.array_equal(found.image, wanted.image)
    assert not any("mask" in warning for warning in wanted.warnings)
    assert found.warnings == wanted.warnings, "there is nothing to warn of"


def test_a_mask_that_reaches_beyond_its_image_is_matched_by_position():
    whole = placed(marked((40, 50, 60), (1, 20, 25, 20, 26, 30, 37)))
    image = scan().cropped(((5, 10, 15), (40, 50, 60)))
    (found,) = crops_of(image, whole, [1], SMALL)
    assert found.mask.sum() == (whole.array == 1).sum()
    assert "matched by position" in found.warnings[0]


@pytest.mark.parametrize("options", [SMALL, released(SMALL)], ids=["default", "released"])
@pytest.mark.parametrize("turned", [False, True], ids=["straight", "oblique"])
def test_mask_of_another_grid_is_resampled_and_said(options: Recipe, turned: bool):
    direction = (-0.8, 0.6, 0.0, -0.6, -0.8, 0.0, 0.0, 0.0, 1.0) if turned else RAS
    grid = Geometry(shape_zyx=(60, 140, 140), spacing_xyz=(0.8, 0.8, 0.8), origin_xyz=(20.0, 40.0, -5.0), direction=direction)
    to_mm = grid.affine
    index = np.stack(np.indices(grid.shape_zyx)[::-1], axis=-1) @ to_mm[:3, :3].T + to_mm[:3, 3]
    ball = (((index - (-30, -24, 21)) ** 2).sum(axis=-1) < 8**2).astype(np.uint8)
    (crop,) = crops_of(scan(), Volume(ball, grid), [1], options)
    assert "resampled by position" in crop.warnings[0]
    middle = np.argwhere(crop.mask).mean(axis=0)
    assert crop.geometry.affine @ (*middle[::-1], 1) == pytest.approx([-30, -24, 21, 1], abs=0.3)
    assert crop.mask.sum() == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.05)


def test_mask_elsewhere_is_refused_with_both_boxes():
    geometry = dataclasses.replace(scan().geometry, origin_xyz=(500.0, 0.0, 0.0))
    labels = Volume(marked((40, 50, 60), (1, 5, 9, 5, 9, 5, 9)), geometry)
    with pytest.raises(GeometryError) as caught:
        crops_of(scan(), labels, [1], SMALL)
    assert "x -59.5 to 0.5" in caught.value.message
    assert "x 440.5 to 500.5" in caught.value.message
    assert caught.value.cure


@pytest.mark.parametrize("options", [SMALL, released(SMALL)], ids=["default", "released"])
def test_label_beside_the_image_has_no_crop(options: Recipe):
    array = marked((40, 50, 200), (1, 5, 9, 5, 9, 5, 9), (2, 5, 9, 5, 9, 150, 160))
    wide = Volume(array, dataclasses.replace(scan().geometry, shape_zyx=array.shape))
    assert [crop.value for crop in crops_of(scan(), wide, [1, 2], options)] == [1]


# --- masks that cannot be used


def test_absent_labels_have_no_crops():
    labels = placed(marked((40, 50, 60), (2, 5, 9, 5, 9, 5, 9), (5, 15, 19, 5, 9, 5, 9)))
    assert [crop.value for crop in crops_of(scan(), labels, [1, 2, 3], SMALL)] == [2]
    assert crops_of(scan(), placed(marked((40, 50, 60))), [1], SMALL) == []


def present_labels(labels):
    return tuple(label_boxes(as_label_map(labels).array))


def test_present_labels_of_every_type():
    labels = marked((4, 5, 6), (2, 0, 1, 0, 1, 0, 1), (5, 1, 2, 1, 2, 1, 2))
    for kind in (np.uint8, np.int16, np.uint16, np.int64, np.float32, np.float64):
        assert present_labels(placed(labels.astype(kind))) == (2, 5)
    assert present_labels(placed(labels > 0)) == (1,)
    assert present_labels(placed(labels * 0)) == ()


def test_values_below_zero_are_background():
    assert present_labels(placed(marked((4, 5, 6), (2, 0, 1, 0, 1, 0, 1)).astype(np.int16) - 1)) == (1,)


def test_images_and_huge_values_are_no_label_maps():
    with pytest.raises(InputError, match="fractional"):
        as_label_map(placed(np.full((2, 2, 2), 0.3, np.float32)))
    with pytest.raises(InputError, match="fractional"):
        as_label_map(placed(np.full((2, 2, 2), np.nan, np.float32)))
    with pytest.raises(InputError, match="70000"):
        as_label_map(placed(np.full((2, 2, 2), 70000, np.int32)))


# --- the working spacing

WIDE = Geometry(shape_zyx=(600, 600, 600), spacing_xyz=(1.0, 1.0, 1.0))
"""A reference image that sets no limit."""


def on_ladder(spacing: float) -> float:
    """The nearest rung: 0.8 mm times a power of 1.15."""
    return 0.8 * 1.15 ** round(np.log(spacing / 0.8) / np.log(1.15))


def chosen(image: Geometry, labels: Volume, value: int) -> tuple[float, ...]:
    return working_spacing(image, labels, value, label_boxes(labels.array)[value], CHOOSE)


def test_spacing_follows_the_extent():
    """A block of 60 mm shall fill 35 % of 64 voxels: 2.68 mm."""
    labels = placed(marked((70, 70, 70), (1, 5, 65, 10, 60, 10, 60)))
    assert chosen(WIDE, labels, 1) == pytest.approx((on_ladder(60 / 22.4),) * 3)


def test_spacing_follows_the_thickness_of_thin_structures():
    """A plate of 60 x 60 x 6 mm: 3.5 voxels across (6 mm: distances 1 2 3 3 2 1, so 2 x 3 mm) rather than 35 % along."""
    labels = placed(marked((70, 70, 70), (1, 5, 65, 5, 65, 30, 36)))
    assert thickness_mm(labels.array == 1, (1.0, 1.0, 1.0)) == 6
    assert chosen(WIDE, labels, 1) == pytest.approx((on_ladder(6 / 3.5),) * 3)


def test_spacing_does_not_depend_on_the_grid():
    """The same block stored in slices of 5 mm, sagittally."""
    array = np.zeros((100, 100, 20), np.uint8)
    array[10:70, 10:70, 2:14] = 1
    coarse = Volume(array, Geometry(shape_zyx=array.shape, spacing_xyz=(5.0, 1.0, 1.0), direction=(0, 0, 1, 1, 0, 0, 0, 1, 0)))
    fine = placed(marked((70, 70, 70), (1, 5, 65, 5, 65, 5, 65)))
    assert chosen(WIDE, coarse, 1) == chosen(WIDE, fine, 1)


def test_window_is_not_larger_than_the_reference_image():
    """80 mm of image under 64 voxels: 1.25 mm, where the block alone would ask for 2.68 mm."""
    labels = placed(marked((80, 70, 70), (1, 5, 65, 10, 60, 10, 60)))
    assert chosen(labels.geometry, labels, 1) == pytest.approx((on_ladder(80 / 64),) * 3)


def test_spacing_stays_within_its_limits():
    small = placed(marked((70, 70, 70), (1, 5, 7, 5, 7, 5, 7)))
    large = placed(marked((70, 70, 70), (1, 0, 70, 0, 70, 0, 70)), 8.0)
    fine = Geometry(shape_zyx=WIDE.shape_zyx, spacing_xyz=(0.5, 0.5, 0.5))
    assert chosen(fine, small, 1) == (0.8, 0.8, 0.8)
    assert chosen(WIDE, large, 1)[0] <= 6
    assert chosen(WIDE, large, 1)[0] * 1.15 > 6


def test_voxels_are_not_finer_than_those_of_the_reference_image():
    """A rod 2 mm thick asks for 0.57 mm; a scan whose finest edge is 1.5 mm shows nothing below that; one of 20 mm is at the limit."""
    small = placed(marked((70, 70, 70), (1, 5, 65, 5, 7, 5, 7)))
    found = chosen(Geometry(shape_zyx=(300, 600, 600), spacing_xyz=(4.0, 1.5, 3.0)), small, 1)[0]
    assert 1.5 <= found < 1.5 * 1.15
    assert 6 / 1.15 < chosen(Geometry(shape_zyx=(60, 60, 60), spacing_xyz=(20.0, 20.0, 20.0)), small, 1)[0] <= 6


def test_thickness_of_a_large_structure_from_fewer_voxels():
    z, y, x = np.indices((200, 200, 200)) - 99.5
    ball = z**2 + y**2 + x**2 < 95**2
    # 95 % of a ball's voxels lie less deep than (1 - 0.05 ** (1/3)) of its radius.
    assert thickness_mm(ball, (0.7, 0.7, 0.7)) == pytest.approx(2 * 0.632 * 95 * 0.7, rel=0.04)


def test_each_label_has_its_spacing_unless_one_is_given(tiny_network: MASS):
    image, labels = scan((160, 70, 70)), placed(marked((160, 70, 70), (1, 5, 65, 5, 65, 5, 65), (2, 66, 69, 5, 65, 5, 15)))
    settings = dataclasses.replace(CHOOSE, window_zyx=(32, 32, 32))
    encoder, compute = ReferenceEncoder(tiny_network, settings, ""), Compute(device=torch.device("cpu"), dtype=torch.float32)
    own, _, _ = encoder.encode([(image, labels)], None, {}, compute, Steps(), {})
    wanted = [working_spacing(image.geometry, labels, value, label_boxes(labels.array)[value], settings) for value in (1, 2)]
    assert [label.spacing_zyx for label in own] == wanted and wanted[0] != wanted[1]
    given, _, _ = encoder.encode([(image, labels)], None, {}, compute, Steps(), dict.fromkeys((1, 2), (2.0, 2.0, 2.0)))
    assert [label.spacing_zyx for label in given] == [(2.0, 2.0, 2.0)] * 2


def test_common_spacing_is_the_middle_one():
    a, b, c, d = ((s, s, s) for s in (1.0, 1.5, 2.0, 5.0))
    assert common_spacing([d, a, b]) == b
    assert common_spacing([d, a, b, c]) == b
