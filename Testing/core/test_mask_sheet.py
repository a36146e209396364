"""The contact sheet: what lies where, seen by its arrays and pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mass_core.errors import GeometryError, OutputError
from mass_core.masks.mask_set import MaskSet
from mass_core.pictures.histogram import draw_histogram
from mass_core.pictures.mask_sheet import Cut, cut, sheet
from mass_core.pictures.panels import write_png
from mass_core.volumes.resample import orient, resample
from mass_core.volumes.volume import Geometry, Volume
from Testing.core.test_mask_statistics import mask_set

SPACING = (1.5, 2.5, 4.0)
RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
GEOMETRY = Geometry(shape_zyx=(9, 17, 31), spacing_xyz=SPACING, origin_xyz=(20.0, 10.0, -40.0), direction=RAS)


def scan() -> Volume:
    """In RAS: value 200 at the patient's left, posterior, superior; 120 at the right, anterior, inferior; 20 elsewhere."""
    array = np.full(GEOMETRY.shape_zyx, 20, np.int16)
    array[5:8, 2:6, 4:10] = 200
    array[1:4, 10:15, 20:28] = 120
    return Volume(array, GEOMETRY)


def masks_of(image: Volume) -> MaskSet:
    """One mask for each of the two objects, on the image's own grid."""
    return mask_set([image.array == 200, image.array == 120], image.geometry)


def centre(found: np.ndarray) -> tuple[float, float]:
    """Mean row and column as shares of the picture."""
    rows, columns = np.nonzero(found)
    assert len(rows), "nothing is there"
    return float(rows.mean() / (found.shape[0] - 1)), float(columns.mean() / (found.shape[1] - 1))


def through(image: Volume, number: int) -> dict[str, Cut]:
    """The three planes through the middle of a mask, by the letters at their left and top edge."""
    masks = masks_of(image)
    (starts, stops), cuts = masks.box(number), {}
    for axis, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        found = cut(image, masks, axis, (start + stop) // 2, np.array([0, 1]))
        cuts[found.plane.letters[0] + found.plane.letters[2]] = found
    return cuts


@pytest.mark.parametrize("stored", ["RAS", "LPS", "LPI", "PIR", "SAL", "IPL"])
def test_planes_are_the_right_way_up_however_the_grid_is_stored(stored: str) -> None:
    """Masks may lie on grids of any orientation. GEOMETRY grows to right, anterior and superior along x, y, z."""
    image = orient(scan(), stored)
    cuts = through(image, 0)
    assert set(cuts) == {"RA", "RS", "AS"}, "axial, coronal and sagittal, each once"
    for found in cuts.values():
        assert np.array_equal(found.numbers == 1, found.values == 200) and np.array_equal(found.numbers == 2, found.values == 120)
    # The object lies at low x, low y, high z of RAS: the patient's left, posterior, superior.
    for (row, column), found in zip(((0.9, 0.9), (0.1, 0.9), (0.1, 0.9)), (cuts["RA"], cuts["RS"], cuts["AS"]), strict=True):
        assert centre(found.numbers == 1) == pytest.approx((row, column), abs=0.3)
    x, y, z = SPACING
    assert (cuts["RA"].edges, cuts["RS"].edges, cuts["AS"].edges) == ((y, x), (z, x), (z, y))


def test_an_oblique_grid_keeps_its_tilt() -> None:
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]) @ np.reshape(RAS, (3, 3))
    tilted = Geometry(
        shape_zyx=GEOMETRY.shape_zyx, spacing_xyz=SPACING, origin_xyz=GEOMETRY.origin_xyz, direction=tuple(turn.ravel().tolist())
    )
    image = Volume(scan().array, tilted)
    found = through(image, 1)["RA"]
    assert np.array_equal(found.numbers == 2, found.values == 120) and centre(found.numbers == 2)[1] < 0.3
    assert np.array_equal(found.values, through(scan(), 1)["RA"].values)


def test_the_scan_is_sampled_where_the_masks_lie() -> None:
    """Masks on a coarser grid around a part: the scan's values are those of the same places."""
    grid = Geometry(shape_zyx=(4, 10, 14), spacing_xyz=(3.0, 4.0, 8.0), origin_xyz=(17.0, 8.0, -38.0), direction=RAS)
    coarse = resample(scan(), grid, "nearest")
    found = cut(scan(), masks_of(coarse), 0, 3, np.array([0, 1]))
    assert found.values.shape == (10, 14) and found.edges == (4.0, 3.0)
    assert found.values[found.numbers == 1].min() > 100 > np.median(found.values[found.numbers == 0])


def test_the_last_of_the_order_is_on_top() -> None:
    image, masks = scan(), mask_set([np.ones(GEOMETRY.shape_zyx, bool), scan().array == 200], GEOMETRY)
    assert set(np.unique(cut(image, masks, 0, 6, np.array([0, 1])).numbers)) == {1, 2}
    assert set(np.unique(cut(image, masks, 0, 6, np.array([1, 0])).numbers)) == {1}
    assert set(np.unique(cut(image, masks, 0, 6, np.array([1])).numbers)) == {0, 2}


def colours(page: Image.Image) -> np.ndarray:
    """Pixels that are no grey."""
    pixels = np.asarray(page).astype(int)
    return pixels.max(axis=2) - pixels.min(axis=2) > 60


def test_a_sheet_shows_masks_and_sizes() -> None:
    page = sheet(scan(), masks_of(scan()), "a case")
    assert page.width == 1020 and colours(page).mean() > 0.02
    bare = sheet(scan(), mask_set([], GEOMETRY), "a case")
    assert bare.width == 1020 and not colours(bare).any(), "no masks: the scan alone"
    assert page.height > bare.height > 500


def test_many_masks_are_shown_by_size() -> None:
    few, arrays = masks_of(scan()), []
    for number in range(40):
        array = np.zeros(GEOMETRY.shape_zyx, bool)
        array[2:5, number % 8 : number % 8 + 3, number // 2 : number // 2 + 1 + number % 10] = True
        arrays.append(array)
    assert sheet(scan(), mask_set(arrays, GEOMETRY), "x").height > sheet(scan(), few, "x").height + 200, "two more rows of slices"


def test_slices_are_those_where_2d_masks_began() -> None:
    """Across x, on slices 6 and 24; a mask of a label map has none."""
    masks = masks_of(scan())
    masks.meta["per_mask"] = {"axis": [2, 2], "slice": [6, 24]}
    with_seeds = sheet(scan(), masks, "x")
    masks.meta["per_mask"] = {"axis": [None, None], "slice": [None, None]}
    without = sheet(scan(), masks, "x")
    assert with_seeds.tobytes() != without.tobytes()
    masks.meta["per_mask"] = {}
    assert sheet(scan(), masks, "x").tobytes() == without.tobytes()


def test_a_scan_of_one_slice() -> None:
    flat = Volume(scan().array[6:7], GEOMETRY.cropped(((6, 0, 0), (7, 17, 31))))
    page = sheet(flat, mask_set([flat.array == 200], flat.geometry), "x")
    assert page.width == 1020 and colours(page).any()


def test_the_histogram_counts() -> None:
    """Three sizes: the bars are as high as there are masks of them."""
    bars = np.asarray(draw_histogram([1.0] * 10 + [10.0] * 5 + [100.0], 800)).astype(int)
    blue = bars[:, :, 2] - bars[:, :, 0] > 80
    heights = sorted({int(n) for n in blue.sum(axis=0) if n > 8})
    assert len(heights) == 3 and [h / heights[-1] for h in heights] == pytest.approx([0.1, 0.5, 1], abs=0.03)
    alike = np.asarray(draw_histogram([2.0] * 3, 300)).astype(int)
    assert (alike[:, :, 2] - alike[:, :, 0] > 80).any() and draw_histogram([], 300).height < 50


def test_sheets_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Cannot write"):
        write_png(tmp_path / "missing" / "x.png", sheet(scan(), masks_of(scan()), "x"))
    with pytest.raises(GeometryError, match="does not record the position"):
        sheet(scan(), MaskSet.of([], GEOMETRY.shape_zyx, GEOMETRY.spacing_zyx), "x")
    assert list(tmp_path.iterdir()) == []
    write_png(tmp_path / "x.png", sheet(scan(), masks_of(scan()), "x"))
    with Image.open(tmp_path / "x.png") as page:
        assert page.format == "PNG"
