"""mass evaluate: measures with known answers, and the whole way from scans to tables."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("monai", reason="MONAI is not installed: pip install '.[train]'")

from mass_core.cli import main
from mass_core.data.dataset import Dataset, shown_labels
from mass_core.data.phantoms import subject
from mass_core.encoding.task import Task
from mass_core.errors import InputError
from mass_core.evaluation import trials
from mass_core.evaluation.metrics import surface_distances
from mass_core.evaluation.scoring import Score, Trial, draw_scans, scan, score_scan, segmenter_for
from mass_core.evaluation.tables import Row, as_csv, layout, markdown, means, scores_of, table
from mass_core.inference.segmenter import Segmenter
from mass_core.volumes.volume import Volume
from mass_core.weights.checkpoint import load_model
from mass_core.worker.requests import Finetune

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


def score(draw: int, case: str, dice: float | None, found_ml: float = 2.0, asd_mm: float | None = 1.0, **more: Any) -> Score:
    place = {"method": "in-context", "shots": 1, "draw": draw, "case": case, "label": 7, **more}
    return Score(**place, truth_ml=0.0 if dice is None else 1.0, found_ml=found_ml, dice=dice, asd_mm=asd_mm)


SCORES = [
    *(score(0, "a", 0.8), score(0, "b", 0.4), score(0, "c", None, 3.0, None)),
    *(score(1, "a", 0.9, asd_mm=3.0), score(1, "b", 0.0, 0.0, None), score(1, "c", None, 0.0, None)),
]


def test_a_table_averages_over_scans_then_draws() -> None:
    (row,) = table(SCORES, {7: "kidney"})
    assert row == Row(
        method="in-context",
        shots=1,
        label=7,
        name="kidney",
        scans=2,
        dice=pytest.approx((0.6 + 0.45) / 2),
        dice_sd=pytest.approx(np.std([0.6, 0.45], ddof=1)),
        asd_mm=pytest.approx((1.0 + 3.0) / 2),
        hd95_mm=None,
        missed=0.25,
        misplaced=0.0,
        false_ml=1.5,
    )
    assert "| in-context | 1 | kidney | 2 | 0.525 (0.106) | 2.00 |  | 25% | 0% | 1.50 |" in markdown([row])


def test_the_layout_of_the_papers_tables() -> None:
    """Methods down, numbers of references across; the mean over structures of each draw, then mean and deviation of the draws."""
    other = [score(0, "a", 0.2, label=8), score(1, "a", 0.25, label=8)]
    tuned = [score(0, "a", 0.9, method="finetuned"), score(0, "a", 0.95, method="finetuned", shots=5)]
    cells = means([*tuned, *SCORES, *other], {Trial(method="finetuned", shots=1, draw=0): 90.0})
    assert [(cell.method, cell.shots, cell.draws, cell.seconds) for cell in cells] == [
        ("in-context", 1, 2, None),
        ("finetuned", 1, 1, 90.0),
        ("finetuned", 5, 1, None),
    ]
    assert cells[0].dice == pytest.approx(np.mean([(0.6 + 0.2) / 2, (0.45 + 0.25) / 2]))
    assert cells[0].dice_sd == pytest.approx(np.std([0.4, 0.35], ddof=1)) and cells[1].dice_sd == 0
    assert layout(cells, "kidneys").splitlines() == [
        "| kidneys: Dice, % | 1-shot | 5-shot | seconds to make ready |",
        "|---|--:|--:|--:|",
        "| in-context | 37.5 (3.5) |  |  |",
        "| finetuned | 90.0 (0.0) | 95.0 (0.0) | 90.0 |",
    ]


def test_scores_survive_their_table() -> None:
    scores = [replace(SCORES[0], warnings='Not aligned: kidney; "too far", they say.'), *SCORES[1:]]
    assert scores_of(as_csv(scores, Score)) == scores
    older = "\n".join(line.rpartition(",")[0] for line in as_csv(SCORES, Score).splitlines())
    assert scores_of(older) == SCORES, "tables without warnings are read"
    with pytest.raises(ValueError, match="columns"):
        scores_of("shots,draw\n1,0\n")


SHOWN = {"a": frozenset({1, 2}), "b": frozenset({1}), "c": frozenset({2}), "d": frozenset({1, 2}), "e": frozenset[int]()}


def test_the_scans_of_a_draw_show_every_structure_together() -> None:
    draws = draw_scans(SHOWN, [1, 2], 1, 4, seed=0)
    assert sorted(draws[:2]) == [("a",), ("d",)] and draws[2:] == draws[:2], "none twice while others are left"
    assert draw_scans(SHOWN, [1, 2], 1, 2, seed=0) == draws[:2], "more draws begin as fewer do"
    for names in draw_scans({name: SHOWN[name] for name in "bce"}, [1, 2], 2, 3, seed=1):
        assert sorted(names) == ["b", "c"]
    assert all(len(set(names)) == 4 and "e" not in names for names in draw_scans(SHOWN, [1, 2], 4, 2, seed=0))
    orders = {draw_scans(SHOWN, [1], 1, 1, seed=seed)[0] for seed in range(20)}
    assert len(orders) == 3, "which scan comes first is left to chance"


@pytest.mark.parametrize(
    ("labels", "shots", "told"),
    [
        ([1, 9], 1, "No training scan shows label 9"),
        ([1, 2], 5, "Only 4 training scans show the structures; 5 were requested"),
        ([1, 2, 3], 1, "do not show all structures: label 3 is missing"),
    ],
)
def test_draws_that_cannot_be_made_are_refused(labels: list[int], shots: int, told: str) -> None:
    with pytest.raises(InputError, match=told):
        draw_scans({**SHOWN, "f": frozenset({3})}, labels, shots, 1, seed=0)


def test_every_label_map_is_looked_through_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, looked = Dataset.read(folder), []
    plain = Dataset.labels
    monkeypatch.setattr(Dataset, "labels", lambda self, name: looked.append(name) or plain(self, name))
    assert shown_labels(dataset, ["p0", "p5"]) == {"p0": frozenset({LIVER, SPLEEN}), "p5": frozenset({LIVER})}
    looked.clear()
    arguments = ("evaluate", "--dataset", folder, "--shots", 1, 2, 3, "--repeats", 3, "--weights", "nowhere", "--output", tmp_path / "x")
    assert mass(*arguments) == 2
    assert sorted(looked) == ["p0", "p1", "p2"]


def test_the_truth_scores_one_and_what_is_absent_is_told_apart(folder: Path) -> None:
    """A liver is found where there is one, and a little spleen where there is none."""
    dataset, scores = Dataset.read(folder), []
    for name in ("p4", "p5"):
        _, truth = scan(dataset, name)
        found = truth.array.copy()
        if name == "p5":
            found[0, 0, :4] = SPLEEN
        scores += score_scan(Trial(method="adapted", shots=3, draw=1), name, (LIVER, SPLEEN), truth, found)
    assert {(s.method, s.shots, s.draw) for s in scores} == {("adapted", 3, 1)}
    rows = {row.name: row for row in table(scores, dataset.label_names)}
    assert rows["liver"].scans == 2 and (rows["liver"].dice, rows["liver"].hd95_mm, rows["liver"].missed) == (1.0, 0.0, 0.0)
    assert rows["spleen"].scans == 1 and rows["spleen"].dice == 1.0
    spacing = dataset.spacing_zyx("p5")
    assert rows["spleen"].false_ml == pytest.approx(4 * np.prod(spacing) / 1000)


def test_the_whole_way(folder: Path, quick_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "tables"
    fixed = ("evaluate", "--dataset", folder, "--weights", quick_weights, "--device", "cpu", "--output", output)
    arguments = (*fixed, "--shots", 2, 1, "--repeats", 2, "--pictures", 2)
    assert mass(*arguments, "--json") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    summary = json.loads((output / "summary.json").read_text())
    assert told[-1]["rows"] == summary["rows"] and told[-1]["means"] == summary["means"]
    rows = {(row["method"], row["shots"], row["name"]): row for row in summary["rows"]}
    assert set(rows) == {("in-context", shots, name) for shots in (1, 2) for name in ("liver", "spleen")}
    liver, spleen = rows["in-context", 1, "liver"], rows["in-context", 1, "spleen"]
    assert liver["scans"] == 2 and spleen["scans"] == 1 and spleen["false_ml"] is not None
    scores = read_scores(output)
    assert len(scores) == 2 * 2 * 2 * 2
    assert all(s["dice"] == "" for s in scores if s["case"] == "p5" and s["label"] == str(SPLEEN))
    pictures = sorted(path.name for path in output.glob("worst*.png"))
    assert len(pictures) == 2 and pictures[0].startswith("worst1_p")
    trials = {(one["shots"], one["draw"]): one for one in summary["trials"]}
    assert [len(trials[key]["scans"]) for key in sorted(trials)] == [1, 1, 2, 2] and all(one["seconds"] > 0 for one in trials.values())
    task = Task.load(output / "models" / "in-context_2shot_draw1.masstask")
    assert [(label.value, label.references) for label in task.labels] == [(LIVER, 2), (SPLEEN, 2)]


def read_scores(output: Path) -> list[dict[str, str]]:
    with (output / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_warnings_stand_in_the_scores_of_their_label(
    folder: Path, quick_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = Segmenter.segment
    told = (f"label {SPLEEN}: 41% of the segmented volume was removed.", "No body was found.")
    monkeypatch.setattr(Segmenter, "segment", lambda self, *given, **more: replace(segment(self, *given, **more), warnings=told))
    fixed = (
        "evaluate",
        "--dataset",
        folder,
        "--weights",
        quick_weights,
        "--device",
        "cpu",
        "--pictures",
        0,
        "--output",
        tmp_path / "tables",
    )
    assert mass(*fixed, "--methods", "copied", "in-context", "--cases", 1) == 0
    found = {(score["method"], int(score["label"])): score["warnings"] for score in read_scores(tmp_path / "tables")}
    assert found["in-context", LIVER] == told[1] and found["in-context", SPLEEN] == " ".join(told)
    assert found["copied", LIVER] == found["copied", SPLEEN] == ""


@pytest.fixture
def mixed(folder: Path, tmp_path: Path) -> Path:
    """The dataset with one of its scans to be judged, and one to learn from, said to be MR."""
    shutil.copytree(folder, tmp_path / "mixed")
    dataset = Dataset.read(tmp_path / "mixed")
    cases = (replace(case, modality="mr" if case.name in ("p2", "p5") else "ct") for case in dataset.cases)
    replace(dataset, cases=tuple(cases)).write()
    return tmp_path / "mixed"


def test_a_modality_selects_scans(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """To learn from and to judge; nothing of the others takes part."""
    output = tmp_path / "tables"
    fixed = ("evaluate", "--dataset", mixed, "--methods", "copied", "--labels", LIVER, "--pictures", 0, "--output", output)
    assert mass(*fixed, "--modality", "mr") == 0
    assert "4 scans of other modalities than mr are left out" in capsys.readouterr().err
    assert [score["case"] for score in read_scores(output)] == ["p5"]
    (trial,) = json.loads((output / "summary.json").read_text())["trials"]
    assert trial["scans"] == ["p2"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--modality", "pet"), "the scans of {dataset} are ct, mr"),
        (("--modality", "mr", "--methods", "finetuned"), "finetuned would be validated on scans of ct and mr"),
        (("--ct-clip", -100, 300), "--ct-clip: the scans of {dataset} are cropped and clipped already"),
        (("--body-crop", "none", "--body-margin", 1, 1, 1), "--body-crop, --body-margin: "),
        (("--body-threshold", -300, "--self-reference"), "--body-threshold: "),
    ],
)
def test_options_without_effect_are_refused(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture, more, told: str) -> None:
    assert mass("evaluate", "--dataset", mixed, "--output", tmp_path / "out", *more) == 2
    assert told.format(dataset=mixed) in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_the_same_command_goes_on_where_it_was_stopped(
    folder: Path, quick_weights: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "tables"
    fixed = ("evaluate", "--dataset", folder, "--weights", quick_weights, "--device", "cpu", "--pictures", 0, "--output", output)
    learned, judged = [], []
    encode, segment = Segmenter.encode, Segmenter.segment

    def counted(self: Segmenter, *given: Any, **more: Any) -> Any:
        if len(judged) == 3:
            raise KeyboardInterrupt
        judged.append(given)
        return segment(self, *given, **more)

    monkeypatch.setattr(Segmenter, "encode", lambda self, *given, **more: learned.append(given) or encode(self, *given, **more))
    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "segment", counted)
        assert mass(*fixed, "--repeats", 2) == 130
    first = read_scores(output)
    assert len(first) == 3 * 2 and len(learned) == 2
    judged.clear()
    monkeypatch.setattr(Segmenter, "segment", lambda self, *given, **more: judged.append(given) or segment(self, *given, **more))
    assert mass(*fixed, "--repeats", 2) == 0
    assert len(judged) == 1 and len(learned) == 2, "what was learned and judged before is not done again"
    assert read_scores(output)[: len(first)] == first and len(read_scores(output)) == 4 * 2
    before = (output / "summary.json").read_text()
    assert mass(*fixed, "--repeats", 2) == 0 and len(judged) == 1 and (output / "summary.json").read_text() == before
    assert mass(*fixed, "--repeats", 2, "--threshold", 0.3) == 2
    assert "other settings: recipe.threshold was 0.5, now 0.3." in capsys.readouterr().err
    assert mass(*fixed, "--repeats", 2, "--precision", "bfloat16") == 2
    assert "other settings: precision was 'auto', now 'bfloat16'" in capsys.readouterr().err
    assert mass(*fixed, "--threshold", 0.3, "--overwrite") == 0
    assert len(read_scores(output)) == 2 * 2 and len(list((output / "models").iterdir())) == 2, "begun anew"
    (output / "settings.json").unlink()
    assert mass(*fixed, "--threshold", 0.3) == 2 and "Results exist" in capsys.readouterr().err
    (output / "settings.json").write_text("{")
    assert mass(*fixed) == 2 and "settings.json is not JSON" in capsys.readouterr().err


def test_methods_are_compared_after_the_same_scans(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finetuned network stands in for by the bundled one with a task in it: what training does is tested where it is written."""
    output, orders = tmp_path / "tables", []
    model = load_model("small", "cpu")
    dataset = Dataset.read(folder)
    segmenter = segmenter_for(Segmenter(model), dataset)
    task = segmenter.encode([scan(dataset, "p0")], [LIVER, SPLEEN])

    def trained(order: Finetune, progress: Any) -> dict[str, Any]:
        orders.append(order)
        Path(order.output or "").write_bytes(b"weights")
        progress("train", 0.5, 3.0, {"loss": 1.0})
        return {"stopped": "early"}

    monkeypatch.setattr(trials, "finetune", trained)
    monkeypatch.setattr(trials, "load_model", lambda path, device, use: replace(model, task=task, use=use))
    methods = ("scratch", "finetuned", "in-context", "adapted")
    arguments = ("--methods", *methods, "--seconds", 0.1, "--epochs", 2, "--recipe-finetune", "smoke", "--pictures", 1, "--seed", 4)
    arguments = (*arguments, "--cases", 1, "--precision", "bfloat16", "--set", "validate_cases=1")
    assert mass("evaluate", "--dataset", folder, "--device", "cpu", *arguments, "--output", output) == 0
    summary = json.loads((output / "summary.json").read_text())
    assert [cell["method"] for cell in summary["means"]] == ["scratch", "in-context", "adapted", "finetuned"]
    seconds = {cell["method"]: cell["seconds"] for cell in summary["means"]}
    assert seconds["finetuned"] >= 0 and seconds["in-context"] > 0 and seconds["adapted"] > 0
    found = {(row["method"], row["name"]): row["dice"] for row in summary["rows"]}
    assert found["in-context", "liver"] > 0.4, "the bundled weights find it"
    scans = {tuple(trial["scans"]) for trial in summary["trials"]}
    assert len(summary["trials"]) == 4 and len(scans) == 1
    assert [(order.scratch, order.epochs, order.recipe, order.labels) for order in orders] == [
        (True, 2, "smoke", [LIVER, SPLEEN]),
        (False, 2, "smoke", [LIVER, SPLEEN]),
    ]
    assert {tuple(order.train_cases or ()) for order in orders} == scans and orders[0].dataset == str(folder)
    assert all(order.settings == ["validate_cases=1", "seed=4"] and order.precision == "bfloat16" for order in orders)
    kept = {path.name for path in (output / "models").iterdir()}
    assert {"adapted_1shot_draw0.masstask", "finetuned_1shot_draw0.safetensors", "scratch_1shot_draw0.json"} <= kept
    lines = (output / "summary.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:6]] == ["| scratch", "| in-context", "| adapted", "| finetuned"]


def test_a_network_whose_training_was_stopped_is_not_judged(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def stopped(order: Finetune, progress: Any) -> dict[str, Any]:
        Path(order.output or "").write_bytes(b"weights of a few steps")
        return {"stopped": "cancelled"}

    monkeypatch.setattr(trials, "finetune", stopped)
    output = tmp_path / "tables"
    assert mass("evaluate", "--dataset", folder, "--device", "cpu", "--methods", "finetuned", "--output", output) == 2
    assert "finetuned_1shot_draw0 was terminated" in capsys.readouterr().err
    assert not list((output / "models").iterdir()) and not (output / "scores.csv").exists()


@pytest.mark.slow
def test_finetuned_networks_are_trained_kept_and_judged(folder: Path, tiny_weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "tables"
    methods = ("--methods", "scratch", "finetuned", "--epochs", 1, "--recipe-finetune", "smoke", "--pictures", 1)
    arguments = ("evaluate", "--dataset", folder, "--weights", tiny_weights, "--device", "cpu", *methods, "--output", output)
    assert mass(*arguments) == 0
    kept = {path: path.stat().st_mtime_ns for path in (output / "models").glob("*.safetensors")}
    assert sorted(path.stem for path in kept) == ["finetuned_1shot_draw0", "scratch_1shot_draw0"]
    found = {path.stem: load_model(path, "cpu").task for path in kept}
    assert all(task is not None and [label.value for label in task.labels] == [LIVER, SPLEEN] for task in found.values())
    assert len(read_scores(output)) == 2 * 2 * 2 and len(list(output.glob("worst1_*.png"))) == 1
    assert mass(*arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--shots", 0), "at least 1"),
        (("--labels", 9), "shows label 9"),
        (("--methods", "adapted", "--seconds", 0), "--seconds is 0"),
        (("--methods", "finetuned", "--epochs", 0), "at least 1"),
        (("--split", "val", "--shots", 5), "5 were requested"),
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
        assert "has no label names" in capsys.readouterr().err
    finally:
        (folder / "dataset.json").write_text(text)
