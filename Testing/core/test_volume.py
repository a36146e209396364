"""Reading and writing of files, and messages about files that cannot be used."""

import gzip
import os
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mass_core.errors import GeometryError, InputError, MassError, OutputError
from mass_core.volumes.boxes import cut
from mass_core.volumes.nifti import Header
from mass_core.volumes.volume import Geometry, Volume

TILTED = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def ramp(dtype: str = "int16") -> Volume:
    """4 x 5 x 6 voxels, each with a value of its own."""
    geometry = Geometry(shape_zyx=(4, 5, 6), spacing_xyz=(0.7, 0.8, 5.0), origin_xyz=(-12.5, 30.0, 7.0), direction=TILTED)
    return Volume(np.arange(120).reshape(4, 5, 6).astype(dtype), geometry)


def write_series(folder: Path, heights: list[float], *, uid: str = "1.2.3", title: str = "AX T1", modality: str = "CT", tilt: float = 0.0):
    """DICOM slices of 6 x 5 voxels at some heights; slice number n holds the value 10 n."""
    folder.mkdir(exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number, height in enumerate(heights):
        image = sitk.GetImageFromArray(np.full((1, 5, 6), 10 * number, np.int16))
        image.SetSpacing((0.5, 0.5, 1.0))
        tags = {
            "0008|0060": modality,
            "0008|103e": title,
            "0020|000e": uid,
            "0020|000d": "1.2",
            "0008|0018": f"{uid}.{number}",
            "0020|0032": f"-3\\{7 + tilt * number}\\{height}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(number),
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid}_{number:03}.dcm"))
        writer.Execute(image)


def message(path: Path, frame: int | None = None) -> MassError:
    """The error that reading a path raises; cause and cure are both there."""
    with pytest.raises(MassError) as caught:
        Volume.read(path, frame)
    assert str(path.name) in caught.value.message
    assert caught.value.cure
    return caught.value


# --- geometry


def test_affine_leads_from_index_to_millimetres():
    geometry = ramp().geometry
    assert geometry.affine @ (1, 2, 3, 1) == pytest.approx([-12.5 + 0.7 * 0.8 - 1.6 * 0.6, 30 + 0.7 * 0.6 + 1.6 * 0.8, 7 + 15, 1])
    assert geometry.affine @ (1, 2, 3, 1) == pytest.approx([*ramp().to_sitk().TransformIndexToPhysicalPoint((1, 2, 3)), 1])
    assert geometry.spacing_zyx == (5.0, 0.8, 0.7)


def test_box_in_millimetres_counts_whole_voxels():
    low, high = Geometry(shape_zyx=(2, 3, 4), spacing_xyz=(1.0, 2.0, 3.0), origin_xyz=(10.0, 0.0, 0.0)).box_mm
    assert low == (9.5, -1.0, -1.5)
    assert high == (13.5, 5.0, 4.5)


def test_cropped_geometry_keeps_every_voxel_in_place():
    geometry = ramp().geometry
    part = geometry.cropped(((1, 2, -3), (3, 5, 9)))
    assert part.shape_zyx == (2, 3, 12)
    assert part.affine @ (3, 0, 0, 1) == pytest.approx(geometry.affine @ (0, 2, 1, 1))


def test_matches_tells_half_a_voxel():
    geometry = ramp().geometry
    x, y, z = geometry.origin_xyz
    near = Geometry(shape_zyx=(4, 5, 6), spacing_xyz=(0.7, 0.8, 5.0), origin_xyz=(x + 1e-4, y, z), direction=TILTED)
    off = Geometry(shape_zyx=(4, 5, 6), spacing_xyz=(0.7, 0.8, 5.0), origin_xyz=(x + 0.35, y, z), direction=TILTED)
    assert geometry.matches(near)
    assert not geometry.matches(off)
    assert not geometry.matches(geometry.cropped(((0, 0, 0), (4, 5, 5))))


def test_overlap_and_shared_lattice():
    geometry = ramp().geometry
    assert geometry.overlaps(geometry.cropped(((3, 4, 5), (9, 9, 9))))
    assert not geometry.overlaps(geometry.cropped(((4, 0, 0), (9, 9, 9))))
    assert geometry.shares_lattice(geometry.cropped(((1, 2, 3), (3, 4, 5))))
    assert not geometry.shares_lattice(Geometry(shape_zyx=(4, 5, 6), spacing_xyz=(0.7, 0.8, 5.0), origin_xyz=(0.1, 0, 0)))


def test_cut_fills_beyond_the_array():
    array = np.arange(8).reshape(2, 2, 2)
    assert cut(array, ((1, 0, 1), (3, 2, 2)), fill=-1).tolist() == [[[5], [7]], [[-1], [-1]]]
    assert cut(array, ((5, 5, 5), (6, 6, 7)), fill=9).tolist() == [[[9, 9]]]


def test_volume_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="2 dimensions"):
        Volume(np.zeros((3, 3)), Geometry(shape_zyx=(1, 3, 3)))
    with pytest.raises(GeometryError, match=r"\(3, 3, 3\)"):
        Volume(np.zeros((3, 3, 3)), Geometry(shape_zyx=(3, 3, 4)))


# --- files


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.mhd"])
def test_round_trip_through_every_format(tmp_path: Path, name: str):
    volume = ramp()
    volume.write(tmp_path / name)
    back = Volume.read(tmp_path / name)
    assert np.array_equal(back.array, volume.array)
    assert back.array.dtype == np.int16
    assert back.geometry.matches(volume.geometry, 1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == (["a.mhd", "a.raw"] if name == "a.mhd" else [name])


def test_truth_values_are_written_as_bytes(tmp_path: Path):
    volume = ramp()
    Volume(volume.array > 100, volume.geometry).write(tmp_path / "mask.nii.gz")
    assert Volume.read(tmp_path / "mask.nii.gz").array.sum() == 19


def test_missing_file(tmp_path: Path):
    assert "no file" in message(tmp_path / "absent.nii.gz").message


@pytest.mark.parametrize("name", ["notes.nii", "notes.nii.gz", "notes.nrrd", "notes.mha", "notes.txt"])
def test_text_is_no_image(tmp_path: Path, name: str):
    (tmp_path / name).write_text("Dear diary,\n" * 100)
    message(tmp_path / name)


@pytest.mark.parametrize("name", ["empty.nii.gz", "empty.nrrd"])
def test_empty_file(tmp_path: Path, name: str):
    (tmp_path / name).touch()
    assert "is empty" in message(tmp_path / name).message


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_file_cut_off(tmp_path: Path, name: str):
    rng = np.random.default_rng(0)
    Volume(rng.integers(0, 9999, (20, 20, 20), np.int16), Geometry(shape_zyx=(20, 20, 20))).write(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    assert "damaged" in message(tmp_path / name).message


@pytest.mark.parametrize("extra", [0, 1000])
def test_gzip_in_several_pieces_is_whole(tmp_path: Path, extra: int):
    ramp().write(tmp_path / "a.nii")
    data = (tmp_path / "a.nii").read_bytes() + bytes(extra)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data[:300]) + gzip.compress(data[300:]))
    assert np.array_equal(Volume.read(tmp_path / "a.nii.gz").array, ramp().array)


def test_plain_file_named_as_compressed(tmp_path: Path):
    ramp().write(tmp_path / "a.nii")
    (tmp_path / "a.nii").rename(tmp_path / "a.nii.gz")
    assert np.array_equal(Volume.read(tmp_path / "a.nii.gz").array, ramp().array)


def test_flat_images(tmp_path: Path):
    sitk.WriteImage(sitk.Image(9, 8, sitk.sitkUInt8), str(tmp_path / "photo.png"))
    sitk.WriteImage(sitk.Image(9, 8, 1, sitk.sitkUInt8), str(tmp_path / "slice.nii"))
    assert "flat (9 x 8)" in message(tmp_path / "photo.png").message
    assert "flat (9 x 8 x 1)" in message(tmp_path / "slice.nii").message


def test_4d_needs_a_frame(tmp_path: Path):
    frames = [sitk.GetImageFromArray(np.full((3, 4, 5), n, np.int16)) for n in range(3)]
    for frame in frames:
        frame.SetSpacing((1, 2, 3))
    sitk.WriteImage(sitk.JoinSeries(frames), str(tmp_path / "time.nii.gz"))
    assert "holds 3 volumes" in message(tmp_path / "time.nii.gz").message
    assert "Frame 3" in message(tmp_path / "time.nii.gz", frame=3).message
    assert "Frame -1" in message(tmp_path / "time.nii.gz", frame=-1).message
    one = Volume.read(tmp_path / "time.nii.gz", frame=1)
    assert one.array.shape == (3, 4, 5)
    assert (one.array == 1).all()
    assert one.geometry.spacing_xyz == (1, 2, 3)


def test_single_frame_needs_no_choice(tmp_path: Path):
    sitk.WriteImage(sitk.JoinSeries([sitk.Image(5, 4, 3, sitk.sitkInt16)]), str(tmp_path / "one.nii"))
    assert Volume.read(tmp_path / "one.nii").array.shape == (3, 4, 5)


def test_vector_images_need_a_component(tmp_path: Path):
    colours = sitk.GetImageFromArray(np.stack([np.full((3, 4, 5), n, np.uint8) for n in (7, 8, 9)], axis=-1), isVector=True)
    sitk.WriteImage(colours, str(tmp_path / "rgb.nrrd"))
    assert "3 values per voxel" in message(tmp_path / "rgb.nrrd").message
    assert (Volume.read(tmp_path / "rgb.nrrd", frame=2).array == 9).all()


def test_complex_numbers_are_refused(tmp_path: Path):
    image = sitk.RealAndImaginaryToComplex(sitk.Image(5, 4, 3, sitk.sitkFloat32), sitk.Image(5, 4, 3, sitk.sitkFloat32))
    sitk.WriteImage(image, str(tmp_path / "k.nii"))
    assert "complex" in message(tmp_path / "k.nii").message


def test_sheared_affine_is_explained(tmp_path: Path):
    path = tmp_path / "sheared.nii"
    Volume(np.zeros((4, 4, 4), np.int16), Geometry(shape_zyx=(4, 4, 4))).write(path)
    data = bytearray(path.read_bytes())
    data[252:256] = np.array([0, 1], "<i2").tobytes()  # qform_code, sform_code
    data[280:328] = np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "<f4").tobytes()  # srow_x, srow_y, srow_z
    path.write_bytes(data)
    error = message(path)
    assert isinstance(error, GeometryError)
    assert "right angles" in error.message


def test_overlapping_segments_are_explained(tmp_path: Path):
    layers = sitk.GetImageFromArray(np.zeros((3, 4, 5, 2), np.uint8), isVector=True)
    sitk.WriteImage(layers, str(tmp_path / "a.seg.nrrd"))
    assert "overlap" in message(tmp_path / "a.seg.nrrd").cure


# --- DICOM


def test_dicom_folder(tmp_path: Path):
    write_series(tmp_path / "ct", [12.5, 10.0, 15.0])  # written out of order
    volume = Volume.read(tmp_path / "ct")
    assert volume.array[:, 0, 0].tolist() == [10, 0, 20]
    assert volume.geometry.spacing_xyz == pytest.approx((0.5, 0.5, 2.5))
    assert volume.geometry.origin_xyz == pytest.approx((-3, 7, 10))
    assert volume.modality == "ct"
    assert "Frame 1" in message(tmp_path / "ct", frame=1).message


@pytest.mark.parametrize(("tag", "modality"), [("MR", "mr"), ("PT", "pet"), ("OT", None)])
def test_dicom_modality(tmp_path: Path, tag: str, modality: str | None):
    write_series(tmp_path / "scan", [0, 1, 2], modality=tag)
    assert Volume.read(tmp_path / "scan").modality == modality


def test_dicom_several_series_are_named(tmp_path: Path):
    write_series(tmp_path / "both", [0, 1, 2], title="AX T1")
    write_series(tmp_path / "both", [0, 1], uid="1.2.4", title="SAG T2")
    text = message(tmp_path / "both").message
    assert "AX T1 (3 files, " in text
    assert "SAG T2 (2 files, " in text


def test_dicom_gap(tmp_path: Path):
    write_series(tmp_path / "gap", [0, 2, 4, 8, 10])
    error = message(tmp_path / "gap")
    assert isinstance(error, GeometryError)
    assert "2 mm apart, but 4 mm between slice 3 and 4" in error.message


def test_dicom_small_unevenness_is_read(tmp_path: Path):
    write_series(tmp_path / "even", [0, 2, 4.05, 6, 8])
    assert Volume.read(tmp_path / "even").geometry.spacing_xyz[2] == pytest.approx(2, abs=0.02)


def test_dicom_two_volumes_in_one_series(tmp_path: Path):
    write_series(tmp_path / "phases", [0, 0, 2, 2, 4, 4])
    assert "more than one volume" in message(tmp_path / "phases").message


def test_dicom_tilted_gantry(tmp_path: Path):
    write_series(tmp_path / "tilt", [0, 2, 4, 6], tilt=0.5)
    assert "tilted" in message(tmp_path / "tilt").message


def test_folder_without_dicom_and_single_slice(tmp_path: Path):
    write_series(tmp_path / "one", [0])
    (tmp_path / "none").mkdir()
    assert "no DICOM series" in message(tmp_path / "none").message
    with pytest.raises(InputError, match="flat"):
        Volume.read(tmp_path / "one")


def test_dicom_pet_of_a_hospital(shared: Path):
    volume = Volume.read(shared / "data" / "pet_dicom")
    assert volume.array.shape == (299, 128, 128)
    assert volume.modality == "pet"
    assert volume.array.dtype == np.float32


# --- what cannot be written


def test_unknown_format_and_missing_folder(tmp_path: Path):
    with pytest.raises(OutputError, match="ending"):
        ramp().write(tmp_path / "a.xyz")
    with pytest.raises(OutputError, match="does not exist"):
        ramp().write(tmp_path / "absent" / "a.nii")


def test_folder_without_rights(tmp_path: Path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(OutputError, match="Cannot write"):
        ramp().write(folder / "a.nii")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.mhd"])
def test_full_disk_leaves_the_old_file(tmp_path: Path, name: str):
    ramp().write(tmp_path / name)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    resource = pytest.importorskip("resource")  # not on Windows
    noise = np.random.default_rng(0).integers(0, 60000, (40, 40, 40)).astype(np.uint16)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # files may not grow beyond this: as good as a full disk
    try:
        with pytest.raises(OutputError, match="Cannot write"):
            Volume(noise, Geometry(shape_zyx=(40, 40, 40))).write(tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


# --- lengths of NIfTI files


@pytest.mark.parametrize("order", ["<", ">"])
def test_length_by_nifti_header(order: str):
    first = bytearray(352)
    struct.pack_into(order + "i", first, 0, 348)
    struct.pack_into(order + "8h", first, 40, 3, 10, 20, 30, 0, 0, 0, 0)
    struct.pack_into(order + "h", first, 72, 16)
    struct.pack_into(order + "f", first, 108, 352)
    second = bytearray(544)
    struct.pack_into(order + "i", second, 0, 540)
    struct.pack_into(order + "h", second, 14, 32)
    struct.pack_into(order + "8q", second, 16, 4, 10, 20, 30, 2, 1, 1, 1)
    struct.pack_into(order + "q", second, 168, 544)
    heads = [Header.of(bytes(first)), Header.of(bytes(second))]
    assert [head.length for head in heads if head] == [352 + 2 * 6000, 544 + 4 * 12000]
