"""`mass segment --assess` and `mass assess`: the same estimate, told to people and to programs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mass_core.cli import main
from mass_core.volumes.volume import Volume
from Testing.core.worker_process import scan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A reference with its mask of two balls, and a target."""
    for volume, name in zip((*scan(), scan(1)[0]), ("ref", "mask", "new"), strict=True):
        volume.write(tmp_path / f"{name}.nii.gz")
    return tmp_path


def arguments(folder: Path, weights: Path | str, *more: str, references: bool = True) -> list[str]:
    shown = ["--reference", str(folder / "ref.nii.gz"), str(folder / "mask.nii.gz")] if references else []
    common = ["--weights", str(weights), "--device", "cpu", "--modality", "ct", "--target", str(folder / "new.nii.gz")]
    return [*common, *shown, *map(str, more)]


def result_of(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], set[str]]:
    """The result told as JSON, and the stages before."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return next(x for x in lines if x["event"] == "result"), {x["stage"] for x in lines if x["event"] == "progress"}


def test_a_result_is_judged_when_made_and_later(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out.nii.gz"
    assert main(["--json", "segment", *arguments(folder, "small", "--output", str(out), "--assess")]) == 0
    made, stages = result_of(capsys)
    assert "assess" in stages
    assert main(["--json", "assess", *arguments(folder, "small", "--result", str(out))]) == 0
    later, stages = result_of(capsys)
    assert "assess" in stages
    # The signs are the same; how far the alignment was trusted, and so the expected Dice, is known only while the result is made.
    assert [(x["value"], _signs(x)) for x in made["labels"]] == [(x["value"], _signs(x)) for x in later["labels"]]
    assert all(x["decision"]["trust"] is not None for x in made["labels"])
    assert all(0 < x["quality"]["expected_dice"] < 1 for x in made["labels"])
    # The network is no master of balls: of one of the two the cycle has to come back to the reference.
    cycles = [x["quality"]["cycle"] for x in made["labels"]]
    assert all(0 <= cycle <= 1 for cycle in cycles) and max(cycles) > 0.3


@pytest.mark.slow
def test_without_alignment_a_result_is_judged_the_same_when_made_and_later(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out.nii.gz"
    assert main(["--json", "segment", *arguments(folder, "small", "--output", str(out), "--assess", "--align", "off")]) == 0
    made = result_of(capsys)[0]
    assert main(["--json", "assess", *arguments(folder, "small", "--result", str(out))]) == 0
    later = result_of(capsys)[0]
    assert [(x["value"], x["quality"]) for x in made["labels"]] == [(x["value"], x["quality"]) for x in later["labels"]]


def _signs(label: dict[str, Any]) -> dict[str, Any]:
    """Quality of a label without what follows from the signs."""
    return {name: value for name, value in label["quality"].items() if name not in ("expected_dice", "flag", "reasons")}


def test_without_asking_nothing_is_judged(folder: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "segment", *arguments(folder, tiny_weights, "--output", str(folder / "out.nii.gz"))]) == 0
    made, stages = result_of(capsys)
    assert "assess" not in stages and all("quality" not in label for label in made["labels"])


@pytest.mark.slow
def test_a_single_label_under_another_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The cycle compares with the mask's own number."""
    qualities = []
    for number in ([], ["--output-label", "9"]):
        options = ["--labels", "2", *number, "--assess", "--overwrite", "--output", str(folder / "out.nii.gz")]
        assert main(["--json", "segment", *arguments(folder, "small", *options)]) == 0
        ((label),) = result_of(capsys)[0]["labels"]
        qualities.append(label["quality"])
    assert label["value"] == 9
    assert qualities[0] == qualities[1] and qualities[0]["cycle"] > 0.5


def test_people_read_a_line_for_each_label(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = scan(1)[1]
    wrong = Volume(np.where(found.array == 1, np.roll(found.array, 14, axis=2), 0).astype(np.uint8), found.geometry)
    wrong.array[:6, :6, :6] = 1
    wrong.write(folder / "wrong.nii.gz")
    assert main(["assess", *arguments(folder, "small", "--result", str(folder / "wrong.nii.gz"))]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("label 1: unreliable, expected Dice 0.") and "the network" in first
    assert second.startswith("label 2: check. Nothing was found")


def test_a_task_does_without_the_references(folder: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = ["--task", str(folder / "two.masstask")]
    shown = [str(folder / "ref.nii.gz"), str(folder / "mask.nii.gz")]
    assert main(["encode", "--weights", str(tiny_weights), "--reference", *shown, "--modality", "ct", "--output", task[1]]) == 0
    scan(1)[1].write(folder / "found.nii.gz")
    capsys.readouterr()
    judge = arguments(folder, tiny_weights, *task, "--labels", "2", "--result", str(folder / "found.nii.gz"), references=False)
    assert main(["--json", "assess", *judge]) == 0
    ((label),) = result_of(capsys)[0]["labels"]
    assert label["value"] == 2
    assert label["quality"]["cycle"] is None and label["quality"]["agreement"] is not None
    assert label["quality"]["volume_ratio"] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--result", "none.nii.gz"], "There is no file none.nii.gz"),
        (["--result", "mask.nii.gz", "--task", "x.masstask"], "must be given exactly once"),
        (["--result", "half.nii.gz"], "holds fractional values"),
    ],
)
def test_what_cannot_be_judged(
    folder: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    labels = scan(1)[1]
    Volume(labels.array * np.float32(0.5), labels.geometry).write(folder / "half.nii.gz")
    monkeypatch.chdir(folder)
    assert main(["assess", *arguments(folder, tiny_weights, *options)]) == 2
    assert told in capsys.readouterr().err
