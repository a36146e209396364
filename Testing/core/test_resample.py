"""Axes, grids and interpolation with answers known by hand."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from mass_core.volumes.resample import grid_at, orient, resample
from mass_core.volumes.volume import Geometry, Volume, geometry_of

TURNS = [np.eye(3)[list(order)] * signs for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]
"""All 48 ways to store a volume along the body axes, left-handed ones included."""


def line(values: list[float], spacing_mm: float, dtype: str = "float32") -> Volume:
    """A row of voxels along z, two wide along the other axes."""
    array = np.repeat(np.array(values, dtype)[:, None, None], 2, axis=1).repeat(2, axis=2)
    return Volume(array, Geometry(shape_zyx=array.shape, spacing_xyz=(1.0, 1.0, spacing_mm)))


def along_z(volume: Volume, spacing_mm: float, *, centred: bool = False, **options) -> list[float]:
    """The row after resampling along z only."""
    grid = grid_at(volume.geometry, (spacing_mm, 1.0, 1.0), centred=centred)
    return resample(volume, grid, **options).array[:, 0, 0].tolist()


def rotation(x: float, y: float, z: float) -> np.ndarray:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*np.radians([x, y, z]))
    return np.reshape(transform.GetMatrix(), (3, 3))


# --- orientation


@pytest.mark.parametrize("turn", TURNS, ids=lambda m: "".join(f"{v:+.0f}"[0] + "xyz"[i] for i, row in enumerate(m) for v in row if v))
@pytest.mark.parametrize("tilt", [(0, 0, 0), (10, -20, 15)], ids=["straight", "oblique"])
def test_orient_is_simpleitk_ras(turn: np.ndarray, tilt: tuple[float, float, float]):
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    image.SetSpacing((0.7, 1.1, 5.0))
    image.SetOrigin((-20, 30, 40))
    image.SetDirection((rotation(*tilt) @ turn).ravel().tolist())
    wanted = sitk.DICOMOrient(image, "RAS")
    found = orient(Volume.from_sitk(image), "RAS")
    assert np.array_equal(found.array, sitk.GetArrayFromImage(wanted))
    assert found.geometry.matches(geometry_of(wanted), 1e-6)
    assert (found.geometry.origin_xyz, found.geometry.direction) == (wanted.GetOrigin(), wanted.GetDirection())


def test_ras_means_x_to_the_right_y_to_the_front_z_up():
    volume = orient(Volume(np.zeros((2, 2, 2)), Geometry(shape_zyx=(2, 2, 2), direction=(0, 0, 1, 1, 0, 0, 0, 1, 0))))
    assert np.reshape(volume.geometry.direction, (3, 3)).tolist() == [[-1, 0, 0], [0, -1, 0], [0, 0, 1]]  # LPS: right and front negative


def test_orientation_none_changes_nothing():
    volume = Volume(np.zeros((2, 2, 2)), Geometry(shape_zyx=(2, 2, 2)))
    assert orient(volume, "none") is volume


# --- grids


def test_grid_of_the_released_script():
    grid = grid_at(Geometry(shape_zyx=(30, 10, 1), spacing_xyz=(0.2, 2.0, 5.0)), (1.5, 1.5, 1.5), centred=False)
    assert grid.shape_zyx == (100, 13, 1)  # 150 / 1.5, 20 / 1.5 = 13.3, 0.2 / 1.5 = 0.13
    assert grid.origin_xyz == (0, 0, 0)
    assert grid.spacing_xyz == (1.5, 1.5, 1.5)


def test_centred_grid_covers_the_image_whole():
    geometry = Geometry(shape_zyx=(30, 10, 2), spacing_xyz=(0.2, 2.0, 5.0), origin_xyz=(3.0, 4.0, 5.0))
    grid = grid_at(geometry, (1.5, 1.5, 1.5), centred=True)
    assert grid.shape_zyx == (100, 14, 1)
    for (low, high), (a, b) in zip(zip(*geometry.box_mm, strict=True), zip(*grid.box_mm, strict=True), strict=True):
        assert a <= low + 1e-9
        assert b >= high - 1e-9
        assert a + b == pytest.approx(low + high)


@pytest.mark.parametrize("centred", [True, False])
def test_grid_of_the_same_spacing_is_the_same(centred: bool):
    geometry = Geometry(shape_zyx=(3, 4, 5), spacing_xyz=(1.5, 1.5, 1.5), origin_xyz=(0.1, 0.2, 0.3))
    assert grid_at(geometry, (1.5, 1.5, 1.5), centred=centred) == geometry


# --- interpolation


def test_linear_between_voxels():
    assert along_z(line([0, 10, 20, 30], 2), 1, fill=None) == [0, 5, 10, 15, 20, 25, 30, 30]


def test_border_continues_or_is_filled():
    # 10 mm slices at 2 mm: new centres at 0, 2, ... 18; the image ends at 15 mm.
    assert along_z(line([100, 200], 10), 2, fill=0.0) == [100, 120, 140, 160, 180, 200, 200, 200, 0, 0]
    assert along_z(line([100, 200], 10), 2, fill=None) == [100, 120, 140, 160, 180, 200, 200, 200, 200, 200]


def test_nearest_keeps_labels():
    found = resample(line([0, 7, 0], 2, "uint8"), grid_at(line([0, 7, 0], 2).geometry, (1.0, 1.0, 1.0), centred=True), "nearest")
    assert found.array.dtype == np.uint8
    assert found.array[:, 0, 0].tolist() == [0, 0, 7, 7, 0, 0]


def test_bspline_passes_through_the_voxels():
    values = [0.0, 3.0, -1.0, 5.0, 2.0, 8.0]
    assert along_z(line(values, 2), 1, interpolation="bspline")[::2] == pytest.approx(values, abs=1e-4)


# --- averaging


def test_averaging_is_a_triangle_over_the_neighbouring_new_voxels():
    # Twice coarser: new centres between voxels 0|1, 2|3, ...; weights of voxels at distance 0.5 and 1.5 are 3 : 1.
    peak = along_z(line([0, 0, 0, 8, 0, 0, 0, 0], 1), 2, centred=True, average=True)
    assert peak == [0.0, 3.0, 1.0, 0.0]


def test_averaging_ends_aliasing():
    stripes = line([0, 100] * 30, 1)
    sampled = along_z(stripes, 3)
    averaged = along_z(stripes, 3, average=True, centred=True)
    assert np.ptp(sampled) == 100  # stripes of 2 mm come back as stripes of 6 mm
    assert averaged[1:-1] == pytest.approx([50] * 18, abs=6)


def test_averaging_keeps_the_mean_and_the_place():
    rng = np.random.default_rng(0)
    array = rng.random((24, 30, 36), np.float32)
    volume = Volume(array, Geometry(shape_zyx=array.shape, spacing_xyz=(0.5, 0.6, 0.7), origin_xyz=(1, 2, 3)))
    grid = grid_at(volume.geometry, (1.4, 1.2, 1.0), centred=True)
    assert resample(volume, grid, fill=None, average=True).array.mean() == pytest.approx(array.mean(), abs=0.01)
    slope = Volume(np.indices(array.shape)[2].astype(np.float32), volume.geometry)
    found = resample(slope, grid, fill=None, average=True).array
    wanted = np.arange(18) * 2 + 0.5  # a slope keeps its value at every place, borders apart
    assert np.allclose(found[:, :, 1:-1], wanted[1:-1], atol=1e-4)


def test_finer_axes_are_interpolated_and_coarser_ones_averaged():
    array = np.random.default_rng(0).random((6, 24, 24), np.float32)
    volume = Volume(array, Geometry(shape_zyx=array.shape, spacing_xyz=(0.7, 0.7, 5.0)))
    grid = grid_at(volume.geometry, (1.5, 1.5, 1.5), centred=True)
    in_plane = grid_at(volume.geometry, (5.0, 1.5, 1.5), centred=True)
    two_steps = resample(resample(volume, in_plane, fill=None, average=True), grid, fill=None)
    assert np.allclose(resample(volume, grid, fill=None, average=True).array, two_steps.array, atol=1e-6)
    assert np.allclose(resample(volume, grid, fill=0.0, average=True).array[2:-2], two_steps.array[2:-2], atol=1e-6)


def test_averaging_does_not_depend_on_memory_order():
    array = np.random.default_rng(0).random((20, 30, 40), np.float32)
    geometry = Geometry(shape_zyx=array.shape)
    grid = grid_at(geometry, (2.0, 2.0, 2.0), centred=True)
    turned = np.ascontiguousarray(array.transpose(2, 1, 0)).transpose(2, 1, 0)
    first, second = (resample(Volume(a, geometry), grid, fill=None, average=True).array for a in (array, turned))
    assert np.array_equal(first, second)
