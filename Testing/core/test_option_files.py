"""--config and --print-config: a printed file makes the same run, and what a file says wrongly is told by name."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from mass_core.cli import LONG, _parsed, main

PAIR = ["--reference", "a.nii", "b.nii"]
LINES = {
    "segment": [*PAIR, "--reference", "c", "d", "--target", "x", "y", "--output-dir", "o", "--labels", "1", "2", "--no-ema", "--ct-clip"]
    + ["-100", "200", "--spacing", "1", "2", "3", "--keep-largest", "--overwrite", "--format", "nnunet"],
    "encode": [*PAIR, "--output", "t.masstask"],
    "adapt": [*PAIR, "--output", "t.masstask", "--seed", "3", "--seconds", "2.5"],
    "masks": ["scans", "more scans", "--output", "m", "--seed", "3", "--shard", "1/2", "--all-axes"],
    "prepare": ["scans", "--output", "d", "--masks", "m", "--shares", "0.5", "0.25", "0.25", "--spacing", "native", "--ct-clip", "-5", "6"],
    "evaluate": ["--dataset", "d", "--output", "o", "--shots", "1", "5", "--set", "a=1", "b.c=2,3", "--methods", "copied", "adapted"],
    "assess": [*PAIR, "--target", "x", "--result", "y", "--overlap", "0.5"],
    "features": ["--target", "a", "--output", "b.nii.gz"],
    "classify": ["--weights", "w", "--target", "a", "--output", "o.csv"],
    "dataset import": ["r", "--output", "d", "--spacing", "1", "2", "3", "--modality", "ct", "--split", "s.json", "--fold", "2"],
    "dataset export": ["d", "--output", "o", "--format", "nnunet"],
    "demo": ["--output", "o", "--overwrite"],
}


def printed(*words: str) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert main([*words, "--print-config"]) == 0
    return text.getvalue()


def options(*words: str) -> dict:
    return {name: value for name, value in vars(_parsed(words)).items() if name != "run"}


@pytest.mark.parametrize("command", LONG)
def test_a_printed_file_makes_the_same_run(command: str, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    words = command.split()
    file.write_text(printed(*words, *LINES[command]))
    assert options(*words, "--config", str(file)) == options(*words, *LINES[command])
    assert options("--json", *words, f"--config={file}") == options("--json", *words, *LINES[command])


def test_the_command_line_counts_last(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"dataset": "d", "output": "o", "shots": 5, "seed": 1, "recipe-finetune": "smoke", "epochs": None}))
    found = options("evaluate", "--seed", "2", "--config", str(file), "--output", "elsewhere")
    assert (found["seed"], found["output"], found["shots"], found["recipe_finetune"]) == (2, Path("elsewhere"), [5], "smoke")


def test_yaml_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("yaml")
    file = tmp_path / "run.yaml"
    file.write_text("dataset: d\noutput: o  # of the run\nshots: [1, 5]\nset:\n  steps: 3\n  optim: {learning_rate: 1e-3, none: null}\n")
    found = options("evaluate", "--config", str(file))
    assert found["shots"] == [1, 5] and found["set"] == ["steps=3", "optim.learning_rate=1e-3", "optim.none=none"]
    file.write_text("dataset: [d")
    assert main(["evaluate", "--config", str(file)]) == 2 and "cannot be read" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    assert main(["evaluate", "--config", str(file)]) == 2 and "pip install pyyaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"shot": 3}', "Did you mean shots?"),
        ('{"colour": 3}', "Known are weights,"),
        ('{"seed": [1]}', "must be one value"),
        ('{"overwrite": "yes"}', "must be true or false"),
        ("[1]", "contains no JSON object"),
        ("{", "cannot be read"),
    ],
)
def test_what_a_file_says_wrongly_is_told(text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "run.json").write_text(text)
    assert main(["evaluate", "--config", str(tmp_path / "run.json")]) == 2
    assert told in capsys.readouterr().err
    assert main(["evaluate", "--config", str(tmp_path / "absent.json")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_references_of_a_file_are_pairs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "run.json").write_text('{"reference": ["a", "b"], "target": "x", "output": "o"}')
    assert main(["segment", "--config", str(tmp_path / "run.json")]) == 2
    assert "a list of lists" in capsys.readouterr().err
