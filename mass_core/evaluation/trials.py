"""Preparation of the trials of an evaluation: a task or a finetuned network for every method and draw of references, kept in a folder.

A trial that has a record is complete, because the record is written last, and is not prepared again.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..data.dataset import Dataset
from ..encoding.task import Task
from ..errors import DeviceError, InputError
from ..files import write_bytes
from ..inference.adapt import adapt
from ..inference.segmenter import Segmenter
from ..progress import Report
from ..volumes.resample import resample
from ..volumes.volume import Geometry, Volume
from ..weights.checkpoint import Model, load_model
from ..worker.finetuning import finetune
from ..worker.requests import Finetune
from .scoring import Trial, scan, segmenter_for

_ALIGN = {"aligned": "only", "in-context": "off", "default": None, "adapted": "off"}
"""Of the methods that segment after references; None: as the recipe says."""
_KEPT = ("in-context", "adapted")
"""Methods whose tasks hold all they need, so that they can be kept as files."""


@dataclass(frozen=True, eq=False)
class Found:
    """A label map [z, y, x] on the grid of the scan, and sentences about each label."""

    array: NDArray[Any]
    warnings: Mapping[int, Sequence[str]] = field(default_factory=dict)


Ready = Callable[[Volume], Found]
"""From a scan to what is found in it."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Settings common to all trials of an evaluation."""

    dataset: Dataset
    labels: tuple[int, ...]
    weights: str
    """File or name, for the process that finetunes."""
    model: Model
    segmenter: Callable[[Model], Segmenter]
    """With the recipe and precision requested."""
    seed: int
    seconds: float
    """To adapt a task."""
    epochs: int | None
    recipe: str | None
    """Of finetuning."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    settings: tuple[str, ...] = ()
    """That change the recipe, each `section.field=value`."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Record of how a trial was prepared."""

    scans: tuple[str, ...]
    seconds: float


class Trials:
    """Prepares trials.

    Args:
        conditions: what they have in common.
        folder: where tasks, networks and records are kept.
        progress: called while a trial is prepared.
    """

    def __init__(self, conditions: Conditions, folder: Path, progress: Report | None = None) -> None:
        self._conditions = conditions
        self._folder = folder
        self._progress = progress
        plain = segmenter_for(conditions.segmenter(conditions.model), conditions.dataset)
        self._segmenters = {method: plain.with_recipe(plain.recipe.changed(align=align)) for method, align in _ALIGN.items()}

    def ready(self, trial: Trial, scans: Sequence[str]) -> Ready:
        """The function that segments scans in a trial, prepared from some training scans if it is not there yet.

        Raises:
            MassError: if the scans cannot be used, or training fails or is stopped.
        """
        if self.record(trial) is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            began = time.monotonic()
            if trial.method in _KEPT:
                self._learned(trial, scans).save(self._file(trial), overwrite=True)
            elif trial.method in ("finetuned", "scratch"):
                self._trained(trial, scans)
            record = Record(scans=tuple(scans), seconds=round(time.monotonic() - began, 3))
            write_bytes(self._record(trial), json.dumps(asdict(record)).encode())
        return self._made(trial, scans)

    def record(self, trial: Trial) -> Record | None:
        """The record of a trial; None: it was not prepared yet.

        Raises:
            InputError: if the record is damaged.
        """
        path = self._record(trial)
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return Record(scans=tuple(values["scans"]), seconds=float(values["seconds"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged: {error}.", "Delete it, or start again with --overwrite.") from error

    def _made(self, trial: Trial, scans: Sequence[str]) -> Ready:
        """The segmenting function of a trial, from stored files or from the references themselves."""
        if trial.method == "copied":
            masks = [self._reference(name)[1] for name in scans]
            return lambda target: Found(copied(masks, self._conditions.labels, target.geometry))
        if trial.method in ("finetuned", "scratch"):
            model = load_model(self._file(trial), str(self._conditions.model.device), use=self._conditions.model.use)
            assert model.task is not None  # finetuning writes no others
            segmenter, task = segmenter_for(self._conditions.segmenter(model), self._conditions.dataset), model.task
        else:
            segmenter = self._segmenters[trial.method]
            task = Task.load(self._file(trial)) if trial.method in _KEPT else self._learned(trial, scans)
        return lambda target: _found(segmenter, target, task)

    def _reference(self, name: str) -> tuple[Volume, Volume]:
        return scan(self._conditions.dataset, name)

    def _learned(self, trial: Trial, scans: Sequence[str]) -> Task:
        """The task of the references, fitted to them if that is the method."""
        references, segmenter = [self._reference(name) for name in scans], self._segmenters[trial.method]
        task = segmenter.encode(references, self._conditions.labels, progress=self._progress)
        if trial.method != "adapted":
            return task
        seconds, seed = self._conditions.seconds, self._conditions.seed + trial.draw
        return adapt(segmenter, references, task, seconds=seconds, seed=seed, progress=self._progress).task

    def _trained(self, trial: Trial, scans: Sequence[str]) -> None:
        """A network of the trial's own, in a process of its own."""
        conditions = self._conditions
        request = Finetune(
            weights=conditions.weights,
            device=str(conditions.model.device),
            precision=conditions.precision,
            dataset=str(conditions.dataset.folder),
            train_cases=list(scans),
            labels=list(conditions.labels),
            scratch=trial.method == "scratch",
            recipe=conditions.recipe,
            settings=[*conditions.settings, f"seed={conditions.seed + trial.draw}"],
            epochs=conditions.epochs,
            output=str(self._file(trial)),
            overwrite=True,
        )
        if finetune(request, progress=self._report)["stopped"] == "cancelled":
            # By a signal to the process that trained: what it kept till then is no result of the recipe.
            self._file(trial).unlink(missing_ok=True)
            raise DeviceError(f"The training of {_name(trial)} was terminated.", "Repeat the command: it trains this network again.")

    def _report(self, stage: str, fraction: float, eta_s: float | None, values: Any = None) -> None:
        if self._progress is not None:
            self._progress(stage, fraction, eta_s)

    def _file(self, trial: Trial) -> Path:
        ending = "masstask" if trial.method in _KEPT else "safetensors"
        return self._folder / f"{_name(trial)}.{ending}"

    def _record(self, trial: Trial) -> Path:
        return self._folder / f"{_name(trial)}.json"


def _found(segmenter: Segmenter, target: Volume, task: Task) -> Found:
    """Segment a scan by a task."""
    result = segmenter.segment(target, task)
    return Found(result.labels.array, {label.value: task.about(label.value, result.warnings) for label in task.labels})


def copied(masks: Sequence[Volume], labels: Sequence[int], target: Geometry) -> NDArray[Any]:
    """Label map of the references' masks laid on a target, the centres of the images on each other.

    Args:
        masks: of the references; a voxel belongs to the label most of them give it, if half of them do.
        labels: that count.
        target: the grid to lay them on.
    """
    votes = np.zeros((1 + len(labels), *target.shape_zyx), np.float32)
    for mask in masks:
        away = np.mean(target.box_mm, axis=0) - np.mean(mask.geometry.box_mm, axis=0)
        x, y, z = (float(value) for value in np.asarray(mask.geometry.origin_xyz) + away)
        moved = resample(Volume(mask.array, replace(mask.geometry, origin_xyz=(x, y, z))), target, "nearest").array
        for place, label in enumerate(labels, 1):
            votes[place] += moved == label
    votes[0] = len(masks) / 2 - 0.25
    return np.array([0, *labels])[votes.argmax(0)]


def _name(trial: Trial) -> str:
    return f"{trial.method}_{trial.shots}shot_draw{trial.draw}"
