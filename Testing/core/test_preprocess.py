"""Preprocessing of scans: the released script's steps exactly, and each mend with the defect it cures."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from mass_core.config import RELEASED_SWITCHES, Recipe, recipe
from mass_core.errors import InputError
from mass_core.evaluation.metrics import dice
from mass_core.volumes.boxes import Box
from mass_core.volumes.intensity import Intensity, choose_modality, guess_modality, normalise
from mass_core.volumes.preprocess import Record, prepare, restore_labels, restore_probabilities
from mass_core.volumes.volume import Geometry, Volume

PLAIN = Recipe(body_crop="none", modality="mr", percentiles=(0.0, 100.0), spacing_zyx=(1.0, 1.0, 1.0))
"""No crop, no clip: only the grid changes."""


def released(**changes: object) -> Recipe:
    return recipe("released").changed(**changes)


def without(switch: str, base: Recipe) -> Recipe:
    """The recipe with one mend taken back."""
    return dataclasses.replace(base, **{switch: RELEASED_SWITCHES[switch]})


def noise(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def at_spacing(array: np.ndarray, spacing_zyx: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    """A volume that is already oriented."""
    z, y, x = spacing_zyx
    return Volume(array, Geometry(shape_zyx=array.shape, spacing_xyz=(x, y, z), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)))


def chest() -> Volume:
    """A CT of air with a block of soft tissue that holds a block of bone."""
    array = np.full((30, 40, 50), -1000, np.int16)
    array[5:25, 10:30, 10:40] = 40
    array[10:20, 15:25, 15:20] = 1500
    return at_spacing(array, (2.0, 2.0, 2.0))


# --- the released steps


def by_hand(path: Path, options: Recipe) -> tuple[np.ndarray, sitk.Image]:
    """The released script's target preparation, written once more with SimpleITK and scipy alone."""
    image = sitk.ReadImage(str(path))
    if options.orientation == "RAS":
        image = sitk.DICOMOrient(image, "RAS")
    spacing = options.spacing_zyx[::-1]
    size = [max(1, int(np.round(n * s / t))) for n, s, t in zip(image.GetSize(), image.GetSpacing(), spacing, strict=True)]
    kind = sitk.sitkBSpline if options.interpolation == "bspline" else sitk.sitkLinear
    image = sitk.Resample(image, size, sitk.Transform(), kind, image.GetOrigin(), spacing, image.GetDirection(), 0.0, sitk.sitkFloat32)
    array = sitk.GetArrayFromImage(image)

    def guess(values: np.ndarray) -> str:
        if options.modality != "auto":
            return options.modality
        low, high = np.percentile(values, [0.5, 99.5])
        return "ct" if low < -200 and high > 300 else "pet" if low >= 0 and high > 5 else "mr"

    if options.body_crop == "threshold":
        magnitude = np.abs(array)
        mask = array > -500 if guess(array) == "ct" else magnitude > max(1e-3 * np.percentile(magnitude, 99), 1e-6)
        mask = ndimage.binary_fill_holes(ndimage.binary_closing(mask, iterations=2))
        parts, _ = ndimage.label(mask)
        places = np.argwhere(parts == 1 + np.bincount(parts.ravel())[1:].argmax())
        low = np.maximum(0, places.min(axis=0) - options.body_margin_zyx)
        high = np.minimum(array.shape, places.max(axis=0) + 1 + options.body_margin_zyx)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        array, image = array[box], image[box[2], box[1], box[0]]
    limits = options.ct_clip_hu if guess(array) == "ct" else np.percentile(array, [2, 98])
    array = np.clip(array, *limits)
    return (array - array.mean()) / array.std(), image


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("ct_oblique_multilabel", {"modality": "ct"}),
        ("mr_sagittal_two_refs_ema", {"modality": "mr"}),
        ("ct_small_target_flipped", {"modality": "ct", "body_crop": "none"}),
        ("ct_small_target_flipped", {"body_margin_zyx": (1, 2, 3)}),
        ("auto_modality_bspline_no_reorient", {"orientation": "none", "interpolation": "bspline", "spacing_zyx": (2.5, 2.0, 2.0)}),
    ],
)
def test_released_recipe_is_the_released_script(shared: Path, case: str, options: dict):
    path = shared / "golden" / "e2e" / case / "target.nii.gz"
    wanted, image = by_hand(path, released(**options))
    found = prepare(Volume.read(path), released(**options))
    assert found.array.shape == wanted.shape
    assert np.allclose(found.array, wanted, atol=2e-5)
    assert found.record.working.matches(Volume.from_sitk(image).geometry, 1e-6)


def test_released_switches_are_all_off_and_named():
    switches = {field.name for field in dataclasses.fields(Recipe) if field.name in RELEASED_SWITCHES}
    assert switches == set(RELEASED_SWITCHES)
    assert all(getattr(released(), name) == value for name, value in RELEASED_SWITCHES.items())
    assert all(getattr(Recipe(), name) != value for name, value in RELEASED_SWITCHES.items())


# --- intensities


def test_ct_is_clipped_to_fixed_units():
    array = np.array([-3000, -1000, 0, 500, 3000], np.float32)
    numbers = Intensity.of(array, "ct", Recipe())
    assert (numbers.low, numbers.high) == (-991, 500)
    assert numbers.mean == pytest.approx((-991 - 991 + 0 + 500 + 500) / 5)
    assert normalise(array, "ct", Recipe()).mean() == pytest.approx(0, abs=1e-6)
    assert normalise(array, "ct", Recipe()).std() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("modality", ["mr", "pet"])
def test_mr_and_pet_are_clipped_to_percentiles(modality: str):
    numbers = Intensity.of(np.arange(101, dtype=np.float32), modality, Recipe())
    assert (numbers.low, numbers.high) == (2, 98)
    assert numbers.mean == pytest.approx(50)


def test_flat_regions_are_only_centred():
    assert (normalise(np.full((2, 2, 2), 7, np.float32), "mr", Recipe()) == 0).all()


def test_normalised_values_do_not_depend_on_the_stored_type():
    whole = np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8))
    kinds = [normalise(whole.astype(kind), "ct", Recipe()) for kind in (np.int16, np.int32, np.float32, np.float64)]
    assert all(np.allclose(kinds[0], other, atol=1e-6) for other in kinds[1:])
    assert all(other.dtype == np.float32 for other in kinds)


@pytest.mark.parametrize(
    ("low", "high", "modality"), [(-1000, 1000, "ct"), (-100, 1000, "mr"), (-1000, 200, "mr"), (0, 1000, "pet"), (0, 4, "mr")]
)
def test_guess(low: float, high: float, modality: str):
    assert guess_modality(np.linspace(low, high, 1001)) == modality


def test_a_small_body_in_much_air_is_ct_all_the_same():
    """A head-and-neck planning scan: 97 % air, hardly any bone. The released rule wants bright voxels and says MR."""
    array = np.full((40, 40, 40), -1024.0, np.float32)
    array[15:27, 15:27, 15:27] = 40
    assert guess_modality(array) == "mr"
    assert choose_modality(Volume(array, Geometry(shape_zyx=array.shape)), Recipe())[0] == "ct"


def test_modality_comes_from_recipe_then_header_then_guess():
    scan = chest()
    dicom = Volume(scan.array, scan.geometry, "pet")
    assert choose_modality(dicom, Recipe(modality="mr")) == ("mr", "")
    assert choose_modality(dicom, Recipe()) == ("pet", "")
    modality, note = choose_modality(scan, Recipe())
    assert modality == "ct"
    assert "look like CT" in note
    assert prepare(scan, Recipe()).record.warnings == (note,)
    assert prepare(scan, Recipe(modality="ct")).record.warnings == ()


# --- what prepare makes


def test_body_crop_and_record():
    found = prepare(chest(), Recipe(spacing_zyx=(2.0, 2.0, 2.0), body_margin_zyx=(1, 2, 3)))
    assert found.array.shape == (22, 24, 36)
    assert found.record.modality == "ct"
    assert found.record.target == chest().geometry
    assert found.record.working == found.record.target.cropped(((4, 8, 7), (26, 32, 43)))
    tissue = (40 - found.record.intensity.mean) / found.record.intensity.std
    assert found.array[1, 2, 3] == pytest.approx(tissue, abs=1e-5)


def test_no_body_takes_the_whole_image_and_says_so():
    scan = at_spacing(np.random.default_rng(0).integers(-1000, -900, (8, 8, 8)).astype(np.int16))
    found = prepare(scan, Recipe(modality="ct", spacing_zyx=(1.0, 1.0, 1.0)))
    assert found.array.shape == (8, 8, 8)
    assert "No body" in found.record.warnings[0]


def test_input_is_left_alone():
    scan = Volume(noise((8, 9, 10)), Geometry(shape_zyx=(8, 9, 10)))
    before = scan.array.copy()
    prepare(scan, PLAIN)
    assert np.array_equal(scan.array, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers(bad: float):
    array = noise((5, 6, 7))
    array[1, 2, 3] = array[4, 4, 4] = bad
    with pytest.raises(InputError, match=r"2 of 210 voxels .* x, y, z \(3, 2, 1\)") as caught:
        prepare(at_spacing(array), PLAIN)
    assert caught.value.cure


def test_constant_image():
    with pytest.raises(InputError, match="Every voxel of the image is 3"):
        prepare(at_spacing(np.full((5, 6, 7), 3, np.int16)), PLAIN)


def test_spacing_must_come_from_somewhere():
    with pytest.raises(InputError, match="spacing"):
        prepare(chest(), Recipe(spacing_zyx=None))
    assert prepare(chest(), Recipe(spacing_zyx=None), (4.0, 4.0, 4.0)).record.working.spacing_xyz == (4, 4, 4)


# --- mends


def test_mend_10_modality_is_decided_once():
    """The crop around the body holds too little air for the guess; the whole image has it."""
    scan = chest()
    array = scan.array.copy()
    array[5:25, 10:30, 35:40] = 1000
    scan = Volume(array, scan.geometry)
    base = Recipe(spacing_zyx=(2.0, 2.0, 2.0), body_margin_zyx=(0, 0, 0))
    assert prepare(scan, without("modality_once", base)).record.modality == "pet"
    assert prepare(scan, base).record.modality == "ct"


def test_mend_11_the_last_slices_are_not_zero():
    """10 mm slices of 500: at 1.5 mm the released grid ends with slices of 0, and the last millimetres are not covered."""
    slab = np.full((6, 20, 20), 500, np.float32)
    slab[0, 0, 0] = 499
    scan = at_spacing(slab, (10.0, 1.5, 1.5))
    base = dataclasses.replace(PLAIN, spacing_zyx=(1.5, 1.5, 1.5))
    defect, cured = (prepare(scan, r).array for r in (without("edge_fill", without("antialias", base)), base))
    assert (defect[-4:].max(axis=(1, 2)) < -3).tolist() == [False, True, True, True]
    assert (cured[-4:].min(axis=(1, 2)) > 0).all()


def test_mend_14_probabilities_make_smoother_borders():
    """A ball found at 3 mm, led back onto 1 mm."""
    z, y, x = np.indices((48, 48, 48)) - 23.5
    truth = z**2 + y**2 + x**2 < 15.2**2
    fine = at_spacing(truth.astype(np.float32))
    prepared = prepare(fine, dataclasses.replace(PLAIN, spacing_zyx=(3.0, 3.0, 3.0)))
    coarse = (prepared.array - prepared.array.min()) / np.ptp(prepared.array)
    stairs = restore_labels((coarse >= 0.5).astype(np.uint16), prepared.record).array
    smooth = restore_probabilities(coarse, prepared.record).array >= 0.5
    assert dice(stairs, truth) < 0.94
    assert dice(smooth, truth) > 0.975


def test_antialiasing_keeps_texture_out():
    """Stripes of one voxel, sampled three times coarser, come back as stripes that are not there."""
    array = np.zeros((6, 6, 90), np.float32)
    array[:, :, ::2] = 100
    array[:, :, 60:] += 300
    base = dataclasses.replace(PLAIN, spacing_zyx=(1.0, 1.0, 3.0))
    defect, cured = (prepare(at_spacing(array), r).array[3, 3, 1:19] for r in (without("antialias", base), base))
    assert np.ptp(defect) > 4 * np.ptp(cured)


# --- the way back


def test_restored_labels_lie_on_the_scans_grid():
    prepared = prepare(chest(), Recipe())
    back = restore_labels(np.ones(prepared.array.shape, np.uint8), prepared.record)
    assert back.geometry == chest().geometry
    assert back.array.dtype == np.uint16
    assert back.array.all()


def test_outside_the_body_nothing_is_found():
    prepared = prepare(chest(), Recipe(spacing_zyx=(2.0, 2.0, 2.0), body_margin_zyx=(1, 1, 1)))
    inside = Box((4, 9, 9), (26, 31, 41))
    for back in (restore_labels, restore_probabilities):
        array = back(np.ones(prepared.array.shape, np.float32), prepared.record).array
        assert array[inside.slices()].all()
        array[inside.slices()] = 0
        assert not array.any()


def test_record_is_plain_data():
    record = prepare(chest(), Recipe()).record
    values = dataclasses.asdict(record)
    rebuilt = {name: Geometry(**values[name]) for name in ("target", "working")}
    assert Record(**{**values, **rebuilt, "intensity": Intensity(**values["intensity"])}) == record
