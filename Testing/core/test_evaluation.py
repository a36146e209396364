"""mass evaluate: measures with known answers, and the whole way from scans to tables."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("monai", reason="MONAI is not installed: pip install '.[train]'")

from mass_core.checkpoint import load_model
from mass_core.cli import main
from mass_core.dataset import Dataset
from mass_core.errors import InputError
from mass_core.evaluation import Row, Score, draw_references, evaluate, markdown, scan, segmenter_for, table
from mass_core.metrics import surface_distances
from mass_core.phantoms import subject
from mass_core.segmenter import Segmenter
from mass_core.task import Task
from mass_core.volume import Volume

LIVER, SPLEEN = 1, 2


def mass(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset of phantoms with two structures, of which one patient to be judged lacks the second."""
    made = tmp_path_factory.mktemp("phantoms")
    for part in ("images", "labels"):
        (made / part).mkdir()
    for seed in range(6):
        image, labels = subject(seed, "ct", shape_zyx=(38, 48, 56), spacing_zyx=(8.0, 6.4, 6.4))
        kept = np.where(np.isin(labels.array, [LIVER] if seed == 5 else [LIVER, SPLEEN]), labels.array, 0).astype(np.uint8)
        image.write(made / "images" / f"p{seed}.nii.gz")
        Volume(kept, labels.geometry).write(made / "labels" / f"p{seed}.nii.gz")
    split = {"train": ["p0", "p1", "p2"], "val": ["p3"], "test": ["p4", "p5"], "labels": {LIVER: "liver", SPLEEN: "spleen"}}
    (made / "split.json").write_text(json.dumps(split))
    arguments = ("--labels", made / "labels", "--split", made / "split.json", "--spacing", "native", "--modality", "ct")
    assert mass("prepare", made / "images", *arguments, "--ct-clip", -500, 500, "--output", made / "dataset") == 0
    return made / "dataset"


def test_every_case_of_a_mixed_dataset_has_its_own_modality(folder: Path, tiny_weights: Path) -> None:
    """Nothing is guessed, though normalised intensities look like no CT; what was clipped as MR once would be clipped as CT else."""
    dataset = Dataset.read(folder)
    mixed = replace(dataset, cases=tuple(replace(case, modality="mr" if case.name > "p2" else "ct") for case in dataset.cases))
    plain = Segmenter(load_model(tiny_weights, "cpu"))
    for these, expected in ((dataset, {"p0": "ct", "p5": "ct"}), (mixed, {"p0": "ct", "p5": "mr"})):
        segmenter = segmenter_for(plain, these)
        found = {name: segmenter.prepared(scan(these, name)[0], name, (8.0, 8.0, 8.0)).record for name in expected}
        assert {name: record.modality for name, record in found.items()} == expected
        assert not any(record.warnings for record in found.values())
        assert segmenter.encode([scan(these, "p0")], [LIVER]).modality == "ct"


def test_distances_of_shifted_blocks() -> None:
    """A block and the same block three voxels of 2 mm further: faces across lie 6 mm apart, those along coincide but for their ends."""
    a, b = np.zeros((2, 12, 12, 20), bool)
    a[3:9, 3:9, 3:9] = True
    b[3:9, 3:9, 6:12] = True
    average, hausdorff = surface_distances(a, b, (1.0, 1.0, 2.0))
    assert hausdorff == pytest.approx(6.0)
    assert 0 < average < 6
    assert surface_distances(a, a, (1.0, 1.0, 2.0)) == (0.0, 0.0)
    # Two plates one voxel thick: every distance is the one between them.
    plates = np.zeros((2, 9, 10, 10), bool)
    plates[0, 2], plates[1, 6] = True, True
    assert surface_distances(plates[0], plates[1], (2.5, 1.0, 1.0)) == pytest.approx((10.0, 10.0))


def test_without_monai_the_cure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.metrics", None)
    with pytest.raises(InputError, match="need monai") as caught:
        surface_distances(np.ones((2, 2, 2)), np.ones((2, 2, 2)), (1, 1, 1))
    assert "mass-core[train]" in caught.value.cure


def score(draw: int, case: str, dice: float | None, found_ml: float = 2.0, asd_mm: float | None = 1.0) -> Score:
    return Score(shots=1, draw=draw, case=case, label=7, truth_ml=0.0 if dice is None else 1.0, found_ml=found_ml, dice=dice, asd_mm=asd_mm)


def test_a_table_averages_over_scans_then_draws() -> None:
    scores = [
        *(score(0, "a", 0.8), score(0, "b", 0.4), score(0, "c", None, 3.0, None)),
        *(score(1, "a", 0.9, asd_mm=3.0), score(1, "b", 0.0, 0.0, None), score(1, "c", None, 0.0, None)),
    ]
    (row,) = table(scores, {7: "kidney"})
    assert row == Row(
        shots=1,
        label=7,
        name="kidney",
        scans=2,
        dice=pytest.approx((0.6 + 0.45) / 2),
        dice_sd=pytest.approx(np.std([0.6, 0.45], ddof=1)),
        asd_mm=pytest.approx((1.0 + 3.0) / 2),
        hd95_mm=None,
        missed=0.25,
        false_ml=1.5,
    )
    assert "| 1 | kidney | 2 | 0.525 (0.106) | 2.00 |  | 25% | 1.50 |" in markdown([row])


def test_references_of_draws_show_the_structure_and_differ(folder: Path) -> None:
    dataset = Dataset.read(folder)
    draws = draw_references(dataset, LIVER, 1, 3, seed=0)
    assert sorted(name for (name,) in draws) == ["p0", "p1", "p2"], "none twice while others are left"
    assert draws == draw_references(dataset, LIVER, 1, 3, seed=0)
    assert all(len(set(names)) == 3 for names in draw_references(dataset, LIVER, 3, 2, seed=0))
    with pytest.raises(InputError, match="3 training scans .* show label 1, 4 are asked for"):
        draw_references(dataset, LIVER, 4, 1, seed=0)
    with pytest.raises(InputError, match="0 training scans"):
        draw_references(dataset, 9, 1, 1, seed=0)


def test_the_truth_scores_one_and_what_is_absent_is_told_apart(folder: Path) -> None:
    class Knowing:
        """Finds what is there, and a little spleen where none is."""

        def segment(self, image: Volume, task: Task):
            name = next(n for n in ("p4", "p5") if np.array_equal(dataset.image(n).astype(np.float32), image.array))
            found = np.array(dataset.labels(name))
            if name == "p5":
                found[0, 0, :4] = SPLEEN

            class Found:
                labels = Volume(found, image.geometry)

            return Found()

    class Asking:
        labels = [type("Label", (), {"value": value}) for value in (LIVER, SPLEEN)]

    dataset = Dataset.read(folder)
    scores = [one for some in evaluate(dataset, Knowing(), ["p4", "p5"], {1: [Asking()]}) for one in some]  # type: ignore[arg-type, list-item]
    rows = {row.name: row for row in table(scores, dataset.label_names)}
    assert rows["liver"].scans == 2 and (rows["liver"].dice, rows["liver"].hd95_mm, rows["liver"].missed) == (1.0, 0.0, 0.0)
    assert rows["spleen"].scans == 1 and rows["spleen"].dice == 1.0
    spacing = dataset.spacing_zyx("p5")
    assert rows["spleen"].false_ml == pytest.approx(4 * np.prod(spacing) / 1000)


def test_the_whole_way(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "tables"
    arguments = ("evaluate", "--dataset", folder, "--shots", 2, 1, "--repeats", 2, "--device", "cpu", "--pictures", 2, "--output", output)
    assert mass(*arguments, "--json") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    summary = json.loads((output / "summary.json").read_text())
    assert told[-1]["rows"] == summary["rows"]
    rows = {(row["shots"], row["name"]): row for row in summary["rows"]}
    assert set(rows) == {(1, "liver"), (1, "spleen"), (2, "liver"), (2, "spleen")}
    assert rows[1, "liver"]["dice"] > 0.4, "the bundled weights find it"
    assert rows[1, "liver"]["scans"] == 2 and rows[1, "spleen"]["scans"] == 1 and rows[1, "spleen"]["false_ml"] is not None
    with (output / "scores.csv").open(newline="") as file:
        scores = list(csv.DictReader(file))
    assert len(scores) == 2 * 2 * 2 * 2
    assert all(s["dice"] == "" for s in scores if s["case"] == "p5" and s["label"] == str(SPLEEN))
    pictures = sorted(path.name for path in output.glob("worst*.png"))
    assert len(pictures) == 2 and pictures[0].startswith("worst1_p")
    assert mass(*arguments) == 2
    assert "exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--shots", 0), "at least 1"),
        (("--labels", 9), "show label 9"),
        (("--split", "val", "--shots", 5), "5 are asked for"),
        (("--weights", "nowhere"), "nowhere"),
    ],
)
def test_what_cannot_work_is_told_and_leaves_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, more, told: str) -> None:
    assert mass("evaluate", "--dataset", folder, "--output", tmp_path / "out", *more) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dataset_without_names_of_labels_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert mass("evaluate", "--dataset", tmp_path / "none", "--output", tmp_path / "out") == 2
    text = (folder / "dataset.json").read_text()
    try:
        (folder / "dataset.json").write_text(json.dumps({**json.loads(text), "labels": {}}))
        assert mass("evaluate", "--dataset", folder, "--output", tmp_path / "out") == 2
        assert "names no labels" in capsys.readouterr().err
    finally:
        (folder / "dataset.json").write_text(text)
