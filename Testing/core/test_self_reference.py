"""A scan as its own reference: the turned copy lies where it must, and the command's table says how well it is found again."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mass_core.cli import main
from mass_core.data import phantoms
from mass_core.evaluation.self_reference import augmented_copy, brightened, turned
from mass_core.volumes.volume import Geometry, Volume


def places(geometry: Geometry) -> np.ndarray:
    """Position of every voxel, LPS mm [z,y,x,3]."""
    z, y, x = np.indices(geometry.shape_zyx)
    return np.stack([x, y, z, np.ones_like(x)], axis=-1) @ geometry.affine[:3].T


@pytest.fixture(params=["plain", "left-handed and oblique"])
def ball(request: pytest.FixtureRequest) -> tuple[Volume, np.ndarray, np.ndarray]:
    """A ball of 8 mm radius on an anisotropic grid, its centre, and the middle of the grid."""
    direction = np.eye(3)
    if request.param != "plain":
        direction = Rotation.from_euler("xyz", (20, -10, 35), degrees=True).as_matrix() @ np.diag([1, -1, 1])
    geometry = Geometry(
        shape_zyx=(30, 44, 40), spacing_xyz=(1.5, 1.5, 2.0), origin_xyz=(10.0, -20.0, 5.0), direction=tuple(direction.ravel().tolist())
    )
    middle = geometry.corners_mm().mean(axis=0)
    centre = middle + direction @ [9.0, -12.0, 8.0]
    inside = np.linalg.norm(places(geometry) - centre, axis=-1) < 8
    return Volume(inside.astype(np.uint8), geometry), centre, middle


def test_a_turned_copy_shows_the_ball_where_it_was_turned_to(ball: tuple[Volume, np.ndarray, np.ndarray]) -> None:
    labels, centre, middle = ball
    rotation, shift = Rotation.from_euler("xyz", (25, 0, 60), degrees=True).as_matrix(), np.array([2.0, 1.0, -3.0])
    copy = turned(labels, rotation, shift, "nearest")
    assert copy.geometry == labels.geometry and copy.array.dtype == np.uint8
    expected = middle + rotation.T @ (centre - middle - shift)
    assert np.linalg.norm(places(copy.geometry)[copy.array > 0].mean(axis=0) - expected) < 0.3
    assert copy.array.sum() == pytest.approx(labels.array.sum(), rel=0.05)
    back = turned(copy, rotation.T, -rotation.T @ shift, "nearest")
    both = np.count_nonzero(back.array & labels.array)
    assert 2 * both / (back.array.sum() + labels.array.sum()) > 0.9, "and back"


def test_no_turn_changes_nothing(ball: tuple[Volume, np.ndarray, np.ndarray]) -> None:
    labels, _, _ = ball
    np.testing.assert_array_equal(turned(labels, np.eye(3), np.zeros(3), "nearest").array, labels.array)


def test_beyond_the_border_an_image_goes_on_and_labels_end() -> None:
    geometry = Geometry(shape_zyx=(8, 8, 8))
    full = Volume(np.full((8, 8, 8), 7, np.uint8), geometry)
    moved = np.array([4.0, 0, 0])
    assert (turned(full, np.eye(3), moved, "linear").array == 7).all()
    labels = turned(full, np.eye(3), moved, "nearest").array
    assert (labels[..., :4] == 7).all() and (labels[..., 4:] == 0).all()


def test_contrast_changes_between_the_extremes_only() -> None:
    image = Volume(np.linspace(-3, 5, 27, dtype=np.float32).reshape(3, 3, 3), Geometry(shape_zyx=(3, 3, 3)))
    other = brightened(image, 1.5).array
    assert (other.min(), other.max()) == (-3, 5) and (other.ravel()[1:-1] < image.array.ravel()[1:-1]).all()
    assert other[1, 1, 1] == pytest.approx(-3 + 8 * 0.5**1.5)
    assert np.isfinite(brightened(Volume(np.full((3, 3, 3), 2.0, np.float32), image.geometry), 1.5).array).all()


def test_image_and_labels_are_seen_the_same_way() -> None:
    image, labels = phantoms.subject(0, "ct", shape_zyx=(24, 30, 34), spacing_zyx=(12.0, 10.0, 10.0))
    marked = Volume((image.array > -300).astype(np.uint8), image.geometry)
    shown, mask = augmented_copy(replace(marked, array=marked.array * np.float32(1000)), marked, np.random.default_rng(3))
    bright = shown.array > 500
    assert 2 * np.count_nonzero(bright & (mask.array > 0)) / (bright.sum() + mask.array.sum()) > 0.95
    one = augmented_copy(image, labels, np.random.default_rng(3))
    np.testing.assert_array_equal(one[0].array, augmented_copy(image, labels, np.random.default_rng(3))[0].array)
    assert not np.array_equal(one[0].array, augmented_copy(image, labels, np.random.default_rng(4))[0].array)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people with seven organs; one lacks label 2."""
    folder = tmp_path_factory.mktemp("self")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for seed in (0, 1):
        image, labels = phantoms.subject(seed, "ct", shape_zyx=(38, 48, 56), spacing_zyx=(8.0, 6.4, 6.4))
        if seed:
            labels = Volume(np.where(labels.array == 2, 0, labels.array), labels.geometry)
        image.write(folder / f"images/p{seed}.nii.gz")
        labels.write(folder / f"labels/p{seed}.nii.gz")
    (folder / "split.json").write_text(json.dumps({"train": [], "val": [], "test": ["p0", "p1"]}))
    assert main([
        "prepare", str(folder / "images"), "--labels", str(folder / "labels"), "--split", str(folder / "split.json"),
        "--spacing", "native", "--modality", "ct", "--output", str(folder / "dataset"),
    ]) == 0  # fmt: skip
    return folder / "dataset"


@pytest.mark.slow
def test_the_command_tells_how_well_each_structure_is_found_again(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: list[Any] = ["--weights", "small", "--device", "cpu", "--dataset", dataset, "--labels", 1, 2, "--repeats", 2]
    command = ["--json", "evaluate", "--self-reference", *map(str, options), "--output", str(tmp_path / "new")]
    capsys.readouterr()
    assert main(command) == 0
    result = next(line for text in capsys.readouterr().out.splitlines() if (line := json.loads(text))["event"] == "result")
    assert [(row["method"], row["label"], row["scans"]) for row in result["rows"]] == [("self-reference", 1, 2), ("self-reference", 2, 1)]
    with open(tmp_path / "new/self_reference.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["case"], line["label"], line["draw"]) for line in lines] == [
        *(("p0", "1", "0"), ("p0", "2", "0"), ("p0", "1", "1"), ("p0", "2", "1"), ("p1", "1", "0"), ("p1", "1", "1")),
    ]
    scores = [float(line["dice"]) for line in lines if line["label"] == "1"]
    assert result["rows"][0]["dice"] == pytest.approx(np.mean(scores)) and np.mean(scores) > 0.5, "it knows the liver again"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["self_reference.csv"]
    assert main(command) == 2, "no result is replaced unasked"
