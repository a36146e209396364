"""Positions in the patient are preserved to the millimetre through every way to store a scan, there and back."""

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk

from mass_core.config import Recipe, recipe
from mass_core.encoding.reference_crops import prepare_reference
from mass_core.volumes.preprocess import prepare, restore_labels, restore_probabilities
from mass_core.volumes.volume import Geometry, Volume

RIGHT, FRONT, UP = np.array([-1, 0, 0]), np.array([0, -1, 0]), np.array([0, 0, 1])
"""Directions of the patient in LPS."""


def columns(*axes: np.ndarray) -> np.ndarray:
    return np.stack(axes, axis=1)


def tilted(degrees: tuple[float, float, float], axes: np.ndarray) -> np.ndarray:
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*np.radians(degrees))
    return np.reshape(turn.GetMatrix(), (3, 3)) @ axes


STORAGE = {
    "RAS": columns(RIGHT, FRONT, UP),
    "LPS": columns(-RIGHT, -FRONT, UP),
    "upside down": columns(-RIGHT, FRONT, -UP),
    "sagittal": columns(-FRONT, -UP, -RIGHT),
    "coronal": columns(-RIGHT, -UP, FRONT),
    "left-handed": columns(-RIGHT, FRONT, UP),
    "oblique": tilted((12, -8, 20), columns(-RIGHT, -FRONT, UP)),
    "oblique sagittal, left-handed": tilted((5, 15, -10), columns(FRONT, -UP, -RIGHT)),
}
"""World direction of the stored axes x, y, z, as columns."""
SPACING = {"even": (1.2, 1.2, 1.2), "thick slices": (0.7, 0.7, 5.0)}

storage = pytest.mark.parametrize("axes", STORAGE.values(), ids=STORAGE.keys())
spacings = pytest.mark.parametrize("spacing_xyz", SPACING.values(), ids=SPACING.keys())
recipes = pytest.mark.parametrize("name", ["default", "released"])


def grid(axes: np.ndarray, spacing_xyz: tuple[float, float, float], extent_mm: float = 60.0) -> Geometry:
    """A cube of the patient around (15, -20, 40) mm."""
    x, y, z = (round(extent_mm / s) for s in spacing_xyz)
    geometry = Geometry(shape_zyx=(z, y, x), spacing_xyz=spacing_xyz, direction=tuple(axes.ravel().tolist()))
    middle = geometry.affine @ ((x - 1) / 2, (y - 1) / 2, (z - 1) / 2, 1)
    return dataclasses.replace(geometry, origin_xyz=(15 - middle[0], -20 - middle[1], 40 - middle[2]))


def places(geometry: Geometry) -> np.ndarray:
    """Millimetres of every voxel centre [z, y, x, 3]."""
    index = np.stack(np.indices(geometry.shape_zyx)[::-1], axis=-1)
    return index @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]


def patient(mm: np.ndarray) -> np.ndarray:
    """Smooth values that differ along every axis, at places [..., 3]."""
    x, y, z = np.moveaxis(mm, -1, 0)
    return 300 + 3 * x - 2 * y + 1.5 * z + 40 * np.sin(x / 15) + 30 * np.cos(y / 12 + z / 20)


def scanned(axes: np.ndarray, spacing_xyz: tuple[float, float, float]) -> Volume:
    geometry = grid(axes, spacing_xyz)
    return Volume(patient(places(geometry)).astype(np.float32), geometry)


def options(name: str, **changes: object) -> Recipe:
    base = Recipe(modality="mr", percentiles=(0.0, 100.0), body_crop="none", window_zyx=(48, 48, 48))
    return recipe(name, base).changed(**changes)


@recipes
@storage
@spacings
def test_the_network_sees_the_right_place(name: str, axes: np.ndarray, spacing_xyz: tuple[float, float, float]):
    """Every voxel of the prepared array holds the patient's value at its millimetre."""
    prepared = prepare(scanned(axes, spacing_xyz), options(name))
    found = prepared.array * prepared.record.intensity.std + prepared.record.intensity.mean
    wanted = patient(places(prepared.record.working))
    inner = slice(4, -4)
    assert np.abs(found - wanted)[inner, inner, inner].max() < 4  # of a range of about 400: interpolation over 5 mm


@storage
@spacings
def test_right_front_and_top_are_the_high_indices(axes: np.ndarray, spacing_xyz: tuple[float, float, float]):
    geometry = grid(axes, spacing_xyz)
    offset = places(geometry) - (15, -20, 40)
    for axis, towards in ((2, RIGHT), (1, FRONT), (0, UP)):
        side = Volume((offset @ towards > 8).astype(np.float32), geometry)
        array = prepare(side, options("default")).array
        profile = array.mean(axis=tuple({0, 1, 2} - {axis}))
        assert profile[-10:].min() > profile[:10].max()


MARKERS = {1: (26.0, -31.0, 47.0), 2: (3.0, -10.0, 29.0), 3: (24.0, -14.0, 26.0)}
"""Three places of which none mirrors another."""


def glow(mm: np.ndarray, place: tuple[float, float, float]) -> np.ndarray:
    """A soft ball around a place, 1 in its middle."""
    return np.exp(-((mm - place) ** 2).sum(axis=-1) / (2 * 3.5**2)).astype(np.float32)


def middle_of(volume: Volume) -> np.ndarray:
    """Centre of mass in mm."""
    return np.average(places(volume.geometry).reshape(-1, 3), axis=0, weights=volume.array.reshape(-1))


@recipes
@storage
@spacings
def test_a_marker_comes_back_to_its_millimetre(name: str, axes: np.ndarray, spacing_xyz: tuple[float, float, float]):
    for place in MARKERS.values():
        scan = Volume(glow(places(grid(axes, spacing_xyz)), place), grid(axes, spacing_xyz))
        prepared = prepare(scan, options(name))
        seen = Volume(prepared.array - prepared.array.min(), prepared.record.working)
        back = restore_probabilities(seen.array, prepared.record)
        assert back.geometry == scan.geometry
        assert middle_of(scan) == pytest.approx(place, abs=0.25)
        assert middle_of(seen) == pytest.approx(middle_of(scan), abs=0.2)
        assert middle_of(back) == pytest.approx(middle_of(scan), abs=0.2)


@recipes
@storage
def test_labels_come_back_to_their_millimetre(name: str, axes: np.ndarray):
    scan = scanned(axes, (1.2, 1.2, 1.2))
    prepared = prepare(scan, options(name))
    labels = np.zeros(prepared.array.shape, np.uint16)
    for value, place in MARKERS.items():
        labels[glow(places(prepared.record.working), place) > 0.3] = value
    back = restore_labels(labels, prepared.record)
    assert back.geometry == scan.geometry
    for value, place in MARKERS.items():
        assert middle_of(Volume((back.array == value).astype(float), back.geometry)) == pytest.approx(place, abs=0.4)


@storage
@spacings
def test_there_and_back_at_the_scans_own_spacing_is_exact(axes: np.ndarray, spacing_xyz: tuple[float, float, float]):
    """Axes swapped and flipped, nothing resampled: every voxel returns to where it was."""
    scan = scanned(axes, spacing_xyz)
    noise = np.random.default_rng(0).random(scan.array.shape, np.float32)
    scan = Volume(noise, scan.geometry)
    order = np.abs(axes).argmax(axis=1)  # stored axis that runs along each world axis
    x, y, z = (spacing_xyz[axis] for axis in order)
    for name in ("default", "released"):
        prepared = prepare(scan, options(name), (z, y, x))
        assert sorted(prepared.array.shape) == sorted(noise.shape)
        found = prepared.array * prepared.record.intensity.std + prepared.record.intensity.mean
        assert np.allclose(restore_probabilities(found, prepared.record).array, noise, atol=1e-5)
        numbered = np.round(found * 60000).astype(np.uint16)
        assert np.abs(restore_labels(numbered, prepared.record).array.astype(int) - np.round(noise * 60000)).max() <= 1


@recipes
@storage
def test_body_crop_comes_back_to_its_place(name: str, axes: np.ndarray):
    """A block of tissue in air: the prepared array begins and ends with it, and labels in it return onto it."""
    geometry = grid(axes, (1.2, 1.2, 1.2), extent_mm=96.0)
    local = places(geometry) - (20, -25, 43)
    inside = (np.abs(local) < (18, 12, 9)).all(axis=-1)
    scan = Volume(np.where(inside, 40, -1000).astype(np.int16), geometry)
    ct = options(name, modality="ct", body_crop="threshold", body_margin_zyx=(2, 2, 2))
    prepared = prepare(scan, ct)
    whole = prepare(scan, options(name, modality="ct"))
    assert prepared.array.size < 0.3 * whole.array.size
    start = (np.linalg.inv(whole.record.working.affine) @ prepared.record.working.affine)[:3, 3]
    first = whole.record.working.point(tuple(np.round(start).tolist()))
    assert prepared.record.working.origin_xyz == pytest.approx(first, abs=1e-9)
    back = restore_probabilities((prepared.array > 0).astype(np.float32), prepared.record).array > 0.5
    overlap = 2 * (back & inside).sum() / (back.sum() + inside.sum())
    assert overlap > 0.93


@recipes
@storage
@spacings
def test_reference_crop_shows_the_mask_in_its_place(name: str, axes: np.ndarray, spacing_xyz: tuple[float, float, float]):
    """The middle of the mask and the values under it are those of the patient, whichever way image and mask are stored."""
    place = np.array([20.0, -26.0, 44.0])
    scan = scanned(axes, spacing_xyz)
    other = grid(STORAGE["coronal"], (1.1, 1.3, 1.7))  # the mask comes from somebody who stores things differently
    for geometry in (scan.geometry, other):
        ball = (np.linalg.norm(places(geometry) - place, axis=-1) < 12).astype(np.uint8)
        (crop,) = prepare_reference(scan, Volume(ball, geometry), [1], options(name), (1.5, 1.5, 1.5))
        mask = crop.mask > 0
        mm = places(crop.geometry)
        assert mm[mask].mean(axis=0) == pytest.approx(place, abs=1.0)
        shown, wanted = crop.image[mask], patient(mm)[mask]
        assert np.corrcoef(shown, wanted)[0, 1] > 0.995
