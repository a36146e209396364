"""NIfTI headers that are contradictory, empty or of version 2, with known positions."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from mass_core.errors import GeometryError, MassError
from mass_core.volumes.volume import Geometry, Volume
from Testing.core.nifti_files import with_fields, with_places, write_version_2

GRID = Geometry(shape_zyx=(4, 5, 6), spacing_xyz=(1.0, 2.0, 3.0), origin_xyz=(-12.0, 30.0, 7.0))


def ramp(geometry: Geometry = GRID) -> Volume:
    return Volume(np.arange(120, dtype=np.int16).reshape(4, 5, 6), geometry)


def moved(by: tuple[float, float, float]) -> Geometry:
    x, y, z = (a + b for a, b in zip(GRID.origin_xyz, by, strict=True))
    return Geometry(shape_zyx=GRID.shape_zyx, spacing_xyz=GRID.spacing_xyz, origin_xyz=(x, y, z))


def written(path: Path) -> Path:
    ramp().write(path)
    return path


# --- two places in one file


@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (4, 1), (2, 2), (1, 4)])
def test_where_sform_and_qform_differ_the_sform_counts_and_it_is_told(tmp_path: Path, codes: tuple[int, int]) -> None:
    path = written(tmp_path / "two.nii")
    with_places(path, GRID.affine, moved((6, -5, 4)).origin_xyz, codes)
    volume = Volume.read(path)
    assert volume.geometry.matches(GRID)
    assert np.array_equal(volume.array, ramp().array)
    assert volume.notes == ("two.nii has an sform and a qform that differ by up to 8.8 mm; the sform is used.",)


@pytest.mark.parametrize(("codes", "counts"), [((0, 1), (6, -5, 4)), ((2, 0), (0, 0, 0)), ((1, 0), (0, 0, 0))])
def test_a_form_without_a_code_does_not_count(tmp_path: Path, codes: tuple[int, int], counts: tuple[float, float, float]) -> None:
    path = written(tmp_path / "one.nii")
    with_places(path, GRID.affine, moved((6, -5, 4)).origin_xyz, codes)
    volume = Volume.read(path)
    assert volume.geometry.matches(moved(counts)) and volume.notes == ()


def test_a_tenth_of_a_voxel_is_not_worth_a_word(tmp_path: Path) -> None:
    path = written(tmp_path / "near.nii")
    with_places(path, GRID.affine, moved((0.05, 0, 0)).origin_xyz, (2, 1))
    assert Volume.read(path).notes == ()


def test_forms_of_different_direction_or_voxel_size_are_told(tmp_path: Path) -> None:
    other = GRID.affine @ np.diag([-1, 1, 1, 1.0])
    larger = GRID.affine @ np.diag([1.1, 1.1, 1.1, 1.0])
    for number, sform in enumerate((other, larger)):
        path = written(tmp_path / f"{number}.nii")
        with_places(path, sform, None, (2, 1))
        volume = Volume.read(path)
        np.testing.assert_allclose(volume.geometry.affine, sform, atol=1e-4)
        assert "the sform is used" in volume.notes[0]


def test_a_sheared_sform_gives_way_to_the_qform(tmp_path: Path) -> None:
    sheared = GRID.affine.copy()
    sheared[0, 1] = 0.5
    path = written(tmp_path / "sheared.nii")
    with_places(path, sheared, None, (2, 1))
    volume = Volume.read(path)
    assert volume.geometry.matches(GRID)
    assert "the qform is used because the sform is sheared" in volume.notes[0]
    with_places(path, sheared, None, (2, 0))
    with pytest.raises(GeometryError, match="right angles"):
        Volume.read(path)


def test_a_file_that_does_not_say_how_it_lies_agrees_with_its_mask(tmp_path: Path) -> None:
    for name in ("image.nii", "mask.nii"):
        with_places(written(tmp_path / name), None, None, (0, 0))
    image, mask = (Volume.read(tmp_path / name) for name in ("image.nii", "mask.nii"))
    assert image.geometry.matches(mask.geometry)
    assert "image.nii has no orientation in the patient (sform and qform codes are 0)" in image.notes[0]


@pytest.mark.parametrize(("unit", "scale"), [(1, 1000.0), (2, 1.0), (3, 0.001)])
def test_units_count_for_both_forms(tmp_path: Path, unit: int, scale: float) -> None:
    path = written(tmp_path / "units.nii")
    small = np.diag([1 / scale, 1 / scale, 1 / scale, 1.0]) @ GRID.affine
    with_places(path, small, tuple(v / scale for v in GRID.origin_xyz), (2, 1))
    with_fields(path, units=unit, pixdim=(1, *(s / scale for s in GRID.spacing_xyz), 0, 0, 0, 0))
    volume = Volume.read(path)
    np.testing.assert_allclose(volume.geometry.affine, GRID.affine, rtol=1e-4, atol=1e-3)
    assert volume.notes == ()


# --- other versions and names


@pytest.mark.parametrize("name", ["v2.nii", "v2.nii.gz", "deep.v2.nii"])
@pytest.mark.parametrize("kind", ["int16", "float32", "uint8"])
def test_version_2_is_read(tmp_path: Path, name: str, kind: str) -> None:
    volume = Volume(ramp().array.astype(kind), GRID)
    write_version_2(volume, tmp_path / name)
    back = Volume.read(tmp_path / name)
    assert np.array_equal(back.array, volume.array) and back.array.dtype == kind
    assert back.geometry.matches(GRID)


def test_a_compressed_file_named_as_plain_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nii")
    path.write_bytes(gzip.compress(path.read_bytes()))
    back = Volume.read(path)
    assert np.array_equal(back.array, ramp().array) and back.geometry.matches(GRID)


# --- sizes no patient has


@pytest.mark.parametrize("edges", [(1000.0, 1000.0, 1000.0), (1.0, 1.0, 2500.0), (0.5, 101.0, 1.0)])
def test_voxels_in_another_unit_are_refused_with_the_cause(tmp_path: Path, edges: tuple[float, float, float]) -> None:
    ramp(Geometry(shape_zyx=(4, 5, 6), spacing_xyz=edges)).write(tmp_path / "huge.nii.gz")
    with pytest.raises(GeometryError, match="another unit"):
        Volume.read(tmp_path / "huge.nii.gz")


@pytest.mark.parametrize(("name", "told"), [("a.mrb", "scene of 3D Slicer"), ("b.stl", "a surface"), ("c.zip", "an archive")])
def test_files_that_are_no_images_are_explained(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(MassError, match=told) as caught:
        Volume.read(tmp_path / name)
    assert caught.value.cure


# --- numbers that make no place, pairs of files


def _quaternion(path: Path, **fields: object) -> Path:
    """A file that only its qform places."""
    with_places(path, None, GRID.origin_xyz, (0, 1))
    with_fields(path, **fields)
    return path


@pytest.mark.parametrize("edges", [(-1, 2, 3), (1, -2, 3), (-1, -2, -3)])
def test_voxel_sizes_below_zero_are_read_as_above_and_told(tmp_path: Path, edges: tuple[float, ...]) -> None:
    path = written(tmp_path / "n.nii")
    with_fields(path, pixdim=(1, *edges, 0, 0, 0, 0))
    assert Volume.read(path).geometry.matches(GRID) and Volume.read(path).notes == ()  # by its sform
    volume = Volume.read(_quaternion(path))
    assert volume.geometry.matches(GRID)
    assert volume.notes == ("n.nii has voxel sizes below 0 in its header; they were read as above 0.",)


NAN = float("nan")
NO_PLACE: dict[str, dict[str, object]] = {
    "size 0": {"pixdim": (1, 0, 2, 3, 0, 0, 0, 0)},
    "size NaN": {"pixdim": (1, 1, NAN, 3, 0, 0, 0, 0)},
    "quaternion NaN": {"quaternion": (NAN, 0, 0)},
    "offset infinite": {"qoffset": (float("inf"), 0, 0)},
}


@pytest.mark.parametrize("fields", NO_PLACE.values(), ids=NO_PLACE)
def test_numbers_that_make_no_place_are_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    with pytest.raises(GeometryError, match="are 0 or not numbers"):
        Volume.read(_quaternion(written(tmp_path / "q.nii"), **fields))


@pytest.mark.parametrize("row", [(0.0,) * 12, (NAN, *(0.0,) * 11)], ids=["zeros", "NaN"])
def test_an_sform_without_a_place_does_not_count(tmp_path: Path, row: tuple[float, ...]) -> None:
    path = written(tmp_path / "s.nii")
    with_places(path, None, GRID.origin_xyz, (1, 1))
    with_fields(path, srow=row)
    assert Volume.read(path).geometry.matches(GRID)
    with_places(path, None, None, (1, 0))
    with pytest.raises(GeometryError, match="are 0 or not numbers"):
        Volume.read(path)


@pytest.mark.parametrize("scale", [1.0, 1.001, 3.0])
def test_a_quaternion_that_is_too_long_is_shortened(tmp_path: Path, scale: float) -> None:
    """Half a turn about z; as the library of the format does."""
    volume = Volume.read(_quaternion(written(tmp_path / "q.nii"), quaternion=(0, 0, scale)))
    np.testing.assert_allclose(volume.geometry.spacing_xyz, GRID.spacing_xyz, rtol=1e-5)
    np.testing.assert_allclose(np.reshape(volume.geometry.direction, (3, 3)), np.diag([1, 1, 1]), atol=1e-6)


def pair(folder: Path, kind: str = "int16", ending: str = "") -> tuple[Path, Path]:
    import SimpleITK as sitk

    sitk.WriteImage(Volume(ramp().array.astype(kind), GRID).to_sitk(), str(folder / f"p.img{ending}"))
    return folder / f"p.hdr{ending}", folder / f"p.img{ending}"


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_pair_is_checked_like_a_single_file(tmp_path: Path, ending: str) -> None:
    head, voxels = pair(tmp_path, "float32", ending)
    whole = voxels.read_bytes()
    for path in (head, voxels):
        assert Volume.read(path).geometry.matches(GRID) and np.array_equal(Volume.read(path).array, ramp().array)
    plain = bytearray(gzip.decompress(whole) if ending else whole)
    plain[40:44] = np.array([NAN], "<f4").tobytes()
    voxels.write_bytes(gzip.compress(plain) if ending else plain)
    for path in (head, voxels):
        with pytest.raises(MassError, match=r"not numbers .* x, y, z \(4, 1, 0\)"):
            Volume.read(path)
    voxels.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MassError, match="it ends too early"):
        Volume.read(head)


@pytest.mark.parametrize("lost", [0, 1])
def test_one_file_of_a_pair_asks_for_the_other(tmp_path: Path, lost: int) -> None:
    files = pair(tmp_path)
    files[lost].unlink()
    with pytest.raises(MassError, match=f"belongs to {files[lost].name}, which is not beside it"):
        Volume.read(files[1 - lost])


@pytest.mark.parametrize("originator", [(0, 0, 0), (3, 4, 2), (91, 126, 72)])
def test_an_analyze_file_has_no_place_whatever_its_origin_says(tmp_path: Path, originator: tuple[int, ...]) -> None:
    """SPM keeps the index of its origin where NIfTI has the codes of sform and qform."""
    head, _ = pair(tmp_path)
    data = bytearray(head.read_bytes())
    data[252:348] = bytes(96)
    data[253:259] = np.array(originator, "<i2").tobytes()
    head.write_bytes(data)
    volume = Volume.read(head)
    (note,) = volume.notes
    assert "no orientation in the patient (it is an Analyze file)" in note
    assert volume.geometry.matches(Geometry(shape_zyx=GRID.shape_zyx, spacing_xyz=GRID.spacing_xyz))


@pytest.mark.parametrize("name", ["c.nii", "c.nii.gz"])
def test_complex_numbers_are_named(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "c.nii")
    with_fields(path, datatype=32, bitpix=64)
    data = path.read_bytes() + bytes(720)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(MassError, match="holds complex numbers"):
        Volume.read(tmp_path / name)


@pytest.mark.parametrize("edge", [1e-4, 1e-2, 0.05])
def test_a_scan_of_less_than_half_a_millimetre_is_refused(tmp_path: Path, edge: float) -> None:
    ramp(Geometry(shape_zyx=(4, 5, 6), spacing_xyz=(edge, edge, edge))).write(tmp_path / "tiny.nii.gz")
    with pytest.raises(GeometryError, match="another unit"):
        Volume.read(tmp_path / "tiny.nii.gz")
