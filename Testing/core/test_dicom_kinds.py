"""DICOM as found in hospitals: every voxel is placed as its header says, or the cause is named."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mass_core.errors import GeometryError, InputError, MassError
from mass_core.volumes.appearance import read_appearance
from mass_core.volumes.mask_files import How, read_masks
from mass_core.volumes.volume import Geometry, Volume

pydicom = pytest.importorskip("pydicom")

from Testing.core.dicom_files import begun, of, saved, write_enhanced, write_segmentation, write_slices  # noqa: E402

GRID = Geometry(shape_zyx=(6, 4, 5), spacing_xyz=(1.0, 2.0, 3.0), origin_xyz=(-5.0, 7.0, 10.0))
ARRAY = np.arange(120, dtype=np.int16).reshape(6, 4, 5)
HEIGHTS = [10.0 + 3 * k for k in range(6)]


def refused(path: Path, frame: int | None = None) -> MassError:
    with pytest.raises(MassError) as caught:
        Volume.read(path, frame)
    assert caught.value.cure
    return caught.value


def is_twin(volume: Volume, array: np.ndarray = ARRAY) -> bool:
    return volume.geometry.matches(GRID) and np.array_equal(volume.array, array)


# --- Enhanced multi-frame


@pytest.mark.parametrize("order", [[0, 3, 1, 4, 2, 5], [5, 4, 3, 2, 1, 0], [2, 0, 5, 1, 4, 3]], ids=["packages", "downwards", "mixed"])
def test_frames_are_placed_by_position(tmp_path: Path, order: list[int]) -> None:
    path = write_enhanced(tmp_path / "e.dcm", ARRAY[order], [HEIGHTS[k] for k in order])
    volume = Volume.read(path)
    assert is_twin(volume) and volume.modality == "mr"


SIGNS: dict[str, Callable[[int], dict]] = {
    "TemporalPositionIndex": lambda n: {"FrameContentSequence": [of(TemporalPositionIndex=1 + n // 6)]},
    "EffectiveEchoTime": lambda n: {"MREchoSequence": [of(EffectiveEchoTime=(2.5, 10.0)[n // 6])]},
    "DiffusionBValue": lambda n: {"MRDiffusionSequence": [of(DiffusionBValue=(0.0, 800.0)[n // 6])]},
    "StackID": lambda n: {"FrameContentSequence": [of(StackID=str(1 + n // 6))]},
}


@pytest.mark.parametrize("sign", SIGNS)
def test_one_of_several_volumes_in_a_file_must_be_chosen(tmp_path: Path, sign: str) -> None:
    path = write_enhanced(tmp_path / "two.dcm", np.concatenate([ARRAY, ARRAY + 500]), HEIGHTS * 2, SIGNS[sign])
    assert "Choose one" in refused(path).cure and "frame 0 to 1" in refused(path).cure
    assert is_twin(Volume.read(path, 0)) and is_twin(Volume.read(path, 1), ARRAY + 500)
    assert "Frame" in str(refused(path, 2)) or "frame" in str(refused(path, 2))


@pytest.mark.parametrize("lost", [[2], [1, 2], [3]])
def test_missing_frames_are_named(tmp_path: Path, lost: list[int]) -> None:
    kept = [k for k in range(6) if k not in lost]
    error = refused(write_enhanced(tmp_path / "gap.dcm", ARRAY[kept], [HEIGHTS[k] for k in kept]))
    assert isinstance(error, GeometryError)
    assert f"3 mm apart, but {3 + 3 * len(lost)} mm between frame {lost[0]} and {lost[0] + 1}" in error.message


def test_turned_frames_and_frames_without_a_place_are_named(tmp_path: Path) -> None:
    turned = {"PlaneOrientationSequence": [of(ImageOrientationPatient=[1, 0, 0, 0, 0.8, 0.6])]}
    error = refused(write_enhanced(tmp_path / "t.dcm", ARRAY, HEIGHTS, lambda n: turned if n == 4 else {}))
    assert "1 of the 6 frames" in error.message and "direction" in error.message and "frame 5" in error.message
    nowhere = {"PlanePositionSequence": [of()]}
    assert "Frame 3 of" in refused(write_enhanced(tmp_path / "n.dcm", ARRAY, HEIGHTS, lambda n: nowhere if n == 2 else {})).message


def test_frames_at_one_place_that_nothing_tells_apart(tmp_path: Path) -> None:
    error = refused(write_enhanced(tmp_path / "e.dcm", np.concatenate([ARRAY, ARRAY]), HEIGHTS * 2))
    assert "the headers do not distinguish them" in error.message


def test_slopes_that_differ_by_frame_count(tmp_path: Path) -> None:
    slopes = {"PixelValueTransformationSequence"}

    def scaled(n: int) -> dict:
        return dict.fromkeys(slopes, [of(RescaleSlope=0.5 * (n + 1), RescaleIntercept=-3)])

    volume = Volume.read(write_enhanced(tmp_path / "s.dcm", ARRAY, HEIGHTS, scaled))
    np.testing.assert_allclose(volume.array, ARRAY * (0.5 * np.arange(1, 7))[:, None, None] - 3)


# --- classic series


def test_slices_are_placed_by_position_whatever_their_names(tmp_path: Path) -> None:
    def downwards(data: pydicom.Dataset, n: int) -> None:
        data.ImagePositionPatient, data.InstanceNumber = [-5, 7, HEIGHTS[5 - n]], 6 - n

    assert is_twin(Volume.read(write_slices(tmp_path / "d", ARRAY, change=downwards)), ARRAY[::-1])


def test_a_slice_stands_for_its_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way out of a folder where the files of two series are mixed."""

    def other(data: pydicom.Dataset, n: int) -> None:
        data.SeriesInstanceUID = "1.2.99"

    write_slices(tmp_path, ARRAY)
    write_slices(tmp_path, ARRAY + 500, first=10, change=other)
    error = refused(tmp_path)
    assert "2 DICOM series" in error.message and error.cure == "Give one of the files of the one to use."
    monkeypatch.chdir(tmp_path)
    for file in (tmp_path / "s00.dcm", tmp_path / "s05.dcm", Path("s02.dcm")):
        assert is_twin(Volume.read(file)) and Volume.read(file).modality == "mr"
    assert is_twin(Volume.read(tmp_path / "s11.dcm"), ARRAY + 500)
    assert "Frame 1" in refused(tmp_path / "s11.dcm", frame=1).message


def test_a_segmentation_beside_its_series_is_read_alone(tmp_path: Path) -> None:
    write_slices(tmp_path, ARRAY)
    assert is_twin(Volume.read(write_segmentation(tmp_path / "seg.dcm", {"liver": ARRAY % 3 == 0})), ARRAY % 3 == 0)


@pytest.mark.parametrize("missing", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_slices_that_do_not_say_where_they_lie(tmp_path: Path, missing: str) -> None:
    error = refused(write_slices(tmp_path / "s", ARRAY, change=lambda data, n: delattr(data, missing) if n != 3 else None))
    assert isinstance(error, GeometryError) and "5 of the 6 slices" in error.message


def _spaced(data: pydicom.Dataset) -> None:
    data.PixelSpacing = [2, 1.5]


def _turned(data: pydicom.Dataset) -> None:
    data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def _larger(data: pydicom.Dataset) -> None:
    data.Rows, data.PixelData = 8, data.PixelData * 2


@pytest.mark.parametrize(("odd", "told"), [(_spaced, "pixel spacing"), (_turned, "direction"), (_larger, "size")])
def test_slices_unlike_the_others_are_named(tmp_path: Path, odd: Callable, told: str) -> None:
    error = refused(write_slices(tmp_path / "s", ARRAY, change=lambda data, n: odd(data) if n == 2 else None))
    assert f"1 of the 6 slices of the DICOM series in {tmp_path / 's'} differ in {told}" in error.message
    assert "s02.dcm" in error.message


def test_a_slice_that_is_there_twice_is_named(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "s", ARRAY)
    again = pydicom.dcmread(folder / "s03.dcm")
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = "1.2.77"
    again.save_as(folder / "copy.dcm")
    assert "2 slices at positions that occur more than once: copy.dcm, s03.dcm" in refused(folder).message


@pytest.mark.parametrize(
    ("name", "values"), [("EchoTime", (2.5, 10.0)), ("TemporalPositionIdentifier", (1, 2)), ("AcquisitionNumber", (3, 4))]
)
def test_one_of_several_volumes_in_a_series_must_be_chosen(tmp_path: Path, name: str, values: tuple) -> None:
    for k, value in enumerate(values):
        write_slices(tmp_path / "s", ARRAY + 500 * k, first=10 * k, change=lambda data, n, value=value: setattr(data, name, value))
    error = refused(tmp_path / "s")
    assert "it holds 2 volumes (" in error.message and name in error.message and "frame 0 to 1" in error.cure
    assert is_twin(Volume.read(tmp_path / "s", 0)) and is_twin(Volume.read(tmp_path / "s", 1), ARRAY + 500)


@pytest.mark.parametrize("slopes", [(1, 0.013), (2, 0.5), (1, 3.25)])
def test_slopes_that_differ_by_slice_give_fractions(tmp_path: Path, slopes: tuple[float, float]) -> None:
    def scaled(data: pydicom.Dataset, n: int) -> None:
        data.RescaleSlope, data.RescaleIntercept = slopes[min(n, 1)], 0

    volume = Volume.read(write_slices(tmp_path / "pet", ARRAY, kind="PT", change=scaled))
    factors = np.array([slopes[min(n, 1)] for n in range(6)])[:, None, None]
    np.testing.assert_allclose(volume.array, ARRAY * factors, rtol=1e-5)
    assert volume.modality == "pet"


@pytest.mark.parametrize(("slope", "intercept", "missing"), [(1, -1024, {5}), (2, 0, {0, 3}), (0.5, -8, {1, 2, 3, 4, 5})])
def test_slices_without_rescaling_among_others_are_refused(tmp_path: Path, slope: float, intercept: float, missing: set[int]) -> None:
    def scaled(data: pydicom.Dataset, n: int) -> None:
        for name, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
            if n in missing:
                data.pop(name, None)
            else:
                setattr(data, name, value)

    error = refused(write_slices(tmp_path / "ct", ARRAY, change=scaled))
    assert f"{len(missing)} of the 6 slices" in error.message and "have no Rescale Slope" in error.message


def test_rescaling_that_changes_nothing_may_be_missing(tmp_path: Path) -> None:
    def scaled(data: pydicom.Dataset, n: int) -> None:
        if n % 2:
            data.RescaleSlope, data.RescaleIntercept = 1, 0

    assert is_twin(Volume.read(write_slices(tmp_path / "mr", ARRAY, change=scaled)))


# --- segmentations, contours


def block(z: slice, y: slice, x: slice) -> np.ndarray:
    mask = np.zeros(ARRAY.shape, np.uint8)
    mask[z, y, x] = 1
    return mask


LEFT, RIGHT = block(slice(1, 4), slice(0, 2), slice(0, 2)), block(slice(2, 5), slice(2, 4), slice(3, 5))
WIDE = block(slice(1, 5), slice(0, 3), slice(0, 4))


def on_grid(volume: Volume) -> np.ndarray:
    """A label map on the grid of the slices."""
    from mass_core.volumes.resample import resample

    return resample(volume, GRID, "nearest").array


def test_segments_are_labels_with_their_names_and_colours(tmp_path: Path) -> None:
    path = write_segmentation(tmp_path / "seg.dcm", {"anterior": LEFT, "posterior": RIGHT}, colour=(34885, 53485, 50171))
    assert np.array_equal(on_grid(Volume.read(path)), LEFT + 2 * RIGHT)
    looks = read_appearance(path)
    assert [looks[n].name for n in (1, 2)] == ["anterior", "posterior"]
    assert looks[1].color == pytest.approx((1, 0, 0), abs=0.04) and looks[2].color is None


def test_segments_with_a_gap_between_their_frames_stay_in_place(tmp_path: Path) -> None:
    ends = block(slice(1, 2), slice(0, 2), slice(0, 2)) + block(slice(4, 5), slice(0, 2), slice(0, 2))
    volume = Volume.read(write_segmentation(tmp_path / "seg.dcm", {"ends": ends, "middle": block(slice(2, 3), slice(3, 4), slice(4, 5))}))
    assert np.array_equal(on_grid(volume), ends + 2 * block(slice(2, 3), slice(3, 4), slice(4, 5)))


def test_overlapping_segments_are_one_mask_each(tmp_path: Path) -> None:
    path = write_segmentation(tmp_path / "seg.dcm", {"left": LEFT, "organ": WIDE, "right": RIGHT})
    with pytest.raises(InputError, match="overlap"):
        Volume.read(path)
    image = Volume(ARRAY, GRID)
    one, other = read_masks(path, image, How())
    assert np.array_equal(on_grid(one), LEFT + 3 * RIGHT) and np.array_equal(on_grid(other), 2 * WIDE)
    (alone,) = read_masks(path, image, How(labels=[2]))
    assert np.array_equal(on_grid(alone), 2 * WIDE)


@pytest.mark.parametrize(("kind", "told"), [("RTSTRUCT", "contours"), ("SR", "without an image")])
def test_dicom_without_voxels_is_explained(tmp_path: Path, kind: str, told: str) -> None:
    path = saved(begun(kind), tmp_path / "x" / "plan.dcm")
    assert told in refused(path).message
    if kind == "RTSTRUCT":
        assert "contours" in refused(tmp_path / "x").message and "3D Slicer" in refused(path).cure


def test_contours_beside_a_series_do_not_disturb_it(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "s", ARRAY)
    saved(begun("RTSTRUCT", series="1.2.4"), folder / "plan.dcm")
    assert is_twin(Volume.read(folder))


def test_frames_without_any_place_are_refused(tmp_path: Path) -> None:
    data = begun("MR")
    from Testing.core.dicom_files import with_pixels

    data.NumberOfFrames = 6
    with_pixels(data, ARRAY)
    assert "have no position" in refused(saved(data, tmp_path / "nm.dcm")).message


# --- numbers that place nothing, slow drifts, lost files, inverted greys


@pytest.mark.parametrize(
    ("name", "value"),
    [("PixelSpacing", [0, 1]), ("ImageOrientationPatient", [2, 0, 0, 0, 1, 0]), ("ImageOrientationPatient", [1, 0, 0, 0.3, 0.95, 0])],
    ids=["no size", "too long", "skew"],
)
def test_numbers_that_make_no_plane_are_named(tmp_path: Path, name: str, value: list[float]) -> None:
    error = refused(write_slices(tmp_path / "s", ARRAY, change=lambda data, n: setattr(data, name, value)))
    assert isinstance(error, GeometryError) and "6 of the 6 slices" in error.message and "s00.dcm" in error.message
    sequence = "PixelMeasuresSequence" if name == "PixelSpacing" else "PlaneOrientationSequence"
    error = refused(write_enhanced(tmp_path / "e.dcm", ARRAY, HEIGHTS, lambda n: {sequence: [of(**{name: value})]}))
    assert isinstance(error, GeometryError) and "6 of the 6 frames" in error.message


@pytest.mark.parametrize(
    "axes",
    [[0.999, 0.035, 0, -0.036, 0.999, 0], [0.7, 0.714, 0, -0.714, 0.7, 0], [1, 0.002, 0, 0, 1, 0.001]],
    ids=["3 digits", "oblique", "tilt"],
)
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_rounded_directions_come_back_from_files(tmp_path: Path, axes: list[float], ending: str) -> None:
    """What is written for such a scan lies where the scan lies."""

    def turned(data: pydicom.Dataset, n: int) -> None:
        normal = np.cross(axes[:3], axes[3:])
        data.ImageOrientationPatient, data.ImagePositionPatient = axes, (np.array([-5, 7, 10]) + 3 * n * normal).round(6).tolist()

    volume = Volume.read(write_slices(tmp_path / "s", ARRAY, change=turned))
    direction = np.reshape(volume.geometry.direction, (3, 3))
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(direction[:, :2].T, np.reshape(axes, (2, 3)), atol=5e-3)
    volume.write(tmp_path / f"copy{ending}")
    back = Volume.read(tmp_path / f"copy{ending}")
    assert back.geometry.matches(volume.geometry) and back.notes == ()


LONG = np.tile(ARRAY[:1], (40, 1, 1))


@pytest.mark.parametrize("step", [3.25, 2.75, 3.1])
def test_thicknesses_that_add_up_are_refused(tmp_path: Path, step: float) -> None:
    """No single step is odd, but slices in the middle lie elsewhere on an even grid."""

    def thicker(data: pydicom.Dataset, n: int) -> None:
        data.ImagePositionPatient = [-5, 7, 10 + 3 * min(n, 10) + step * max(0, n - 10)]

    apart = abs(step - 3) * 10 * 29 / 39
    folder = write_slices(tmp_path / "s", LONG, change=thicker)
    if apart < 1.5:
        assert Volume.read(folder).geometry.spacing_xyz[2] == pytest.approx((30 + 29 * step) / 39)
    else:
        assert f"s10.dcm lies {apart:.3g} mm off its place" in refused(folder).message


@pytest.mark.parametrize("tilt", [0.02, 0.05])
@pytest.mark.parametrize("enhanced", [False, True])
def test_a_slight_tilt_that_adds_up_is_refused(tmp_path: Path, tilt: float, enhanced: bool) -> None:
    """Less than a degree, but a voxel and more at the end of a scan."""
    positions = [[-5, 7 + tilt * n, 10 + 3 * n] for n in range(40)]

    def shifted(data: pydicom.Dataset, n: int) -> None:
        data.ImagePositionPatient = positions[n]

    def frame(n: int) -> dict:
        return {"PlanePositionSequence": [of(ImagePositionPatient=positions[n])]}

    def written(count: int) -> Path:
        if enhanced:
            return write_enhanced(tmp_path / f"{count}.dcm", LONG[:count], [0.0] * count, frame)
        return write_slices(tmp_path / str(count), LONG[:count], change=shifted)

    assert "tilted gantry" in refused(written(40)).message
    near = Volume.read(written(6))
    assert near.geometry.direction == pytest.approx(GRID.direction) and near.geometry.origin_xyz == pytest.approx(GRID.origin_xyz)


@pytest.mark.parametrize("rest", [0, 200, -20], ids=["empty", "header", "cut"])
@pytest.mark.parametrize("number", [0, 5])
def test_a_damaged_slice_at_the_end_is_told(tmp_path: Path, number: int, rest: int) -> None:
    folder = write_slices(tmp_path / "s", ARRAY)
    path = folder / f"s{number:02}.dcm"
    path.write_bytes(path.read_bytes()[:rest])
    kept = slice(1, 6) if number == 0 else slice(0, 5)
    volume = Volume.read(folder)
    assert np.array_equal(volume.array, ARRAY[kept]) and volume.geometry.origin_xyz[2] == pytest.approx(HEIGHTS[kept][0])
    assert volume.notes == (f"DICOM files that cannot be read were left out; slices may be missing: {path.name}.",)


def test_other_files_of_a_folder_are_no_damaged_slices(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "s", ARRAY)
    saved(begun("RTSTRUCT", series="1.2.4"), folder / "plan.dcm")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / "notes.txt").write_text("words")
    assert Volume.read(folder).notes == ()


@pytest.mark.parametrize("file", ["the folder", "s00.dcm"])
def test_a_name_that_is_not_utf8_does_not_end_the_process(tmp_path: Path, file: str) -> None:
    folder = write_slices(tmp_path / "s", ARRAY)
    try:
        (folder / "s03.dcm").rename(folder / os.fsdecode(b"\xdcbersicht.dcm"))
    except OSError:
        pytest.skip("this disk does not take such names")
    assert "is not UTF-8" in refused(folder if file == "the folder" else folder / file).message


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("kind", "intercept"), [("CT", -1024), ("MR", 0), ("PT", 0)])
def test_inverted_greys_keep_their_values(tmp_path: Path, kind: str, intercept: int, signed: bool) -> None:
    """MONOCHROME1 says how to show the values, not what they mean."""

    def inverted(data: pydicom.Dataset, n: int) -> None:
        data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME1", int(signed)
        data.RescaleSlope, data.RescaleIntercept = 1, intercept

    volume = Volume.read(write_slices(tmp_path / "s", ARRAY, kind=kind, change=inverted))
    assert is_twin(volume, ARRAY + intercept) and volume.modality == {"CT": "ct", "MR": "mr", "PT": "pet"}[kind]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [3, 0, 5, 1, 4, 2]])
def test_an_enhanced_file_for_each_slice_is_one_series(tmp_path: Path, order: list[int]) -> None:
    for number, n in enumerate(order):
        write_enhanced(tmp_path / f"e{number}.dcm", ARRAY[n : n + 1], HEIGHTS[n : n + 1])
    for path in (tmp_path, tmp_path / "e2.dcm"):
        assert is_twin(Volume.read(path)) and Volume.read(path).modality == "mr"


def test_enhanced_files_of_two_times_are_two_volumes(tmp_path: Path) -> None:
    for time in (1, 2):
        groups = {"FrameContentSequence": [of(TemporalPositionIndex=time)]}
        write_enhanced(tmp_path / f"t{time}.dcm", ARRAY + 500 * (time - 1), HEIGHTS, lambda n, groups=groups: groups)
    assert "it holds 2 volumes (TemporalPositionIndex 1, 2)" in refused(tmp_path).message
    assert is_twin(Volume.read(tmp_path, 0)) and is_twin(Volume.read(tmp_path, 1), ARRAY + 500)
    assert is_twin(Volume.read(tmp_path / "t2.dcm"), ARRAY + 500)


@pytest.mark.parametrize("count", [4, 5, 7])
@pytest.mark.parametrize("kind", ["image", "segmentation"])
def test_a_number_of_frames_that_does_not_fit_is_refused(tmp_path: Path, count: int, kind: str) -> None:
    whole = block(slice(0, 6), slice(0, 2), slice(0, 2))
    write = {
        "image": lambda path: write_enhanced(path, ARRAY, HEIGHTS),
        "segmentation": lambda path: write_segmentation(path, {"a": whole}),
    }
    path = write[kind](tmp_path / "n.dcm")
    data = pydicom.dcmread(path)
    data.NumberOfFrames = count
    data.save_as(path)
    assert f"holds {count} frames, but describes 6" in refused(path).message


@pytest.mark.parametrize("planes", [[1, 3, 5], [0, 5], [0, 2, 5], [4]])
@pytest.mark.parametrize("stated", ["SpacingBetweenSlices", "SliceThickness"])
def test_segments_on_some_planes_do_not_spread_to_others(tmp_path: Path, planes: list[int], stated: str) -> None:
    """A structure outlined on every other slice: the distance of frames is not that of slices."""
    mask = np.zeros_like(ARRAY, np.uint8)
    mask[planes, :2, :2] = 1
    path = write_segmentation(tmp_path / "seg.dcm", {"outlined": mask})
    data = pydicom.dcmread(path)
    if stated == "SliceThickness":
        del data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    data.save_as(path)
    assert np.array_equal(on_grid(Volume.read(path)), mask)


def test_a_frame_of_no_segment_is_refused(tmp_path: Path) -> None:
    path = write_segmentation(tmp_path / "seg.dcm", {"a": LEFT})
    data = pydicom.dcmread(path)
    del data.PerFrameFunctionalGroupsSequence[1].SegmentIdentificationSequence
    data.save_as(path)
    assert "Frame 2 of" in refused(path).message and "names no segment" in refused(path).message
