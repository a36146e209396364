"""Finetuning by the worker: a child process trains, and the worker survives whatever happens to it."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mass_core.errors import DeviceError, GeometryError, InputError, OutputError
from mass_core.volumes.volume import Geometry, Volume
from mass_core.weights import store as weights_store
from mass_core.worker.finetuning import finetune
from mass_core.worker.requests import Finetune
from Testing.core.worker_process import Files, Recorder, alive, scan

psutil = pytest.importorskip("psutil")

SETTINGS = ["batch_size=2", "steps_per_epoch=2", "log_every=1", "validate_cases=1"]
ENDLESS = ["batch_size=1", "steps_per_epoch=1", "patience=0", "epochs=100000", "log_every=1", "validate_cases=1"]


class Tuning(Files):
    """Three labelled scans, and params about them."""

    def __init__(self, folder: Path, weights: Path) -> None:
        super().__init__(folder, weights)
        self.output = folder / "balls.safetensors"
        self.weights = weights
        self.cases = []
        for number in range(3):
            case = {"image": str(folder / f"scan{number}.nrrd"), "mask": str(folder / f"labels{number}.nrrd")}
            for volume, path in zip(scan(number), case.values(), strict=True):
                volume.write(path)
            self.cases.append(case)

    def params(self, **changes: Any) -> dict[str, Any]:
        return {
            "weights": str(self.weights), "device": "cpu", "modality": "ct", "cases": self.cases, "recipe": "smoke", "settings": SETTINGS,
            "output": str(self.output), "folder": str(self.folder / "run"),
            "appearance": {"1": {"name": "small ball", "color": [1.0, 0.5, 0.0]}}, **changes,
        }  # fmt: skip


@pytest.fixture
def tuning(tmp_path: Path, tiny_weights: Path) -> Tuning:
    return Tuning(tmp_path / "Ärzte & Söhne", tiny_weights)


def child_of(worker: Recorder) -> int:
    (child,) = psutil.Process(worker.pid).children()
    return int(child.pid)


@pytest.fixture
def validated(worker: Recorder, tuning: Tuning) -> Iterator[Any]:
    """A run without end, after its first validation and first step."""
    call = worker.request("finetune", tuning.params(settings=ENDLESS))
    worker.until(lambda: any(kind == "train" for kind, _ in worker.events) or call.state != "waiting")
    assert call.state == "waiting", worker.events[-1]
    yield call
    if call.state == "waiting":
        call.cancel()
        worker.until(lambda: call.state != "waiting")


def test_scans_become_weights_that_need_no_reference(worker: Recorder, tuning: Tuning) -> None:
    call = worker.request("finetune", tuning.params(epochs=2))
    worker.until(lambda: call.state != "waiting")
    assert call.state == "done", worker.events[-1]
    result = worker.last()["result"]
    assert result["output"] == str(tuning.output) and (result["epochs"], result["stopped"]) == (2, "")
    assert [(x["value"], x["name"], x["color"]) for x in result["labels"]] == [(1, "small ball", [1.0, 0.5, 0.0]), (2, "label 2", None)]
    stages = [kind for kind, _ in worker.events]
    assert list(dict.fromkeys(stages)) == ["prepare", "labels", "encode", "validate", "train", "done"]
    told = [values for _, values in worker.events if isinstance(values, dict) and "step" in values]
    assert [v["step"] for v in told if "loss" in v] == [1, 2, 3, 4] and [v["epoch"] for v in told if "val_dice" in v] == [0, 1, 2]
    assert {"val_dice", "dice_1", "dice_2"} <= set(told[0])
    assert [one.name for one in weights_store.classes(tuning.output).values()] == ["small ball", "label 2"]
    params = tuning.segment(references=[], options={})
    found = worker.ask("segment", {**params, "weights": str(tuning.output)})["result"]
    assert [x["name"] for x in found["labels"]] == ["small ball", "label 2"] and found["modality"] == "ct"


def test_a_stop_before_the_first_validation_leaves_no_weights(worker: Recorder, tuning: Tuning) -> None:
    call, pid = worker.request("finetune", tuning.params()), worker.pid
    worker.until(lambda: bool(worker.events))
    assert worker.events[0][0] == "prepare"
    call.cancel()
    worker.until(lambda: call.state != "waiting")
    assert call.state == "cancelled" and not tuning.output.exists()
    assert worker.ask("load", tuning.common | {"options": {}})["result"]["name"] == "tiny" and worker.pid == pid


def test_a_stop_after_the_first_validation_keeps_the_best(worker: Recorder, tuning: Tuning, validated: Any) -> None:
    pid = worker.pid
    validated.cancel()
    worker.until(lambda: validated.state != "waiting")
    assert validated.state == "done"
    result = worker.last()["result"]
    assert result["stopped"] == "cancelled" and result["best_dice"] is not None
    assert len(weights_store.classes(tuning.output)) == 2 and worker.pid == pid


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no signals")
def test_a_process_that_dies_is_told_and_the_worker_lives_on(worker: Recorder, tuning: Tuning, validated: Any) -> None:
    pid = worker.pid
    psutil.Process(child_of(worker)).send_signal(signal.SIGKILL)
    worker.until(lambda: validated.state != "waiting")
    error = worker.last()
    assert validated.state == "failed" and isinstance(error, DeviceError) and "SIGKILL" in error.message and error.cure
    assert not tuning.output.exists() and (tuning.folder / "run/best.safetensors").exists()
    assert worker.ask("load", tuning.common | {"options": {}})["result"]["name"] == "tiny" and worker.pid == pid


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no signals")
@pytest.mark.slow
def test_the_process_does_not_outlive_a_worker_that_dies(fresh: Callable[..., Recorder], tuning: Tuning) -> None:
    worker = fresh()
    call = worker.request("finetune", tuning.params(settings=ENDLESS))
    worker.until(lambda: any(kind == "train" for kind, _ in worker.events) or call.state != "waiting")
    child = child_of(worker)
    psutil.Process(worker.pid).send_signal(signal.SIGKILL)
    worker.until(lambda: call.state != "waiting" and not alive(child))
    assert call.state == "failed"


def test_errors_arrive_as_what_they_were(worker: Recorder, tuning: Tuning) -> None:
    labels = scan(2)[1]
    Volume(labels.array, Geometry(shape_zyx=labels.array.shape, spacing_xyz=(3.0,) * 3, origin_xyz=(5000.0, 0.0, 0.0))).write(
        tuning.cases[2]["mask"]
    )
    with pytest.raises(GeometryError, match="labels2.nrrd has the shape of its image but another"):
        worker.ask("finetune", tuning.params())
    with pytest.raises(InputError, match="no finetuning recipe 'best'"):
        worker.ask("finetune", tuning.params(recipe="best"))
    with pytest.raises(InputError, match="dreams is not known"):
        worker.ask("finetune", tuning.params(dreams=1))


# Without a worker


@pytest.mark.slow
def test_relative_paths_mean_what_they_meant_here(tuning: Tuning, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tuning.folder)
    cases = [{name: Path(path).name for name, path in case.items()} for case in tuning.cases[:1]]
    stages: list[str] = []
    result = finetune(
        tuning.params(cases=cases, output="here.safetensors", folder=None, epochs=1, labels=[2]),
        progress=lambda stage, fraction, eta_s, values=None: stages.append(stage),
    )
    assert (tuning.folder / "here.safetensors").is_file() and Path(result["output"]) == tuning.folder / "here.safetensors"
    assert any("there is no validation" in text for text in result["warnings"]) and result["best_dice"] is None
    assert {"prepare", "labels", "encode", "train"} == set(stages)
    assert not (tuning.folder / "run").exists()


def test_what_is_refused_before_a_process_is_started(tuning: Tuning) -> None:
    with pytest.raises(InputError, match="not a valid file name for weights"):
        finetune(Finetune(output="x.pth"))
    with pytest.raises(InputError, match="not a valid file name for weights"):
        finetune({})
    tuning.output.write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        finetune(tuning.params())
    assert tuning.output.read_text() == "precious"


def test_an_installation_without_training_says_so(tuning: Tuning, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mass_core.worker.finetuning._ROOT", tmp_path)
    with pytest.raises(DeviceError, match="cannot train"):
        finetune(tuning.params())
