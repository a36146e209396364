"""The command and the worker do the same: the same files, the same facts, the same words for the same mistake."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mass_core.cli import main
from mass_core.cli.common.options import begin
from mass_core.console import JsonLines
from mass_core.errors import MassError
from mass_core.jobs.service import Service
from mass_core.volumes.volume import Volume
from mass_core.worker.protocol import Request
from mass_core.worker.requests import Load
from mass_core.worker.server import Job
from Testing.core.worker_process import Files

Mass = Callable[..., dict[str, Any]]


@pytest.fixture
def files(tmp_path: Path, tiny_weights: Path) -> Files:
    files = Files(tmp_path / "files", tiny_weights)
    files.common["options"] = {"modality": "ct", "spacing_zyx": [6, 6, 6]}  # one window shows a scan
    return files


@pytest.fixture
def mass(files: Files, capsys: pytest.CaptureFixture[str]) -> Mass:
    """The command with the references of `files`; the result, or the failure, that it tells."""

    def run(command: str, *more: object, references: bool = True) -> dict[str, Any]:
        shown = ["--reference", str(files.image), str(files.mask)] if references else []
        common = ["--weights", files.common["weights"], "--device", "cpu", "--modality", "ct", "--spacing", "6", "6", "6"]
        main(["--json", command, *common, *shown, *map(str, more)])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return next(line for line in lines if line["event"] in ("result", "failed"))

    return run


def worker(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of a request to a fresh service, as it arrives."""
    reply = Service().answer(Job(Request(id=1, method=method, params=params), lambda message: None))
    result: dict[str, Any] = json.loads(json.dumps(reply["result"]))
    return result


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Facts that both tell are equal, label by label too."""
    shared = (set(ours) & set(theirs)) - {"output", "labels", "probabilities", "reused"}
    labels = zip(ours["labels"], theirs["labels"], strict=True)
    assert shared <= {"modality", "warnings"}
    return all(ours[x] == theirs[x] for x in shared) and all(a[x] == b[x] for a, b in labels for x in set(a) & set(b))


def test_segmenting(mass: Mass, files: Files) -> None:
    ours = mass("segment", "--target", files.target, "--output", files.folder / "ours.nrrd", "--save-probabilities", "--assess")
    theirs = worker("segment", files.segment("theirs.nrrd", probabilities=True, assess=True))
    assert same(ours, theirs)
    assert {"value", "name", "color", "kept", "ml", "decision", "quality"} <= set(ours["labels"][0]) & set(theirs["labels"][0])
    pairs = [(ours["output"], theirs["output"]), *((ours["probabilities"][x], theirs["probabilities"][x]) for x in ("1", "2"))]
    assert all(np.array_equal(Volume.read(a).array, Volume.read(b).array) for a, b in pairs)


def test_a_task_and_its_options(mass: Mass, files: Files) -> None:
    mine = files.folder / "mine.masstask"
    assert same(mass("encode", "--output", mine), worker("encode", files.encode()))
    assert mine.read_bytes() == files.task.read_bytes()
    chosen = ["--labels", 2, "--threshold", 0.3, "--keep-largest", "--task", mine]
    aimed = ["--target", files.target, "--output", files.folder / "ours.nrrd"]
    refused = mass("segment", *chosen, "--spacing", 4, 4, 4.5, *aimed, references=False)
    with pytest.raises(MassError) as caught:
        params = files.segment("theirs.nrrd", task=str(mine), labels=[2], options={"spacing_zyx": [4.5, 4, 4]})
        worker("segment", params)
    assert refused["message"] == caught.value.message
    found = mass("segment", *chosen, *aimed, references=False)
    options = {"threshold": 0.3, "parts": "largest"}
    assert same(found, worker("segment", files.segment("theirs.nrrd", task=str(mine), labels=[2], options=options)))
    assert np.array_equal(Volume.read(files.folder / "ours.nrrd").array, Volume.read(files.folder / "theirs.nrrd").array)


def test_judging_a_file(mass: Mass, files: Files) -> None:
    mask = files.folder / "result.nrrd"
    Volume.read(files.mask).write(mask)
    params = {name: value for name, value in files.segment().items() if name != "output"}
    ours = mass("assess", "--target", files.target, "--result", mask)
    assert ours["labels"] == worker("assess", {**params, "result": str(mask)})["labels"]


@pytest.mark.parametrize(
    ("command", "references", "change"),
    [
        (["segment", "--output", "out.nrrd"], False, {"references": []}),
        (["segment", "--output", "out.nrrd", "--task", "x.masstask"], True, {"task": "x.masstask"}),
        (["segment", "--output", "ref.nrrd", "--overwrite"], True, {"output": "ref.nrrd", "overwrite": True}),
        (["assess", "--result", "none.nrrd"], True, {"result": "none.nrrd"}),
        (["encode", "--output", "a.masstask"], False, {"references": [], "output": "a.masstask"}),
        (["encode", "--output", "a.txt"], True, {"output": "a.txt"}),
    ],
)
def test_a_mistake_is_told_in_the_same_words(
    mass: Mass, files: Files, command: list[str], references: bool, change: dict[str, Any]
) -> None:
    params = files.encode() if command[0] == "encode" else files.segment(str(files.folder / "out.nrrd"))
    if command[0] == "assess":
        del params["output"]
    change = {name: str(files.folder / value) if name in ("output", "result") else value for name, value in change.items()}
    given = [str(files.folder / x) if "." in x else x for x in command]
    told = mass(*given, *([] if command[0] == "encode" else ["--target", files.target]), references=references)
    with pytest.raises(MassError) as caught:
        worker(command[0], {**params, **change})
    assert (told["error"], told["message"], told["cure"]) == (type(caught.value).__name__, caught.value.message, caught.value.cure)


def test_a_command_keeps_no_scans(files: Files) -> None:
    session, _ = begin(Load(weights=files.common["weights"], device="cpu"), JsonLines())
    assert session.scans.read(files.image) is not session.scans.read(files.image)
