"""What the worker computes, and what it keeps for the next request: the network, what was prepared and encoded, scans read lately."""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from ..cache import Recent
from ..config import Recipe, recipe, to_dict
from ..devices import Peak, choose_device
from ..errors import InputError, OutputError
from ..evaluation.quality import assess
from ..inference.adapt import Adapted, adapt
from ..inference.features import look
from ..inference.segmenter import Segmentation, Segmenter
from ..outputs import all_or_none, check_free, folders_ready, plan
from ..progress import Steps
from ..tasks.task import Task
from ..volumes.appearance import Appearance, read_appearance, write_labels
from ..volumes.components import bounding_box
from ..volumes.mask_files import How, read_masks
from ..volumes.read_cache import Scans, state_of
from ..volumes.volume import Geometry, Volume
from ..weights.checkpoint import Model, load_model
from ..weights.store import locate, may_have_classes
from ..worker.finetuning import finetune
from ..worker.protocol import Request
from ..worker.requests import Adapt, Assess, Encode, Features, Finetune, Learn, Load, Look, Order, Reference, Segment, read

_LABEL = ("value", "name", "color", "terminology", "kept")
"""What is told of a label, whatever was done with it."""

_TASK_BYTES = 1 << 29
"""Of tasks kept with their references made ready for alignment."""


class Job(Protocol):
    """A request as it is seen from here (`worker.server.Job`)."""

    request: Request

    def progress(self, stage: str, fraction: float, eta_s: float | None = None, values: Mapping[str, float] | None = None) -> None:
        """Tell how far a stage is, and how it fares."""

    def cancelled(self) -> bool:
        """Whether to stop."""

    def check(self) -> None:
        """Stop here with `Cancelled` if asked to."""

    def log(self, text: str) -> None:
        """A line for the record."""


class Service:
    """Answers the requests that need PyTorch. One network is kept, with the segmenter used last and the scans read last."""

    def __init__(self) -> None:
        self._scans = Scans()
        self._tasks: Recent[Task] = Recent(_TASK_BYTES)
        self._model: Model | None = None
        self._model_key = ""
        self._segmenter: Segmenter | None = None
        self._methods: dict[str, tuple[type[Load | Finetune], Callable[[Any, _Run], dict[str, Any]]]] = {
            "load": (Load, lambda order, run: _facts(self._ready(order, run))),
            "encode": (Encode, self._encode),
            "adapt": (Adapt, self._encode),
            "segment": (Segment, self._segment),
            "assess": (Assess, self._assess),
            "features": (Features, self._features),
            "finetune": (Finetune, self._finetune),
        }

    def answer(self, job: Job) -> dict[str, Any]:
        """Do what a job asks for.

        Returns:
            `result`, `timings`, `device` and `peak_memory` of the reply.

        Raises:
            MassError: if its params or files cannot be used.
            Cancelled: if it was cancelled.
        """
        kind, act = self._methods[job.request.method]
        order = read(kind, job.request.params)
        device = _numbered(choose_device(order.device))
        peak, run = Peak(device), _Run(job, device)
        result = act(order, run)
        timings = {stage: round(seconds, 3) for stage, seconds in run.seconds.items()}
        return {"result": result, "timings": timings, "device": str(device), "peak_memory": peak.measured()}

    def unload(self) -> None:
        """Forget everything and give its memory back."""
        self._scans = Scans()
        self._tasks = Recent(_TASK_BYTES)
        self._forget_model()

    def _encode(self, order: Encode, run: "_Run") -> dict[str, Any]:
        """References to a task file, fitted to them if that is asked for."""
        output = Path(order.output)
        if output.suffix != ".masstask":
            raise OutputError(f"{output} is no name for a task.", "End it with .masstask.")
        check_free([output], overwrite=order.overwrite, inputs=_inputs(order))
        _check_references(order)
        with folders_ready([output]):
            segmenter = self._segmenter_for(order, run, base=None)
            references, appearance = self._references(order, run)
            task = _learned(order, segmenter, references, appearance, run)
            told: dict[str, Any] = {}
            if isinstance(order, Adapt):
                fitted = _adapted(order, segmenter, references, task, run)
                task, told = fitted.task, fitted.facts()
            run.job.check()
            task.save(output, overwrite=order.overwrite)
            self._tasks.put(state_of(output), task, sum(atlas.size_bytes for atlas in task.atlases) + 1)
        facts = (*_LABEL, "spacing_zyx", "references", "parts")
        return {
            "output": str(output),
            "labels": [{name: getattr(label, name) for name in facts} for label in task.labels],
            "modality": task.modality,
            "warnings": task.warnings,
            "reused": run.reused,
            **told,
        }

    def _segment(self, order: Segment, run: "_Run") -> dict[str, Any]:
        """A target, and what says what to segment, to a label map."""
        _check_what(order)
        (files,) = plan([Path(order.target)], Path(order.output), None, None)
        check_free([files.output], overwrite=order.overwrite, inputs=_inputs(order))
        with folders_ready([files.output]):
            segmenter, task = self._told(order, run)
            maps = {label.value: files.probability(label.value) for label in task.labels} if order.probabilities else {}
            check_free(maps.values(), overwrite=order.overwrite, inputs=_inputs(order))
            with run.stage("read"):
                target = self._scans.read(files.target, order.frame)
            found = _found(segmenter, target, task, order, run)
            worth = self._judged(order, run, segmenter, task, target, found.labels) if order.assess else {}
            with run.stage("write"):
                _write(_placed(found.labels, order), found.probabilities or {}, files.output, maps, task, run)
        facts = {label.value: {name: getattr(label, name) for name in _LABEL} for label in task.labels}
        return {
            "output": str(files.output),
            "labels": [
                {**facts[value], "ml": found.volumes_ml[value], "decision": asdict(found.decisions[value]), **worth.get(value, {})}
                for value in facts
            ],
            "probabilities": {str(value): str(path) for value, path in maps.items()},
            "modality": found.modality,
            "warnings": found.warnings,
            "reused": run.reused,
        }

    def _finetune(self, order: Finetune, run: "_Run") -> dict[str, Any]:
        """Labelled scans to weights of fixed classes; the process that trains gets the memory."""
        self.unload()
        return finetune(order, progress=run.job.progress, cancelled=run.job.cancelled, log=run.job.log)

    def _assess(self, order: Assess, run: "_Run") -> dict[str, Any]:
        """A result that is there to what it is worth."""
        _check_what(order)
        _check_files([order.target, order.result])
        segmenter, task = self._told(order, run)
        with run.stage("read"):
            target, found = self._scans.read(Path(order.target), order.frame), self._scans.read(Path(order.result))
        worth = self._judged(order, run, segmenter, task, target, found)
        return {"labels": [{"value": label.value, "name": label.name, **worth[label.value]} for label in task.labels]}

    def _judged(
        self, order: Order, run: "_Run", segmenter: Segmenter, task: Task, target: Volume, found: Volume
    ) -> dict[int, dict[str, Any]]:
        """The quality of every label of a scan and its label map, as it is told."""
        references, _ = self._references(order, run)
        with run.stage("assess"):
            known = assess(segmenter, task, target, found, references, progress=run.job.progress, cancelled=run.job.cancelled)
        return {value: {"quality": quality.told()} for value, quality in known.items()}

    def _told(self, order: Order, run: "_Run") -> tuple[Segmenter, Task]:
        """With what to look for what."""
        fixed = order.task is None and not order.references
        task = self._fixed(order, run) if fixed else None if order.task is None else self._task(order.task)
        segmenter = self._segmenter_for(order, run, base=None if task is None else task.recipe)
        if task is None:
            task = _learned(order, segmenter, *self._references(order, run), run)
        elif order.labels:
            task = task.only(order.labels)
        task.require(segmenter.model.fingerprint, segmenter.model.name)
        return segmenter, task

    def _task(self, path: str) -> Task:
        """A task file; one written by this worker lately comes with its references made ready for alignment, which files do not hold."""
        return self._tasks.get(state_of(Path(path))) or Task.load(path)

    def _fixed(self, order: Load, run: "_Run") -> Task:
        """What the weights segment without references."""
        task = self._ready(order, run).task
        if task is None:
            raise _said_otherwise()
        return task

    def _features(self, order: Features, run: "_Run") -> dict[str, Any]:
        """A target to a colour volume of what the network sees in it."""
        (files,) = plan([Path(order.target)], Path(order.output), None, None)
        check_free([files.output], overwrite=order.overwrite, inputs=_inputs(order))
        with folders_ready([files.output]):
            segmenter = self._segmenter_for(order, run, base=None)
            with run.stage("read"):
                target = self._scans.read(files.target, order.frame)
            steps = Steps(run.job.progress, run.job.cancelled)
            painting = look(segmenter, target, steps)
            run.seconds.update(steps.seconds)
            with run.stage("write"), all_or_none([files.output]) as place:
                painting.write(place[files.output])
                run.job.check()
        return {"output": str(files.output), "explained": painting.explained, "warnings": painting.warnings}

    def _ready(self, order: Load, run: "_Run") -> Model:
        """The network asked for, read only if it is not the one at hand."""
        path = locate(order.weights)
        key = f"{state_of(path)}{order.averaged}{run.device}"
        run.reused["model"] = self._model is not None and key == self._model_key
        if self._model is None or key != self._model_key:
            self._forget_model()  # first, for two networks may not fit side by side
            with run.stage("load"):
                self._model = load_model(order.weights, str(run.device), ema=order.averaged)
            self._model_key = key
            run.job.log(f"Loaded the weights {self._model.name} onto {run.device} in {run.seconds['load']:.1f} s.")
        return self._model

    def _forget_model(self) -> None:
        self._model, self._model_key, self._segmenter = None, "", None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _segmenter_for(self, order: Learn | Features, run: "_Run", *, base: Recipe | None) -> Segmenter:
        """The segmenter of the order's recipe; it goes on with what the latest one keeps where that fits.

        Args:
            order: names weights, recipe, options and precision.
            run: of the order.
            base: what the recipe starts from; None: what the weights record.
        """
        model, kept = self._ready(order, run), self._segmenter
        wanted = order.changed(recipe(order.recipe, base or model.recipe))
        if kept is None or kept.model is not model or kept.precision != order.precision:
            self._segmenter = Segmenter(model, wanted, precision=order.precision)
        elif kept.recipe != wanted:
            self._segmenter = kept.with_recipe(wanted)
        assert self._segmenter is not None
        return self._segmenter

    def _references(self, order: Learn, run: "_Run") -> tuple[list[tuple[Volume, Volume]], dict[int, Appearance]]:
        """The order's references, and how their labels are called and shown."""
        references: list[tuple[Volume, Volume]] = []
        appearance: dict[int, Appearance] = {}
        with run.stage("read"):
            for number, reference in enumerate(order.references):
                run.job.check()
                run.job.progress("read", number / len(order.references))
                mask = Path(reference.mask)
                image = self._scans.read(Path(reference.image), reference.frame)
                references += [(image, layer) for layer in read_masks(mask, image, _how(reference), self._scans.read)]
                appearance = {**read_appearance(mask), **appearance}
        return references, appearance | {_value(text): _appearance(look) for text, look in order.appearance.items()}


class _Run:
    """One order: how long its stages take, and what it needed not do again."""

    def __init__(self, job: Job, device: torch.device) -> None:
        self.job = job
        self.device = device
        self.seconds: dict[str, float] = {}
        self.reused: dict[str, bool | int] = {"model": False, "labels": 0}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage: tells its beginning, can be cancelled there, counts its time."""
        self.job.check()
        self.job.progress(name, 0.0)
        began = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


def _learned(
    order: Learn, segmenter: Segmenter, references: Sequence[tuple[Volume, Volume]], appearance: Mapping[int, Appearance], run: _Run
) -> Task:
    """The task of the order's references."""
    before = segmenter.encodings
    with run.stage("encode"):
        task = segmenter.encode(references, order.labels, appearance=appearance, progress=run.job.progress, cancelled=run.job.cancelled)
    run.reused["labels"] = sum(label.references for label in task.labels) - (segmenter.encodings - before)
    return task


def _adapted(order: Adapt, segmenter: Segmenter, references: Sequence[tuple[Volume, Volume]], task: Task, run: _Run) -> Adapted:
    """The task fitted to the order's references."""
    with run.stage("adapt"):
        return adapt(segmenter, references, task, seconds=order.seconds, progress=run.job.progress, cancelled=run.job.cancelled)


def _found(segmenter: Segmenter, target: Volume, task: Task, order: Segment, run: _Run) -> Segmentation:
    """What the network finds in the target."""
    before = segmenter.preparations
    found = segmenter.segment(target, task, progress=run.job.progress, cancelled=run.job.cancelled, probabilities=order.probabilities)
    run.seconds.update(found.timings)
    run.reused["target"] = segmenter.preparations == before
    return found


def _placed(labels: Volume, order: Segment) -> Volume:
    """A result as much of it, and where, as the order wants it."""
    if order.grid is not None:
        labels = Volume(labels.array, Geometry(shape_zyx=labels.geometry.shape_zyx, **vars(order.grid)))
    if order.crop:
        labels = labels.cropped(bounding_box(labels.array > 0) or ((0, 0, 0), (1, 1, 1)))
    return labels


def _write(labels: Volume, probabilities: Mapping[int, Volume], output: Path, maps: dict[int, Path], task: Task, run: _Run) -> None:
    """All files of an order, or none."""
    with all_or_none([*maps.values(), output]) as place:
        for value, volume in probabilities.items():
            volume.write(place[maps[value]])
        write_labels(labels, task.looks, place[output])
        run.job.check()  # the last moment at which nothing has been left behind


def _check_what(order: Order) -> None:
    """Refuse to begin if nothing says what to look for, or two things do."""
    fixed = order.task is None and not order.references and may_have_classes(locate(order.weights))
    if (order.task is not None) + bool(order.references) + fixed != 1:
        raise _said_otherwise()
    if order.references:
        _check_references(order)


def _check_references(order: Learn) -> None:
    """Refuse to begin without the files of the references."""
    if not order.references:
        raise InputError("No reference is given.", "Give at least one image with its mask.")
    _check_files([path for reference in order.references for path in (reference.image, reference.mask)])


def _inputs(order: Load) -> list[str]:
    """What an order reads, which is never written over."""
    pairs = [path for reference in getattr(order, "references", []) for path in (reference.image, reference.mask)]
    return [order.weights, *pairs, *filter(None, [getattr(order, "target", None), getattr(order, "task", None)])]


def _check_files(paths: Iterable[str]) -> None:
    for path in paths:
        if not Path(path).exists():
            raise InputError(f"There is no file {path}.", "Check the spelling and the folder.")


def _said_otherwise() -> InputError:
    return InputError("What to segment must be said once.", "Give either references or a task; finetuned weights know it themselves.")


def _how(reference: Reference) -> How:
    """What to make of the mask of a reference."""
    return How(frame=reference.frame, labels=reference.labels, same_grid=reference.same_grid, threshold=reference.threshold)


def _value(text: str) -> int:
    """A label's number, which as the name of a JSON field is text."""
    if not text.isdecimal():
        raise InputError(f"The appearance is given for {text!r}.", 'Give it by the label\'s number, for instance {"1": …}.')
    return int(text)


def _appearance(look: Look) -> Appearance:
    return Appearance(name=look.name, color=look.color, terminology=look.terminology)


def _numbered(device: torch.device) -> torch.device:
    """The same device under one name: cuda is cuda:0."""
    return torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" and device.index is None else device


def _facts(model: Model) -> dict[str, Any]:
    """What there is to know about a network."""
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "recipe": to_dict(model.recipe),
        "licence": model.licence,
        "device": str(model.device),
        "classes": [] if model.task is None else [{"value": x.value, "name": x.name, "color": x.color} for x in model.task.labels],
    }
