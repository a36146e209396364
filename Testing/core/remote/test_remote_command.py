"""`mass ... --on HOST`, `mass remote` and finetuning with `--on`, over a real ssh server on this computer (ssh_server.py)."""

import csv
import json
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from mass_core import __version__
from mass_core.cli import build_parser, main
from mass_core.cli.remote import check_agreed
from mass_core.console import Terminal
from mass_core.errors import InputError
from mass_core.remote import hosts
from mass_core.volumes.volume import Volume
from Testing.core.ssh_server import HERE, Server
from Testing.core.worker_process import Files, alike, scan


def mass(*words: object) -> int:
    return main([str(word) for word in words])


def by_reference(files: Files) -> list[object]:
    return ["--weights", files.common["weights"], "--device", "cpu", "--modality", "ct", "--reference", files.image, files.mask]


@pytest.mark.slow
def test_the_command_asks_once_for_each_computer(files: Files, capsys: pytest.CaptureFixture) -> None:
    hosts.withdraw(HERE)
    order = ["segment", "--on", HERE, *by_reference(files), "--labels", 2, "--target", files.target]
    found, again, own = (files.folder / f"{name}.nii.gz" for name in ("found", "again", "own"))
    assert mass(*order, "--output", found) == 2
    assert "nobody has agreed" in capsys.readouterr().err and not found.exists()
    picture = files.folder / "found.png"
    assert mass(*order, "--agree", "--output-label", 9, "--picture", picture, "--output", found) == 0
    assert f"on {HERE})" in capsys.readouterr().out and picture.exists()
    assert mass("--json", *order, "--output", again) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["host"] == HERE and told["output"] == str(again) and [label["value"] for label in told["labels"]] == [2]
    assert mass("segment", *by_reference(files), "--labels", 2, "--target", files.target, "--output", own) == 0
    numbered, there_, here = (Volume.read(path).array for path in (found, again, own))
    assert alike(there_, here) and alike(numbered == 9, here == 2) and set(np.unique(numbered)) <= {0, 9}


def test_at_a_terminal_the_user_is_asked_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    hosts.withdraw(HERE)
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    answers = ["", "no", "y"]
    monkeypatch.setattr("builtins.input", lambda text: answers.pop(0))
    order = build_parser().parse_args(["encode", "--on", HERE, "--output", "x.masstask"])
    order.terminal, order.json = Terminal(), False
    for _ in range(2):
        with pytest.raises(InputError, match="nobody has agreed"):
            check_agreed(order)
    check_agreed(order)
    check_agreed(order)
    assert not answers and capsys.readouterr().err.count(f"over ssh to {HERE} ({hosts.address(HERE)})") == 3


def test_a_bad_scan_does_not_stop_a_batch(files: Files, capsys: pytest.CaptureFixture) -> None:
    bad, results = files.folder / "bad.nrrd", files.folder / "results"
    bad.write_bytes(files.target.read_bytes()[:2000])
    order = ["segment", "--on", HERE, *by_reference(files), "--target", bad, files.target, files.image, "--output-dir", results]
    assert mass(*order, "--table", results / "table.csv") == 3
    assert {path.name for path in results.iterdir()} == {"new_seg.nii.gz", "ref_seg.nii.gz", "table.csv"}
    assert str(bad) in capsys.readouterr().err
    with (results / "table.csv").open(newline="", encoding="utf-8") as file:
        failed, *rows = csv.DictReader(file)
    assert failed["target"] == str(bad) and f"{bad} cannot be read" in failed["error"]
    made = [results / f"{name}_seg.nii.gz" for name in ("new", "ref")]
    assert [(row["output"], row["label"]) for row in rows] == [(str(path), label) for path in made for label in "12"]


def test_a_batch_ends_where_the_computer_is_gone(files: Files, server: Server, capsys: pytest.CaptureFixture) -> None:
    hosts.agree("closed")
    targets = [files.folder / f"{number}.nrrd" for number in range(4)]
    for target in targets:
        target.write_bytes(files.target.read_bytes())
    assert mass("segment", "--on", "closed", *by_reference(files), "--target", *targets, "--output-dir", files.folder / "results") == 2
    said = capsys.readouterr().err
    assert said.count("no ssh server answers") == 2 and "2 times in a row" in said and not (files.folder / "results").exists()


def test_encode_assess_and_features_there(files: Files, capsys: pytest.CaptureFixture) -> None:
    network = ["--weights", files.common["weights"], "--device", "cpu"]
    assert mass("encode", "--on", HERE, *by_reference(files), "--output", files.task) == 0
    found = files.folder / "found.nrrd"
    assert mass("segment", "--on", HERE, *network, "--task", files.task, "--target", files.target, "--output", found) == 0
    capsys.readouterr()
    assert mass("assess", "--on", HERE, *network, "--task", files.task, "--target", files.target, "--result", found) == 0
    there_ = capsys.readouterr().out
    assert mass("assess", *network, "--task", files.task, "--target", files.target, "--result", found) == 0
    assert capsys.readouterr().out == there_
    order = ["features", *network, "--target", files.target, files.image, "--output-dir"]
    assert mass(*order, files.folder / "here", "--picture", files.folder / "here.png") == 0
    assert mass(*order, files.folder / "there", "--picture", files.folder / "there.png", "--on", HERE) == 0
    for name in ("new", "ref"):
        here, there = (sitk.GetArrayFromImage(sitk.ReadImage(files.folder / f / f"{name}_features.nii.gz")) for f in ("here", "there"))
        assert here.shape[-1] == 3 and np.mean(np.abs(here.astype(int) - there) > 3) < 0.01, "colours are common to both scans"
    drawn = [{path.name.removeprefix(where) for path in files.folder.glob(f"{where}*.png")} for where in ("here", "there")]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 2


@pytest.mark.slow
def test_adapt_there(files: Files, capsys: pytest.CaptureFixture) -> None:
    assert mass("adapt", "--on", HERE, *by_reference(files), "--seconds", 0.1, "--output", files.task) == 0
    assert f"on {HERE}" in (said := capsys.readouterr().out) and "steps in" in said and files.task.exists()


def test_the_finetuning_command(files: Files, capsys: pytest.CaptureFixture) -> None:
    from training.finetune.command import main as finetune

    images, masks, run = (files.folder / name for name in ("images", "masks", "run"))
    for number in range(2):
        for folder, volume in zip((images, masks), scan(number), strict=True):
            folder.mkdir(exist_ok=True)
            volume.write(folder / f"scan{number}.nrrd")
    words = ["--on", HERE, "--weights", files.common["weights"], "--device", "cpu", "--images", images, "--labels-dir", masks]
    small = ["batch_size=2", "steps_per_epoch=1", "validate_cases=1", "references=1"]
    words += ["--recipe", "smoke", "--epochs", 1, "--output", run, "--set", *small]
    assert finetune([str(word) for word in words]) == 0
    assert {path.name for path in run.iterdir()} >= {"best.safetensors", "config.json", "log.jsonl", "start.masstask", "state"}
    assert not (run / "data").exists()
    capsys.readouterr()
    assert finetune([str(word) for word in words]) == 2 and "Add --resume to continue it" in capsys.readouterr().err
    assert finetune([*[str(word) for word in words], "--output", str(files.folder / "none"), "--resume"]) == 2
    assert "There is no state to resume" in capsys.readouterr().err


def test_mass_remote(server: Server, capsys: pytest.CaptureFixture) -> None:
    assert mass("remote", HERE, "--withdraw") == 0
    assert mass("remote", HERE) == 0
    assert f"{HERE} answers with mass {__version__}" in (said := capsys.readouterr().out) and "may not be sent there yet" in said
    assert mass("remote", HERE, "--agree") == 0 and "Scans may be sent there." in capsys.readouterr().out
    assert mass("remote", HERE, "--command", "mass-is-not-here") == 2 and "could not be started" in capsys.readouterr().err
    assert mass("remote") == 0
    assert f"{HERE}: scans may go to {hosts.address(HERE)}" in (said := capsys.readouterr().out) and "mass-is-not-here" in said
    assert mass("remote", "--agree") == 2
