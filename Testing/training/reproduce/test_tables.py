"""Each table and figure of the paper in miniature, on look-alike data."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from mass_core.cli import masks as masks_command
from mass_core.weights.store import folder as weights_folder
from Testing.benchmarks import inference
from Testing.core.test_from_slices import Seer
from training.reproduce import tables
from training.reproduce.plan import SAM2_WEIGHTS
from training.reproduce.running import execute

from ..balls import write_weights
from .miniature import METHODS, ONE, SMALL, SPLITS, TWO, never, numbers, published, reproduce, table, write_weights_of_anatomix


def test_table_1_in_context(common: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(common, "table1", "--rows", "mass-ic", *ONE) == 0
    assert set(numbers(common, "table1")) == {("MASS-IC", "bcv:1")}
    told = capsys.readouterr().out
    assert "| | BCV 1-shot |" in told and re.search(r"\| MASS-IC \| \d+\.\d / 65\.5\(1\.8\) \|", told)
    assert (common / "runs/table1.md").read_text(encoding="utf-8") in told
    assert reproduce(common, "table1", "--rows", "mass-ic", *ONE, carry_out=never) == 0
    assert reproduce(common, "table9", "--rows", "both", carry_out=never) == 0  # the same runs
    assert numbers(common, "table9")["Both", "bcv:1"] == numbers(common, "table1")["MASS-IC", "bcv:1"]


def test_table_1(place: Path, tuned_here: None) -> None:
    """All methods with one labelled scan; the pretrained network in context and finetuned with five and ten as well."""
    assert reproduce(place, "table1", *ONE) == 0
    assert set(numbers(place, "table1")) == {(row, "bcv:1") for row in METHODS}
    assert reproduce(place, "table1", "--rows", "MASS-IC", "MASS-FT", "--datasets", "bcv", "--shots", "5", "10") == 0
    assert set(numbers(place, "table1")) == {(row, f"bcv:{shots}") for row in ("MASS-IC", "MASS-FT") for shots in (5, 10)}


@pytest.mark.slow
def test_table_1_in_processes_of_its_own(place: Path) -> None:
    assert reproduce(place, "table1", *ONE, carry_out=execute) == 0
    assert {row for row, _ in numbers(place, "table1")} == set(METHODS)
    assert reproduce(place, "table1", "--rows", "Full supervision", "--datasets", "bcv") == 0
    assert set(numbers(place, "table1")) == {("Full supervision", "bcv:all")}


def test_table_2_in_context_and_of_data_the_paper_does_not_have(common: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (common / "data/mine").symlink_to(common / "data/acdc")
    words = ("--rows", "MASS (IC)", "OM-MAE", "--datasets", "bcv", "mine", "--shots", "1", "all", *TWO)
    assert reproduce(common, "table2", *words) == 3
    assert set(numbers(common, "table2")) == {("MASS (IC)", column) for column in ("bcv:1", "mine:1", "mine:all")}
    record = json.loads((common / "runs/evaluate/mine/mass_upstream_in-context/all-shot/draw0/summary.json").read_text())
    assert record["means"][0]["shots"] == len(SPLITS["train"])
    told = capsys.readouterr().err
    assert "ResEncL-OpenMind-MAE" in told and "CC BY 4.0" in told
    assert reproduce(common, "table6", *words, carry_out=never) == 3
    assert numbers(common, "table6") == numbers(common, "table2")


def test_table_2_finetuned_and_beside_iris(common: Path, tuned_here: None) -> None:
    assert reproduce(common, "table2", "--rows", "MASS (FT)", "Iris (IC)", *ONE, *TWO) == 0
    assert set(numbers(common, "table2")) == {("MASS (FT)", "bcv:1"), ("Iris (IC)", "bcv:1")}


@pytest.mark.slow
def test_tables_2_and_6_with_published_weights_and_without(place: Path) -> None:
    write_weights_of_anatomix()
    pretrain = SMALL["pretrain"].replace("position_size=16", "position_size=32")
    small = {**SMALL, "pretrain": pretrain, "evaluate": f"{SMALL['evaluate']} window=32 --window 32 32 32"}
    words = ("--rows", "MASS (IC)", "MASS (FT)", "Iris (IC)", "AnatoMix", "OM-MAE", *ONE, "--upstream", "bcv", "amos_mr")
    assert reproduce(place, "table2", *words, small=small) == 3
    assert {row for row, _ in numbers(place, "table2")} == {"MASS (IC)", "MASS (FT)", "Iris (IC)", "AnatoMix"}
    assert reproduce(place, "table6", *words, small=small, carry_out=never) == 3
    assert numbers(place, "table6") == numbers(place, "table2")


def test_table_3(place: Path) -> None:
    write_weights_of_anatomix()
    words = ("table3", "--rows", "Scratch", "AnatoMix", "Merlin", "--datasets", "rsna_ich", "--shots", "5")
    assert reproduce(place, *words) == 3
    found = numbers(place, "table3")
    assert set(found) == {("Scratch", "rsna_ich:5"), ("AnatoMix", "rsna_ich:5")} and all(0 <= auc <= 100 for auc in found.values())
    assert table(place, "table3")["Merlin", "rsna_ich:5"]["paper"] == "57.3"


def test_table_4a(common: Path) -> None:
    assert reproduce(common, "table4a", "--rows", "BCV") == 0
    found = numbers(common, "table4a")
    assert found["BCV", "best"] == 100.0 and {column for _, column in found} == {"best", "mean", "above_40", "dice"}


def test_table_4b(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published(place, 4)
    small = {**SMALL, "masks": "--body-crop none --max-masks 10"}
    assert reproduce(place, "table4b", "--datasets", "bcv", "--rows", "TotalSegmentator", "SAM2", "SLIC", small=small) == 3
    assert set(numbers(place, "table4b")) == {("SLIC", "bcv:1")}
    told = capsys.readouterr().err
    assert "github.com/wasserth/TotalSegmentator" in told and "mass weights download sam2.1_hiera_large" in told


def test_table_4c(place: Path) -> None:
    small = {**SMALL, "pretrain": SMALL["pretrain"].replace("channels=8,32", "channels=8,32,32")}
    assert reproduce(place, "table4c", *TWO, small=small) == 0
    assert len(numbers(place, "table4c")) == 4


@pytest.mark.parametrize("rows", [["Three-channel windows"], pytest.param([*tables.CHANNELS], marks=pytest.mark.slow)])
def test_table_5_and_figures_3_and_4(rows: Sequence[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network that knows the answers in place of SAM2's."""
    published(place, 4)
    weights_folder().mkdir(parents=True, exist_ok=True)
    (weights_folder() / f"{SAM2_WEIGHTS}.pt").touch()
    monkeypatch.setattr(masks_command, "_loaded", lambda arguments, config: Seer())
    fine = "--points-per-side 16 --crop-layers 0 --min-voxels 10 --min-pixels 4 --interval 8 --body-crop none"
    assert reproduce(place, "table5", "--rows", *rows, small={**SMALL, "masks": fine}) == 0
    assert {row for row, _ in numbers(place, "table5")} == set(rows)
    assert reproduce(place, "fig3", "fig4", "--rows", "Abdomen CT", small={**SMALL, "masks": fine}, carry_out=never) == 0
    for name in ("fig3", "fig4"):
        picture = place / "runs" / table(place, name)["Abdomen CT", "picture"]["ours"]
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_table_7(place: Path) -> None:
    assert reproduce(place, "table7", "--upstream", "bcv", "amos_mr") == 0
    assert {key: row["ours"] for key, row in table(place, "table7").items() if row["ours"]} == {
        ("MASS", "samples"): "24",
        ("MASS", "modalities"): "MR",
    }


def test_table_8(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of a small network on this processor, run as the table's is, in this process."""
    pytest.importorskip("resource")  # not on Windows
    monkeypatch.setattr(inference, "VARIANTS", ("channels-last",))
    monkeypatch.setattr(inference, "in_process", lambda **task: inference.measure(**task, channels=(8, 16, 32, 32, 32)))
    assert reproduce(place, "table8", small={"speed": "--size 32 --repeats 1"}) == 0
    found = numbers(place, "table8")
    assert len(found) == 9 and min(found.values()) > 0
    assert [round(value, 2) for (row, _), value in found.items() if row.endswith(", M")] == [37.66, 46.00, 36.47, 120.13]


def test_table_9(common: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(common, "table9", "--rows", "Large") == 0
    assert len(numbers(common, "table9")) == 1
    settings = json.loads((common / "runs/pretrain/mass_bcv_large/config.json").read_text())
    assert settings["appearance"]["gamma"] == [0.6, 1.6] and settings["episodes"]["rotation_degrees"] == 60
    assert reproduce(common, "table9", "--rows", "Spatial only", "Appearance only", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "--set validate_every=0 appearance.probability=0 " in told and "--set validate_every=0 episodes.affine_probability=0 " in told


def test_figure_2(common: Path) -> None:
    for name in ("kits", "lits"):
        (common / "data" / name).symlink_to(common / "data/bcv")
    assert reproduce(common, "fig2", "--rows", "BCV", "+ KiTS", "+ LiTS", "+ BraTS") == 3
    found = numbers(common, "fig2")
    assert set(found) == {(row, column) for row in ("BCV", "+ KiTS", "+ LiTS") for column in ("segmentation", "classification")}
    assert table(common, "fig2")["+ BraTS", "segmentation"]["paper"] == "73.9"


def test_figures_6_and_7(place: Path) -> None:
    words = ("--weights", str(write_weights(place / "w.safetensors")))
    assert reproduce(place, "fig6", *words, "--rows", "BCV") == 0
    assert reproduce(place, "fig7", *words, "--rows", "Abdomen CT") == 0
    for name, row in (("fig6", "BCV"), ("fig7", "Abdomen CT")):
        picture = place / "runs" / table(place, name)[row, "picture"]["ours"]
        assert picture.read_bytes().startswith(b"\x89PNG")
