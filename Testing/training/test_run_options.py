"""Runs of training from a file, with a seed, and their log on other people's boards."""

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from mass_core.errors import InputError
from mass_core.option_files import settings
from mass_core.schema import changed
from training.baselines.command import main as baselines
from training.classify import config as classify_config
from training.classify.loop import main as classify
from training.failures import answered
from training.finetune import recipes as finetune_recipes
from training.finetune.command import main as finetune
from training.pretrain import recipes as pretrain_recipes
from training.pretrain.loop import main as pretrain
from training.reproduce.command import main as reproduce
from training.runs.distributed import ProcessGroup
from training.runs.logbook import Logbook
from training.runs.tracking import boards

RUNS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "pretrain": (pretrain, ["--recipe", "smoke", "--data", "A=0.5", "B=0.5", "--set", "steps=7", "optim.learning_rate=2e-3"]),
    "classify": (classify, ["--recipe", "smoke", "--labels", "l.csv", "--images", "scans", "--full", "--set", "size_zyx=8,16,24"]),
    "finetune": (finetune, ["--recipe", "smoke", "--data", "A", "--shots", "5", "--draw", "1", "--set", "batch_size=3"]),
    "baselines": (baselines, ["--method", "simclr", "--recipe", "smoke", "--data", "A=0.5", "B=0.5", "--steps", "7"]),
    "reproduce": (reproduce, ["table1", "table2", "--data", "DATA", "--rows", "MASS (FT)", "--add", "evaluate=--cases 2", "--dry-run"]),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_printed_file_makes_the_same_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command, words = RUNS[name]
    assert command([*words, "--output", "RUN", "--seed", "5", "--print-config"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "run.json").write_text(text)
    assert command(["--config", str(tmp_path / "run.json"), "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(text)
    assert command(["--config", str(tmp_path / "run.json"), "--seed", "6", "--print-config"]) == 0
    values, other = json.loads(text), json.loads(capsys.readouterr().out)
    if name == "finetune":
        assert values["settings"] == ["batch_size=3", "seed=5"] and other["settings"][-1] == "seed=6"
    elif name == "reproduce":
        assert (values.pop("seed"), other.pop("seed")) == (5, 6) and values == other
    else:
        assert (values["set"].pop("seed"), other["set"].pop("seed")) == (5, 6) and values == other
    (tmp_path / "run.json").write_text('{"recip": "smoke"}')
    assert command(["--config", str(tmp_path / "run.json"), "--output", "RUN"]) == 2
    assert "Did you mean recipe?" in "".join(capsys.readouterr())


@pytest.mark.parametrize("room", [pretrain_recipes, classify_config], ids=["pretrain", "classify"])
def test_every_recipe_can_be_written_out_and_read_into_any_other(room: Any) -> None:
    for name in room.RECIPES:
        assert changed(room.named("smoke"), settings(room.named(name).as_json())) == room.named(name)


class Boards:
    """Stands in for the libraries of Weights & Biases and of MLflow; keeps what they hear."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, float, int]] = []
        self.begun: list[str | None] = []
        self.config: dict[str, Any] = {}
        self.ended = 0

    def modules(self) -> dict[str, ModuleType]:
        wandb, mlflow = ModuleType("wandb"), ModuleType("mlflow")
        wandb.init = self._init  # type: ignore[attr-defined]
        for name in ("start_run", "log_params", "log_metric", "end_run"):
            setattr(mlflow, name, getattr(self, name))
        return {"wandb": wandb, "mlflow": mlflow}

    def _init(self, *, dir: str, name: str, config: dict, id: str | None, resume: str, save_code: bool) -> Any:
        assert Path(dir).is_dir() and resume == "allow" and not save_code
        self.config |= config
        return SimpleNamespace(id=self._began(id), log=self._log, finish=self.end_run)

    def _log(self, values: dict[str, float], *, step: int) -> None:
        self.heard += [(name, value, step) for name, value in values.items()]

    def start_run(self, *, run_id: str | None, run_name: str | None) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id=self._began(run_id)))

    def log_params(self, params: dict[str, str]) -> None:
        self.config |= params

    def log_metric(self, name: str, value: float, *, step: int) -> None:
        self.heard.append((name, value, step))

    def end_run(self) -> None:
        self.ended += 1

    def _began(self, known: str | None) -> str:
        self.begun.append(known)
        return known or "run1"


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_trackers_hear_the_log_and_a_resumed_run_goes_on_there(tracker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Boards()
    for name, module in there.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    config = changed(finetune_recipes.named("smoke", 0), [f"tracker={tracker}"])
    for start in (0, 2):
        with Logbook(config, tmp_path, ProcessGroup(0, 1, torch.device("cpu")), start=start, steps=4, bar=False) as log:
            log.add(start + 1, loss=0.5)
            log.note(start + 2, val_dice=0.25)
    assert there.heard == [("loss", 0.5, 1), ("val_dice", 0.25, 2), ("loss", 0.5, 3), ("val_dice", 0.25, 4)]
    assert there.begun == [None, "run1"] and there.ended == 2
    assert str(there.config["seed"]) == str(config.seed)


@pytest.mark.parametrize(("tracker", "title"), [("wandb", "Weights & Biases"), ("mlflow", "MLflow")])
def test_a_missing_library_is_told(tracker: Any, title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, tracker, None)
    with pytest.raises(InputError, match=f"{title} is not installed") as caught:
        boards(tmp_path, 0, tensorboard=False, tracker=tracker, config={})
    assert f"tracker={tracker}" in caught.value.cure


@pytest.mark.parametrize(
    ("failure", "status", "told"),
    [
        (InputError("There is no run.", "Start one."), 2, "error: There is no run.\n       Start one.\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: The disk is full"),
        (RuntimeError("CUDA out of memory"), 2, "error: Not enough memory"),
        (KeyboardInterrupt(), 130, "Cancelled."),
    ],
)
def test_failures_are_told_as_mass_tells_them(failure: BaseException, status: int, told: str, capsys: pytest.CaptureFixture) -> None:
    def work() -> None:
        raise failure

    assert answered(work) == status and capsys.readouterr().err.startswith(told)


def test_defects_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        answered(lambda: (_ for _ in ()).throw(RuntimeError("shape")))
