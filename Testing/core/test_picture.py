"""The picture: what lies where, seen by its pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mass_core.errors import OutputError
from mass_core.pictures.label_map import render
from mass_core.pictures.panels import write_png
from mass_core.volumes.volume import Geometry, Volume

YELLOW, BLUE = (1.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def box_phantom(spacing_xyz: tuple[float, float, float] = (2.0, 2.0, 4.0), value: float = 40.0) -> tuple[Volume, Volume]:
    """A head of 160 mm filled with one value; label 1 in its right anterior superior part, label 2 in the left posterior inferior one."""
    shape = tuple(round(160 / s) for s in spacing_xyz[::-1])
    # Index x grows to the patient's left (LPS), y to posterior, z to superior.
    z, y, x = np.meshgrid(*[(np.arange(n) + 0.5) / n for n in shape], indexing="ij")
    labels = np.zeros(shape, np.uint8)
    labels[(x < 0.45) & (x > 0.15) & (y < 0.45) & (y > 0.15) & (z > 0.4) & (z < 0.85)] = 1
    labels[(x > 0.55) & (x < 0.85) & (y > 0.55) & (y < 0.85) & (z > 0.15) & (z < 0.6)] = 2
    geometry = Geometry(shape_zyx=shape, spacing_xyz=spacing_xyz)
    return Volume(np.full(shape, value, np.float32), geometry), Volume(labels, geometry)


def panels(page: Image.Image) -> list[np.ndarray]:
    """The three planes of a page of a cube: equal squares from left to right."""
    pixels = np.asarray(page)
    return [pixels[10:490, left : left + 480] for left in (10, 500, 990)]


def place_of(pixels: np.ndarray, color: tuple[float, float, float]) -> tuple[float, float]:
    """Mean row and column, as shares of the panel, of the pixels of a colour."""
    near = np.abs(pixels.astype(float) - 255 * np.array(color)).max(axis=2) < 80
    assert near.sum() > 50, "no contour of this colour"
    rows, columns = np.nonzero(near)
    return rows.mean() / pixels.shape[0], columns.mean() / pixels.shape[1]


def test_right_is_left_and_head_is_up() -> None:
    image, labels = box_phantom()
    axial = panels(render(image, labels, colors={1: YELLOW, 2: BLUE}))[0]
    assert place_of(axial, YELLOW) == pytest.approx((0.3, 0.3), abs=0.02), "anterior on top, right on the left"
    assert place_of(axial, BLUE) == pytest.approx((0.7, 0.7), abs=0.02)
    one = Volume((labels.array == 1).astype(np.uint8), labels.geometry)
    _, coronal, sagittal = panels(render(image, one, colors={1: YELLOW}))
    assert place_of(coronal, YELLOW) == pytest.approx((1 - 0.625, 0.3), abs=0.03), "superior on top, right on the left"
    assert place_of(sagittal, YELLOW) == pytest.approx((1 - 0.625, 0.3), abs=0.03), "superior on top, anterior on the left"


def test_planes_have_physical_proportions() -> None:
    image, labels = box_phantom((1.0, 2.0, 8.0))
    assert [panel.shape for panel in panels(render(image, labels))] == [(480, 480, 3)] * 3


@pytest.mark.parametrize("value", [-200.0, 0.0, 240.0])
def test_contour_stands_out_on_dark_and_light_scans(value: float) -> None:
    """Along a row through the label's middle the colour is brighter, and its rim darker, than a scan that is neither."""
    image, labels = box_phantom(value=value)
    axial = panels(render(image, labels, colors={1: YELLOW}, modality="ct"))[0].astype(float)
    row = axial[round(0.3 * 480), :216]
    ground = row[20, 0]
    line = np.flatnonzero((row[:, 0] > 200) & (row[:, 2] < 60))
    assert 2 <= len(line) <= 12, "two thin lines"
    around = row[line[0] - 4 : line[0] + 5, 0]
    assert around.max() - around.min() > 100
    if ground > 100:
        assert around.min() < 0.6 * ground, "the rim is dark"


def test_small_structure_is_enlarged() -> None:
    image, labels = box_phantom((1.0, 1.0, 1.0))
    small = np.zeros_like(labels.array)
    small[70:80, 70:80, 70:80] = 1
    axial = panels(render(image, Volume(small, labels.geometry), colors={1: YELLOW}))[0]
    near = np.abs(axial.astype(float) - 255 * np.array(YELLOW)).max(axis=2) < 80
    columns = np.flatnonzero(near.any(axis=0))
    assert columns[-1] - columns[0] == pytest.approx(480 * 10 / 100, abs=8), "100 mm are shown"


def test_bone_window_for_bone() -> None:
    image, labels = box_phantom(value=600.0)
    grey = panels(render(image, labels, modality="ct"))[0][20, 240, 0]
    assert 60 < grey < 230, "600 HU would be white in the soft tissue window"


def test_nothing_found_is_drawn_too(tmp_path: Path) -> None:
    image, labels = box_phantom()
    write_png(tmp_path / "x.png", render(image, Volume(np.zeros_like(labels.array), labels.geometry)))
    with Image.open(tmp_path / "x.png") as page:
        assert page.size[1] > 480


def test_many_labels_and_an_oblique_grid() -> None:
    image, labels = box_phantom((5.0, 5.0, 5.0))
    many = (np.arange(labels.array.size).reshape(labels.array.shape) // 50 % 40).astype(np.uint16)
    turn = np.array([[0.0, 0.6, -0.8], [1.0, 0.0, 0.0], [0.0, -0.8, -0.6]])
    geometry = Geometry(shape_zyx=image.geometry.shape_zyx, spacing_xyz=(5.0, 5.0, 5.0), direction=tuple(turn.reshape(-1)))
    page = render(Volume(image.array, geometry), Volume(many, geometry), names={1: "a name " * 8})
    assert page.size[0] == 3 * 480 + 4 * 10


def test_unwritable_place(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Cannot write"):
        write_png(tmp_path / "missing" / "x.png", render(*box_phantom()))
    assert list(tmp_path.iterdir()) == []
