"""NRRD and MetaImage headers as other programs write them, with known positions."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mass_core.errors import GeometryError, InputError
from mass_core.volumes.volume import Geometry, Volume

TILTED = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
GRID = Geometry(shape_zyx=(4, 5, 6), spacing_xyz=(1.0, 2.0, 3.0), origin_xyz=(-12.0, 30.0, 7.0), direction=TILTED)
ARRAY = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
LPS, RAS, LAS = np.diag([1.0, 1.0, 1.0]), np.diag([-1.0, -1.0, 1.0]), np.diag([1.0, -1.0, 1.0])
STRAIGHT = replace(GRID, direction=Geometry(shape_zyx=(1, 1, 1)).direction)


def vectors(columns: np.ndarray) -> str:
    return " ".join("(" + ",".join(f"{value:.9g}" for value in column) + ")" for column in columns.T)


def directions(axes: np.ndarray = LPS, matrix: np.ndarray = GRID.affine, scale: float = 1.0) -> str:
    return vectors(scale * axes @ matrix[:3, :3])


def origin(axes: np.ndarray = LPS, scale: float = 1.0) -> str:
    return vectors((scale * axes @ GRID.affine[:3, 3])[:, None])


def write_nrrd(path: Path, *fields: str, array: np.ndarray = ARRAY) -> Path:
    """An NRRD, its voxels in a file of their own if it is called .nhdr."""
    sizes = " ".join(map(str, array.shape[::-1]))
    head = ["NRRD0005", "type: int16", f"dimension: {array.ndim}", f"sizes: {sizes}", "encoding: raw", "endian: little", *fields]
    if path.suffix == ".nhdr":
        head.append(f"data file: {path.stem}.raw")
        path.with_suffix(".raw").write_bytes(array.tobytes())
    path.write_bytes(("\n".join(head) + "\n\n").encode() + (b"" if path.suffix == ".nhdr" else array.tobytes()))
    return path


def write_meta(path: Path, **fields: object) -> Path:
    known = {"ObjectType": "Image", "NDims": 3, "BinaryData": True, **fields}
    last = {"DimSize": "6 5 4", "ElementType": "MET_SHORT", "ElementDataFile": "LOCAL"}
    text = "".join(f"{name} = {value}\n" for name, value in (known | last).items())
    path.write_bytes(text.encode() + ARRAY.tobytes())
    return path


META = {
    "TransformMatrix": " ".join(f"{v:.9g}" for v in np.reshape(TILTED, (3, 3)).T.ravel()),
    "Offset": "-12 30 7",
    "ElementSpacing": "1 2 3",
}


@pytest.mark.parametrize(("slope", "intercept"), [(2, -1024), (0.5, 0), (1, 8)])
def test_metaimage_values_are_rescaled(tmp_path: Path, slope: float, intercept: float) -> None:
    rescaling = {"ElementToIntensityFunctionSlope": slope, "ElementToIntensityFunctionOffset": intercept}
    volume = Volume.read(write_meta(tmp_path / "a.mha", **META, **rescaling))
    np.testing.assert_allclose(volume.array, slope * ARRAY + intercept)
    assert volume.geometry.matches(GRID, 1e-3)


def is_twin(volume: Volume, grid: Geometry = GRID) -> bool:
    return volume.geometry.matches(grid, 1e-3) and np.array_equal(volume.array, ARRAY)


@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr"])
@pytest.mark.parametrize(
    ("space", "axes"), [("left-posterior-superior", LPS), ("RAS", RAS), ("right-anterior-superior", RAS), ("LAS", LAS)]
)
def test_every_space_of_a_patient_is_read(tmp_path: Path, name: str, space: str, axes: np.ndarray) -> None:
    fields = [f"space: {space}", f"space directions: {directions(axes)}", f"space origin: {origin(axes)}"]
    volume = Volume.read(write_nrrd(tmp_path / name, *fields))
    assert is_twin(volume) and volume.notes == ()


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_the_axis_of_values_may_be_anywhere(tmp_path: Path, place: int) -> None:
    """`place` is the axis without a direction, from the fastest on."""
    given, kinds = directions().split(" "), ["domain"] * 3
    given.insert(place, "none")
    kinds.insert(place, "list")
    fields = ["space: LPS", f"kinds: {' '.join(kinds)}", f"space directions: {' '.join(given)}", f"space origin: {origin()}"]
    many = write_nrrd(tmp_path / "v.nrrd", *fields, array=np.ascontiguousarray(np.stack([ARRAY + 500, ARRAY], axis=3 - place)))
    with pytest.raises(InputError, match="holds 2"):
        Volume.read(many)
    assert is_twin(Volume.read(many, 1))
    assert is_twin(Volume.read(write_nrrd(tmp_path / "one.nrrd", *fields, array=np.expand_dims(ARRAY, 3 - place))))


@pytest.mark.parametrize(
    ("unit", "scale"), [("mm", 1.0), ("um", 1000.0), ("µm", 1000.0), ("m", 0.001), ("cm", 0.1)], ids=["mm", "um", "micro", "m", "cm"]
)
def test_units_of_length_count(tmp_path: Path, unit: str, scale: float) -> None:
    fields = [f"space directions: {directions(scale=scale)}", f"space origin: {origin(scale=scale)}"]
    path = write_nrrd(tmp_path / "u.nrrd", "space: LPS", f'space units: "{unit}" "{unit}" "{unit}"', *fields)
    assert is_twin(Volume.read(path))
    offset = " ".join(f"{v * scale:.9g}" for v in GRID.origin_xyz)
    edges = " ".join(f"{v * scale:.9g}" for v in GRID.spacing_xyz)
    assert is_twin(Volume.read(write_meta(tmp_path / "u.mha", **META | {"Offset": offset, "ElementSpacing": edges, "DistanceUnits": unit})))


def test_unknown_units_are_refused(tmp_path: Path) -> None:
    fields = ["space: LPS", f"space directions: {directions()}", f"space origin: {origin()}"]
    for units in ('"inch" "inch" "inch"', '"mm" "mm" "um"'):
        with pytest.raises(GeometryError, match="which cannot be read"):
            Volume.read(write_nrrd(tmp_path / "u.nrrd", *fields, f"space units: {units}"))


@pytest.mark.parametrize(
    "fields",
    [
        [],
        ["spacings: 1 2 3"],
        ["space dimension: 3", f"space directions: {directions()}", f"space origin: {origin()}"],
        ["space: scanner-xyz", f"space directions: {directions()}", f"space origin: {origin()}"],
        ["space: 3D-right-handed", f"space directions: {directions()}", f"space origin: {origin()}"],
    ],
    ids=["nothing", "spacings", "dimension", "scanner", "right-handed"],
)
def test_an_nrrd_that_does_not_say_how_it_lies_is_told(tmp_path: Path, fields: list[str]) -> None:
    (note,) = Volume.read(write_nrrd(tmp_path / "n.nrrd", *fields)).notes
    assert note.startswith("n.nrrd has no orientation in the patient: ") and "left and right may be swapped" in note


@pytest.mark.parametrize("missing", ["TransformMatrix", "Offset"])
def test_a_metaimage_that_does_not_say_how_it_lies_is_told(tmp_path: Path, missing: str) -> None:
    (note,) = Volume.read(write_meta(tmp_path / "n.mha", **{name: text for name, text in META.items() if name != missing})).notes
    assert ("no orientation" if missing == "TransformMatrix" else "no position") in note
    assert is_twin(Volume.read(write_meta(tmp_path / "a.mha", **META, AnatomicalOrientation="RAS")))


@pytest.mark.parametrize("skew", [0.004, 0.1, 0.5])
@pytest.mark.parametrize("name", ["s.nrrd", "s.mha"])
def test_sheared_axes_are_refused(tmp_path: Path, skew: float, name: str) -> None:
    """As of a tilted gantry; ITK drops the shear, or keeps it where all else supposes right angles."""
    matrix = np.diag([1.0, 1.0, 1.0])
    matrix[1, 2] = skew
    if name == "s.nrrd":
        write_nrrd(tmp_path / name, "space: LPS", f"space directions: {vectors(matrix)}", "space origin: (0,0,0)")
    else:
        write_meta(tmp_path / name, **META | {"TransformMatrix": " ".join(map(str, matrix.T.ravel()))})
    with pytest.raises(GeometryError, match="not at right angles"):
        Volume.read(tmp_path / name)


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.5])
def test_axes_that_are_no_unit_vectors_count_as_voxel_sizes(tmp_path: Path, factor: float) -> None:
    matrix = " ".join(str(v) for v in (factor * np.eye(3)).ravel())
    volume = Volume.read(write_meta(tmp_path / "f.mha", **META | {"TransformMatrix": matrix}))
    assert is_twin(volume, replace(STRAIGHT, spacing_xyz=(factor, 2 * factor, 3 * factor)))


def test_an_axis_without_a_direction_is_refused(tmp_path: Path) -> None:
    fields = ["space: LPS", "space directions: none (0,2,0) (0,0,3)", "space origin: (0,0,0)"]
    with pytest.raises(GeometryError, match="Only two of the three axes"):
        Volume.read(write_nrrd(tmp_path / "n.nrrd", *fields))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["z.mha", "z.mhd", "z.nrrd", "z.nii.gz"])
def test_compressed_voxels_with_a_wrong_byte_are_refused(tmp_path: Path, name: str, share: float) -> None:
    """ITK leaves zeros, or whatever the memory held, where a MetaImage cannot be decompressed."""
    noise = np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(tmp_path / name), useCompression=True)
    path = next(tmp_path.glob("*.zraw"), tmp_path / name)
    data = bytearray(path.read_bytes())
    at = int(share * len(data)) if path.suffix != ".mha" else len(data) - int((1 - share) * 11000)
    data[at] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        Volume.read(tmp_path / name)


@pytest.mark.parametrize("name", ["cut.mhd", "gone.mhd"])
def test_the_cause_is_not_an_older_error_of_the_system(tmp_path: Path, name: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(tmp_path / name))
    raw = (tmp_path / name).with_suffix(".raw")
    raw.write_bytes(raw.read_bytes()[:99]) if name == "cut.mhd" else raw.unlink()
    with pytest.raises(InputError, match="damaged") as caught:
        Volume.read(tmp_path / name)
    assert "Reason" not in caught.value.message


def test_a_file_compressed_twice_is_said_to_be_damaged(tmp_path: Path) -> None:
    Volume(ARRAY, GRID).write(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress((tmp_path / "a.nii.gz").read_bytes()))
    with pytest.raises(InputError, match="what is compressed is no NIfTI image"):
        Volume.read(tmp_path / "a.nii.gz")
