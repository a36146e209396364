"""Masks as found in practice: rounded, grey, negative, huge, overlapping. Each gives a label map or an error with a working cure."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from mass_core.errors import InputError, MassError
from mass_core.volumes.appearance import read_appearance
from mass_core.volumes.label_maps import as_label_map, only, thresholded
from mass_core.volumes.mask_files import How, read_label_map, read_mask, read_masks
from mass_core.volumes.volume import Geometry, Volume

GRID = Geometry(shape_zyx=(6, 7, 8), spacing_xyz=(1.0, 2.0, 3.0), origin_xyz=(5.0, 6.0, 7.0))


def mask(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    array = np.zeros(GRID.shape_zyx, np.uint8)
    for number, box in enumerate(boxes, 1):
        array[box] = number
    return array


ONE = (slice(1, 3), slice(1, 4), slice(1, 4))
TWO = (slice(3, 5), slice(3, 6), slice(4, 7))
WIDE = (slice(1, 5), slice(2, 6), slice(2, 6))
BOTH = mask(ONE, TWO)


@pytest.mark.parametrize("off", [1.53e-5, -4e-4, 9e-3])
def test_scaled_integers_are_rounded_and_it_is_told(off: float) -> None:
    labels = as_label_map(Volume(BOTH * np.float32(1 + off / 2), GRID))
    assert np.array_equal(labels.array, BOTH) and labels.array.dtype.kind == "i"
    assert "off whole numbers and were rounded" in labels.notes[0]


@pytest.mark.parametrize(("values", "told"), [(BOTH * 0.5, "probability map"), (BOTH * 100.3, "an image"), (BOTH + 0.4, "an image")])
def test_fractions_name_a_cure_that_works(values: np.ndarray, told: str) -> None:
    volume = Volume(values.astype(np.float32), GRID)
    with pytest.raises(InputError, match=told) as caught:
        as_label_map(volume)
    assert "--threshold-mask" in caught.value.cure
    assert set(np.unique(as_label_map(thresholded(volume, float(values.max()) / 2)).array)) <= {0, 1}


def ball(radius: float) -> np.ndarray:
    z, y, x = np.ogrid[-16:16, -17:17, -18:18]
    return np.sqrt(z * z + y * y + x * x) < radius


@pytest.mark.parametrize("top", [255, 100, 1000])
@pytest.mark.parametrize("radius", [6.5, 12.5])
def test_greys_of_an_interpolated_mask_are_refused_at_once(top: int, radius: float) -> None:
    greys = np.rint(ndimage.gaussian_filter(ball(radius) * float(top), 1.5)).astype(np.int16)
    with pytest.raises(InputError, match="an interpolated mask with grey values") as caught:
        as_label_map(Volume(greys, Geometry(shape_zyx=greys.shape)))
    assert f"--threshold-mask with the lowest value inside it, {greys.max() / 2:.4g} say" in caught.value.cure


def test_an_image_is_no_mask() -> None:
    noise = np.random.default_rng(0).integers(-1000, 1500, (20, 20, 20)).astype(np.int16)
    with pytest.raises(InputError, match="it is an image"):
        as_label_map(Volume(noise, Geometry(shape_zyx=noise.shape)))


@pytest.mark.parametrize("numbers", [range(1, 126), range(14001, 14126), range(2, 252, 2)])
def test_many_labels_are_no_greys(numbers: range) -> None:
    """TotalSegmentator has 117 labels, FreeSurfer numbers up to 14175."""
    labels = np.array(numbers, np.int16).reshape(5, 5, 5).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    assert np.array_equal(as_label_map(Volume(labels, Geometry(shape_zyx=labels.shape))).array, labels)


def test_values_below_zero_are_told() -> None:
    for low in (-1, -7, -1000):
        labels = as_label_map(Volume(np.where(BOTH == 0, low, BOTH.astype(np.int16)), GRID))
        assert labels.notes == (f"The mask holds values below 0, down to {low}; they count as background.",)


@pytest.mark.parametrize("value", [1e10, 70000.0, 3e5])
def test_huge_values_name_a_cure_that_works(value: float) -> None:
    array = BOTH.astype(np.float32)
    array[0, 0, 0] = value
    with pytest.raises(InputError, match="the highest label is 65535") as caught:
        as_label_map(Volume(array, GRID))
    assert "--labels" in caught.value.cure
    assert np.array_equal(as_label_map(only(Volume(array, GRID), [1, 2])).array, BOTH)


# --- segmentations of 3D Slicer


def write_segmentation(path: Path, layers: list[np.ndarray], segments: list[tuple[str, int, int]]) -> Path:
    """A .seg.nrrd; segments as name, layer, value."""
    image = sitk.GetImageFromArray(np.stack(layers, axis=-1), isVector=True) if len(layers) > 1 else sitk.GetImageFromArray(layers[0])
    image.SetSpacing(GRID.spacing_xyz)
    image.SetOrigin(GRID.origin_xyz)
    for number, (name, layer, value) in enumerate(segments):
        for field, text in (("Name", name), ("Layer", layer), ("LabelValue", value), ("Color", "1 0 0")):
            image.SetMetaData(f"Segment{number}_{field}", str(text))
    sitk.WriteImage(image, str(path))
    return path


IMAGE = Volume(np.zeros(GRID.shape_zyx, np.int16), GRID)


def test_overlapping_segments_are_a_label_each(tmp_path: Path) -> None:
    path = write_segmentation(tmp_path / "o.seg.nrrd", [mask(ONE), 2 * mask(WIDE)], [("left", 0, 1), ("organ", 1, 2)])
    one, two = read_masks(path, IMAGE, How())
    assert np.array_equal(one.array, mask(ONE)) and np.array_equal(two.array, 2 * mask(WIDE))
    assert np.array_equal(read_mask(path, IMAGE, How(labels=[2])).array, 2 * mask(WIDE))
    assert np.array_equal(read_mask(path, IMAGE, How(frame=1)).array, 2 * mask(WIDE))
    for refused in (lambda: read_label_map(path), lambda: read_mask(path, IMAGE, How())):
        with pytest.raises(InputError, match="overlap"):
            refused()


def test_segments_that_share_a_value_get_numbers_of_their_own(tmp_path: Path) -> None:
    path = write_segmentation(tmp_path / "s.seg.nrrd", [mask(ONE), mask(WIDE)], [("left", 0, 1), ("organ", 1, 1)])
    one, two = read_masks(path, IMAGE, How())
    assert np.array_equal(one.array, mask(ONE)) and np.array_equal(two.array, 2 * mask(WIDE))
    assert [look.name for look in read_appearance(path).values()] == ["left", "organ"]
    assert "numbered: 2 organ" in two.notes[0]


def test_layers_without_an_overlap_are_one_label_map(tmp_path: Path) -> None:
    path = write_segmentation(tmp_path / "l.seg.nrrd", [mask(ONE), 2 * mask(TWO)], [("left", 0, 1), ("right", 1, 2)])
    assert np.array_equal(read_label_map(path).array, BOTH)
    assert read_label_map(path).geometry.matches(GRID)


def test_a_frame_reaches_the_mask(tmp_path: Path) -> None:
    series = sitk.JoinSeries([sitk.GetImageFromArray(mask(ONE)), sitk.GetImageFromArray(mask(TWO))])
    sitk.WriteImage(series, str(tmp_path / "4d.nii.gz"))
    vector = sitk.GetImageFromArray(np.stack([mask(ONE), mask(TWO)], axis=-1), isVector=True)
    sitk.WriteImage(vector, str(tmp_path / "sequence.seq.nrrd"))
    for name in ("4d.nii.gz", "sequence.seq.nrrd"):
        assert np.array_equal(read_mask(tmp_path / name, IMAGE, How(frame=1)).array, mask(TWO))
        with pytest.raises(MassError, match="holds 2"):
            read_mask(tmp_path / name, IMAGE, How())
    sitk.WriteImage(sitk.GetImageFromArray(mask(ONE)), str(tmp_path / "3d.nii.gz"))
    assert np.array_equal(read_mask(tmp_path / "3d.nii.gz", IMAGE, How(frame=1)).array, mask(ONE))  # the image alone is 4D


@pytest.mark.parametrize("number", [1, 7, 20])
def test_real_label_maps_of_many_labels_are_read_as_they_are(shared: Path, number: int) -> None:
    path = shared / "data" / "head_label_maps" / "labels" / f"head_{number:02}.nii.gz"
    labels = as_label_map(read_label_map(path))
    stored = sitk.ReadImage(str(path))
    assert np.array_equal(labels.array, sitk.GetArrayFromImage(stored)) and labels.notes == ()
    assert len(np.unique(labels.array)) > 40 and labels.geometry.origin_xyz == pytest.approx(stored.GetOrigin(), abs=0.01)


LABELS = """<?xml version="1.0"?><CaretExtension><LabelTable>
<Label Key="{}" Red="0.0" Green="1.0" Blue="0.5" Alpha="1"><![CDATA[{}]]></Label>
<Label Key="117">{}</Label></LabelTable></CaretExtension>"""


@pytest.mark.parametrize(("value", "name"), [(1, "spleen"), (5, "liver & bile"), (90, "肝臓")])
@pytest.mark.parametrize("compressed", [False, True])
def test_names_that_totalsegmentator_writes_are_taken_over(tmp_path: Path, value: int, name: str, compressed: bool) -> None:
    Volume(BOTH, GRID).write(tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    text = LABELS.format(value, name, "costal").encode()
    block = (len(text) + 8 + 15) // 16 * 16
    extension = b"\1\0\0\0" + struct.pack("<ii", block, 0) + text.ljust(block - 8, b"\0")
    struct.pack_into("<f", data, 108, 348 + len(extension))
    whole = bytes(data[:348]) + extension + bytes(data[352:])
    path = tmp_path / ("b.nii.gz" if compressed else "b.nii")
    path.write_bytes(gzip.compress(whole) if compressed else whole)
    looks = read_appearance(path)
    assert (looks[value].name, looks[value].color) == (name, (0.0, 1.0, 0.5))
    assert (looks[117].name, looks[117].color) == ("costal", None)
    assert np.array_equal(read_label_map(path).array, BOTH)
    assert read_appearance(tmp_path / "a.nii") == {}
