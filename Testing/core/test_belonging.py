"""Label maps and their images: lost headers and other positions are reported or refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mass_core.cli import main
from mass_core.config import Recipe
from mass_core.data import phantoms
from mass_core.data.make_case import make_case
from mass_core.encoding.reference_crops import prepare_reference
from mass_core.errors import GeometryError
from mass_core.volumes.label_maps import check_belongs, on_grid
from mass_core.volumes.resample import orient
from mass_core.volumes.volume import Geometry, Volume

TILTED = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
GRID = Geometry(shape_zyx=(12, 16, 20), spacing_xyz=(0.8, 0.9, 2.5), origin_xyz=(-30.0, 40.0, 100.0), direction=TILTED)


def block() -> np.ndarray:
    array = np.zeros(GRID.shape_zyx, np.uint8)
    array[3:8, 4:12, 5:15] = 1
    return array


LOST = {
    "identity": Geometry(shape_zyx=GRID.shape_zyx),
    "spacing": replace(GRID, spacing_xyz=(1.0, 1.0, 1.0)),
    "origin": replace(GRID, origin_xyz=(0.0, 0.0, 0.0)),
    "direction": replace(GRID, direction=Geometry(shape_zyx=(1, 1, 1)).direction),
    "moved": replace(GRID, origin_xyz=(-28.0, 40.0, 100.0)),
    "turned": Geometry(shape_zyx=(20, 16, 12)),
}


@pytest.mark.parametrize("grid", LOST.values(), ids=LOST)
def test_a_mask_of_the_same_shape_elsewhere_is_refused(grid: Geometry) -> None:
    array = block() if grid.shape_zyx == GRID.shape_zyx else block().transpose(2, 1, 0)
    with pytest.raises(GeometryError, match="Its header was lost") as caught:
        check_belongs(GRID, Volume(array, grid))
    assert GRID.describe() in caught.value.message and grid.describe() in caught.value.message
    assert "--same-grid" in caught.value.cure


def test_the_same_voxels_in_another_order_belong() -> None:
    mask = Volume(block(), GRID)
    for orientation in ("RAS", "LPI", "SAR", "PIL"):
        notes = check_belongs(GRID, orient(mask, orientation))
        assert all("grid" in note or "position" in note for note in notes)


def test_less_than_half_a_voxel_is_resampled() -> None:
    near = replace(GRID, origin_xyz=(-29.7, 40.0, 100.0))
    assert check_belongs(GRID, Volume(block(), near)) == ("The mask has another grid than its image and was resampled by position.",)


@pytest.mark.parametrize(("first", "share"), [(1.0, None), (-6.0, "40%"), (-9.0, "10%")])
def test_less_than_half_on_the_image_is_told(first: float, share: str | None) -> None:
    """Ten labelled voxels along x, of which some lie before the first of the image."""
    array = np.zeros((8, 8, 10), np.uint8)
    array[2:4, 2:4] = 1
    grid = Geometry(shape_zyx=(8, 8, 10), origin_xyz=(first, 0.0, 0.0))
    notes = check_belongs(Geometry(shape_zyx=(9, 9, 11)), Volume(array, grid))
    assert [note for note in notes if "Only" in note] == (
        [f"Only {share} of the mask lies on its image; the rest is ignored."] if share else []
    )


def test_nothing_on_the_image_is_refused() -> None:
    array = np.zeros((8, 8, 10), np.uint8)
    array[2:4, 2:4, :2] = 1
    grid = Geometry(shape_zyx=(8, 8, 10), origin_xyz=(-5.0, 0.0, 0.0))
    with pytest.raises(GeometryError, match="does not lie on its image"):
        check_belongs(Geometry(shape_zyx=(9, 9, 11)), Volume(array, grid))


def test_said_to_belong_it_is_put_on_the_image() -> None:
    image = Volume(block().astype(np.int16), GRID)
    assert Volume(block(), LOST["identity"]).on_grid_of(image).geometry == GRID
    with pytest.raises(GeometryError, match="voxel for voxel"):
        Volume(block()[1:], Geometry(shape_zyx=(11, 16, 20))).on_grid_of(image)


# --- wherever label maps are read


def test_references_training_cases_and_results_are_checked_alike(tmp_path: Path) -> None:
    image, lost = Volume(np.arange(3840, dtype=np.int16).reshape(GRID.shape_zyx), GRID), Volume(block(), LOST["identity"])
    recipe = Recipe(window_zyx=(32, 32, 32), spacing_zyx=(2.0, 2.0, 2.0), modality="mr")
    with pytest.raises(GeometryError, match="header was lost"):
        prepare_reference(image, lost, [1], recipe, (2.0, 2.0, 2.0))
    with pytest.raises(GeometryError, match="header was lost"):
        make_case(tmp_path, "a", image, recipe, patient="a", settings="", labels=(lost, Path("a.nii")))
    with pytest.raises(GeometryError, match="header was lost"):
        on_grid(lost, GRID)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A phantom, its label map, and the label map with its header lost."""
    image, labels = phantoms.subject(0, shape_zyx=(24, 30, 34), spacing_zyx=(12.0, 10.0, 10.0))
    for name in ("images", "whole", "lost"):
        (tmp_path / name).mkdir()
    image.write(tmp_path / "images" / "p.nii.gz")
    labels.write(tmp_path / "whole" / "p.nii.gz")
    Volume(labels.array, Geometry(shape_zyx=labels.array.shape)).write(tmp_path / "lost" / "p.nii.gz")
    return tmp_path


def mass(*words: object) -> int:
    return main([str(word) for word in words])


def prepared(folder: Path, labels: str, *more: object) -> int:
    given = ["--output", folder / f"set_{labels}{len(more)}", "--spacing", 12, 12, 12, "--modality", "ct"]
    return mass("prepare", folder / "images", "--labels", folder / labels, *given, *more)


def test_prepare_refuses_a_lost_header_and_takes_the_users_word(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepared(folders, "lost") == 2
    assert "header was lost" in capsys.readouterr().err
    assert prepared(folders, "lost", "--same-grid") == 0 and prepared(folders, "whole") == 0
    made, known = (np.load(next((folders / f"set_{name}").rglob("labels.npy"))) for name in ("lost1", "whole0"))
    assert np.array_equal(made, known) and made.any()


def test_masks_of_labels_refuse_a_lost_header_and_take_the_users_word(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mass_core.masks.mask_set import MaskSet

    def made(labels: str, *more: object) -> int:
        out = folders / f"masks_{labels}"
        return mass("masks", folders / "images", "--method", "labels", "--labels", folders / labels, "--output", out, *more)

    assert made("lost") == 2
    assert "header was lost" in capsys.readouterr().err
    assert made("lost", "--same-grid") == 0 and made("whole") == 0
    ours, known = (MaskSet.read(folders / f"masks_{name}" / "p.masks") for name in ("lost", "whole"))
    assert len(ours) == len(known) > 0
    assert all(a[0] == b[0] and np.array_equal(a[1], b[1]) for a, b in zip(ours, known, strict=True))


def test_segment_refuses_a_lost_header_and_takes_the_users_word(
    folders: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = folders / "images" / "p.nii.gz"

    def segmented(labels: str, *more: object) -> int:
        words = ["--reference", image, folders / labels / "p.nii.gz", "--labels", 1, "--target", image, "--device", "cpu", *more]
        run = ["segment", "--weights", tiny_weights, "--spacing", 10, 10, 10, "--modality", "ct"]
        return mass(*run, "--output", folders / f"{labels}.nii.gz", *words)

    assert segmented("lost") == 2
    assert "header was lost" in capsys.readouterr().err
    assert segmented("lost", "--same-grid") == 0 and segmented("whole") == 0
    assert np.array_equal(Volume.read(folders / "lost.nii.gz").array, Volume.read(folders / "whole.nii.gz").array)


def test_assess_refuses_a_lost_header(folders: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = folders / "images" / "p.nii.gz"
    given = ["--reference", image, folders / "whole" / "p.nii.gz", "--labels", 1, "--target", image, "--device", "cpu", "--modality", "ct"]
    assert mass("assess", "--weights", tiny_weights, *given, "--result", folders / "lost" / "p.nii.gz") == 2
    assert "header was lost" in capsys.readouterr().err
