"""Further places for the log of a run: TensorBoard, Weights & Biases, MLflow. Numbers and settings only, no scan and no name of one."""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from mass_core.errors import InputError
from mass_core.files import write_json

Tracker = Literal["none", "wandb", "mlflow"]
_RECORD = "tracking.json"
"""In the run's folder: the tracker's name for the run, so that a resumed run continues there."""


class Board(Protocol):
    """Something that shows curves; TensorBoard's writer is one."""

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """A point of a curve."""

    def close(self) -> None:
        """The run is over."""


def boards(folder: Path, start: int, *, tensorboard: bool, tracker: Tracker, config: Mapping[str, Any]) -> list[Board]:
    """The boards a run writes to.

    Args:
        folder: of the run.
        start: step from which it continues; 0: it is new.
        tensorboard: write for TensorBoard.
        tracker: write for this one, too.
        config: of the run, shown with its curves.

    Raises:
        InputError: if a library is missing.
    """
    found: list[Board] = [_tensorboard(folder, start)] if tensorboard else []
    if tracker == "wandb":
        found.append(_WeightsAndBiases(folder, start, config))
    if tracker == "mlflow":
        found.append(_MLflow(folder, start, config))
    return found


class _WeightsAndBiases:
    """Server, key and mode come from its own settings: `wandb login`, WANDB_PROJECT, WANDB_MODE=offline."""

    def __init__(self, folder: Path, start: int, config: Mapping[str, Any]) -> None:
        wandb = _library("wandb", "Weights & Biases", "Run pip install wandb, or leave out tracker=wandb.")
        self._run = wandb.init(
            dir=str(folder), name=folder.name, config=dict(config), id=_known(folder, start, "wandb"), resume="allow", save_code=False
        )
        write_json(folder / _RECORD, {"wandb": self._run.id})

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._run.log({name: value}, step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """The server is MLFLOW_TRACKING_URI; without it, MLflow's own folder or file where the run was started."""

    def __init__(self, folder: Path, start: int, config: Mapping[str, Any]) -> None:
        self._mlflow = _library("mlflow", "MLflow", "Run pip install mlflow, or leave out tracker=mlflow.")
        known = _known(folder, start, "mlflow")
        run = self._mlflow.start_run(run_id=known, run_name=None if known else folder.name)
        if known is None:
            self._mlflow.log_params(_flat(config))
        write_json(folder / _RECORD, {"mlflow": run.info.run_id})

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self._mlflow.log_metric(name, value, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


def _tensorboard(folder: Path, start: int) -> Board:
    """A writer that takes back what was logged beyond the step a run resumes from."""
    library = _library("torch.utils.tensorboard", "TensorBoard", "Install tensorboard, or set tensorboard=false.")
    writer: Board = library.SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
    return writer


def _library(name: str, title: str, cure: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"{title} is not installed.", cure) from error


def _known(folder: Path, start: int, tracker: Tracker) -> str | None:
    """The tracker's name of a resumed run; None: it is new there."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8")) if start else {}
    except (OSError, ValueError):
        return None
    return record.get(tracker)


def _flat(values: Mapping[str, Any], section: str = "") -> dict[str, str]:
    """Settings by dotted name, as text."""
    found: dict[str, str] = {}
    for name, value in values.items():
        found |= _flat(value, f"{section}{name}.") if isinstance(value, Mapping) else {f"{section}{name}": str(value)}
    return found
