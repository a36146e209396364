"""State shared by successive requests: the network, what was prepared and encoded, and recently read scans."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..cache import LruCache
from ..colors import LabelStyle
from ..config import Recipe, Triple
from ..devices import DeviceUse
from ..encoding.task import Task
from ..errors import Cancelled, InputError
from ..inference.features import Basis
from ..inference.segmenter import Segmenter
from ..volumes.appearance import read_appearance
from ..volumes.mask_files import How, read_masks
from ..volumes.read_cache import Scans, state_of
from ..volumes.volume import Volume
from ..weights.checkpoint import Model, load_model
from ..weights.store import locate
from ..worker.requests import Features, Load, ReferenceRequest, TargetRequest
from .checks import ambiguous_task_source

_SCAN_BYTES = 1 << 30
"""Of scans kept for the next request."""
_TASK_BYTES = 1 << 29
"""Of tasks kept with their references made ready for alignment."""


class Run:
    """One request under way: reports progress, can be cancelled, measures its stages.

    Args:
        device: to compute on.
        progress: receives the stage, its fraction done from 0 to 1, and the seconds left or None.
        cancelled: asked between steps; true stops.
        log: gets lines for the record.
        stages: also report the beginning of stages without steps of their own: load, read, write.
    """

    def __init__(
        self,
        device: torch.device,
        progress: Callable[[str, float, float | None], None],
        cancelled: Callable[[], bool] | None = None,
        log: Callable[[str], None] | None = None,
        *,
        stages: bool = True,
    ) -> None:
        self.device = device
        self.callbacks: dict[str, Any] = {"progress": progress, "cancelled": cancelled}
        """Arguments of the library's functions for reports and stopping."""
        self.log = log or (lambda text: None)
        self._begins = progress if stages else (lambda stage, fraction, eta_s: None)
        self.seconds: dict[str, float] = {}
        """Wall time of every stage so far."""
        self.reused: dict[str, bool | int] = {"model": False, "labels": 0}
        """Parts kept from earlier requests."""

    def at(self, stage: str, done: float) -> None:
        """Report how much of a stage is done, and stop here if asked to.

        Raises:
            Cancelled: if so.
        """
        self.check()
        self._begins(stage, done, None)

    def check(self) -> None:
        """Stop here if asked to.

        Raises:
            Cancelled: if so.
        """
        cancelled = self.callbacks["cancelled"]
        if cancelled is not None and cancelled():
            raise Cancelled

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Report the beginning of a stage, stop there if asked to, measure its time."""
        self.at(name, 0.0)
        began = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


@dataclass(frozen=True, kw_only=True, eq=False)
class Colours:
    """Feature colours of several scans, kept for the next of them."""

    key: str
    """Changes with the network, how it computes, and the files."""
    spacing_zyx: Triple
    """Working voxel size, for the first one."""
    basis: Basis


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Segmenter and task for the targets of a request."""

    segmenter: Segmenter
    task: Task
    references: list[tuple[Volume, Volume]]
    """With the numbers of the result; none where a task says what to segment."""
    mask_values: dict[int, int]
    """For each number in the result the value in the reference mask, which names the file of probabilities."""

    def renumbered(self, value: int) -> "Tools":
        """The same with another number for the single label.

        Raises:
            InputError: as `Task.renumbered`.
        """
        task = self.task.renumbered(value)
        before = self.task.labels[0].value
        references = [(image, Volume((mask.array == before).astype(np.uint16) * value, mask.geometry)) for image, mask in self.references]
        return replace(self, task=task, references=references, mask_values={value: before})


class Session:
    """Keeps one network with the segmenter used last, and the scans and tasks read last.

    Args:
        scan_bytes: most memory of scans kept; 0: none is.
    """

    def __init__(self, scan_bytes: int = _SCAN_BYTES) -> None:
        self._scan_bytes = scan_bytes
        self.scans = Scans(scan_bytes)
        self._tasks: LruCache[Task] = LruCache(_TASK_BYTES)
        self.colours: Colours | None = None
        """Of the scans that shared theirs last."""
        self._model: Model | None = None
        self._model_key = ""
        self._segmenter: Segmenter | None = None

    def release(self) -> None:
        """Release everything that is kept, and its memory."""
        self.scans, self._tasks, self.colours = Scans(self._scan_bytes), LruCache(_TASK_BYTES), None
        self._release_model()

    def model(self, request: Load, run: Run) -> Model:
        """The network of a request, read only if it is not the one at hand."""
        path = locate(request.weights)
        key, use = f"{state_of(path)}{request.averaged}{run.device}{request.without}", DeviceUse.without(request.without)
        run.reused["model"] = self._model is not None and key == self._model_key
        if self._model is None or key != self._model_key:
            self._release_model()  # first, for two networks may not fit side by side
            with run.stage("load"):
                self._model = load_model(request.weights, str(run.device), ema=request.averaged, use=use)
            self._model_key = key
            run.log(f"Loaded the weights {self._model.name} onto {run.device} in {run.seconds['load']:.1f} s.")
        return self._model

    def _release_model(self) -> None:
        if self._model is None:
            return  # collecting takes as long as loading small weights
        self._model, self._model_key, self._segmenter = None, "", None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def segmenter(self, request: ReferenceRequest | Features, run: Run, base: Recipe | None = None) -> Segmenter:
        """The segmenter of a request's recipe; it takes over the caches of the latest one where they fit.

        Args:
            request: names weights, recipe, options and precision, and says whether to compile.
            run: of the request.
            base: what the recipe starts from; None: what the weights record.
        """
        model, kept = self.model(request, run), self._segmenter
        wanted = request.changed(base or model.recipe)
        if kept is None or kept.model is not model or (kept.precision, kept.compile) != (request.precision, request.compile):
            kept = Segmenter(model, wanted, precision=request.precision, compile=request.compile)
        elif kept.recipe != wanted:
            kept = kept.with_recipe(wanted)
        self._segmenter = kept
        return kept

    def tools(self, request: TargetRequest, run: Run) -> Tools:
        """Segmenter and task from a request's references, its task file, or the fixed classes of its weights.

        Raises:
            MassError: if references, task or weights cannot be used.
        """
        path = None if request.task is None else Path(request.task)
        task = None if path is None else self._tasks.get(state_of(path)) or Task.load(path)
        if task is None and not request.references:
            task = self.model(request, run).task
            if task is None:
                raise ambiguous_task_source()
        segmenter = self.segmenter(request, run, base=None if task is None else task.recipe)
        references, appearance = self.references(request, run) if request.references else ([], {})
        if task is None:
            task = self.encode(request, run, segmenter, references, appearance)
        elif request.labels:
            task = task.only(request.labels)
        task.require(segmenter.model.fingerprint, segmenter.model.name)
        return Tools(segmenter=segmenter, task=task, references=references, mask_values={label.value: label.value for label in task.labels})

    def references(self, request: ReferenceRequest, run: Run) -> tuple[list[tuple[Volume, Volume]], dict[int, LabelStyle]]:
        """The references of a request, and the names and colours of their labels."""
        references: list[tuple[Volume, Volume]] = []
        appearance: dict[int, LabelStyle] = {}
        with run.stage("read"):
            for number, reference in enumerate(request.references):
                run.at("read", number / len(request.references))
                mask = Path(reference.mask)
                image = self.scans.read(Path(reference.image), reference.frame)
                how = How(frame=reference.frame, labels=reference.labels, same_grid=reference.same_grid, threshold=reference.threshold)
                references += [(image, layer) for layer in read_masks(mask, image, how, self.scans.read)]
                appearance = {**read_appearance(mask), **appearance}
        named = {_value(text): style for text, style in request.appearance.items()}
        return references, appearance | named

    def encode(
        self,
        request: ReferenceRequest,
        run: Run,
        segmenter: Segmenter,
        references: list[tuple[Volume, Volume]],
        appearance: dict[int, LabelStyle],
    ) -> Task:
        """Encode references into a task."""
        before = segmenter.encodings
        with run.stage("encode"):
            task = segmenter.encode(references, request.labels, appearance=appearance, **run.callbacks)
        run.reused["labels"] = sum(label.references for label in task.labels) - (segmenter.encodings - before)
        return task

    def keep(self, task: Task, path: Path) -> None:
        """Keep a task just written: its references made ready for alignment are not in the file."""
        self._tasks.put(state_of(path), task, sum(atlas.size_bytes for atlas in task.atlases) + 1)


def label_facts(task: Task, *facts: str) -> list[dict[str, Any]]:
    """These facts about the labels of a task, as JSON values."""
    return [{name: getattr(label, name) for name in facts} for label in task.labels]


def _value(text: str) -> int:
    """A label's number, which as the name of a JSON field is text."""
    if not text.isdecimal():
        raise InputError(f"The appearance is given for {text!r}.", 'Give it by the label\'s number, for instance {"1": …}.')
    return int(text)
