"""A finetuning run: annotated scans are written to files one after the other, and the worker trains a model on them.

It works without a window: progress is reported by callbacks. Once the files are written, the scene is not needed any more.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from mass_core.errors import HostError, InputError, MassError, OutputError
from mass_core.remote.reasons import ENOUGH
from mass_core.worker.client import Client

from ..library import models, named_files
from ..scene import exchange as scene
from . import annotated
from .annotated import Annotated
from .order import Reference
from .reference_files import appearance_of
from .worker_run import WorkerRun

_RUN = "run"
"""Subfolder of the worker's run."""
_PASSED_ON = ("weights", "device", "precision", "recipe", "epochs", "minutes")
"""Fields of the order that the worker gets as they are."""
_BEST = "best.safetensors"
"""In it: the best model so far."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Request of a finetuning run."""

    cases: tuple[Annotated, ...]
    classes: tuple[str, ...]
    """Names of the structures to learn."""
    name: str
    """Of the model."""
    weights: str = "small"
    """Weights to start from."""
    device: str = "auto"
    precision: str = "auto"
    epochs: int | None = None
    """None: as many as the recipe has."""
    minutes: float | None = None
    """None: as long as it takes."""
    recipe: str | None = None
    """None: the one that suits the weights."""


@dataclass(frozen=True, kw_only=True)
class FinetuneProgress:
    """Progress of a finetuning run."""

    stage: str
    """write (files, by Slicer); prepare, labels, encode, train, validate (by the worker); send, receive (with another computer)."""
    fraction: float
    eta_s: float | None = None
    """Seconds to the end of the training; None: not known yet."""
    spent_s: float = 0.0
    """Seconds since the training began."""
    values: dict[str, float] = field(default_factory=dict)
    """epoch, step and loss; after a validation val_dice and dice_<value>."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of a finetuning run."""

    error: MassError | None = None
    """Error that ended it early, if any."""
    result: dict[str, Any] | None = None
    """The worker's result; None if it ended without one."""
    model: str = ""
    """Name of the model that is there now; empty: none."""


class Finetuning(WorkerRun):
    """One press of Start.

    Args:
        client: to the worker.
        order: what for.
        log: gets a line for the record.
        progressed: called with `FinetuneProgress`.
        finished: called once.
    """

    def __init__(
        self,
        client: Client,
        order: Order,
        *,
        log: Callable[[str], None] = lambda text: None,
        progressed: Callable[[FinetuneProgress], None] = lambda progress: None,
        finished: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        super().__init__(client, log)
        self.order = order
        self.stopping = False
        """True after `stop`, while the best model is being written."""
        self.numbers: dict[str, int] = {}
        """Of the classes."""
        self.warnings: list[str] = []
        self._progressed, self._finished = progressed, finished
        self._broken = 0
        self._cases: list[Annotated] = []
        self._files: list[dict[str, Any]] = []
        self._pieces = self._written()
        self._folder: Path | None = None
        self._output: Path | None = None
        self._began: float | None = None

    @property
    def needs_scene(self) -> bool:
        """True while files are still being written."""
        return self.active and self._call is None

    def start(self) -> None:
        """Begin; returns at once.

        Raises:
            MassError: if something is missing or does not fit; nothing has begun then.
        """
        wanted = set(self.order.classes)
        if not wanted:
            raise InputError(_("No structure is chosen."), _("Tick at least one structure to segment."))
        self._cases = [case for case in self.order.cases if wanted & set(case.styles)]
        if not self._cases:
            raise InputError(_("No annotated scan is chosen."), _("Tick scans with a segmentation, or add a folder."))
        self.numbers = annotated.numbers(self._cases, self.order.classes)
        self._output = models.free(self.order.name)
        self._folder = Path(tempfile.mkdtemp(prefix="mass-finetune-", dir=slicer.app.temporaryPath or None))
        self.active = True
        qt.QTimer.singleShot(0, self._write_next)

    def stop(self) -> None:
        """Stop the run; the best model so far is kept. `finished` is called once it is written."""
        if not self.active or self._call is None:
            self.cancel()
        elif not self.stopping:
            self.stopping = True
            self._call.cancel()

    def _write_next(self) -> None:
        """Write the next piece of the files: a segment, a label map or a scan. Slicer handles its events in between."""
        if not self.active:
            return
        try:
            next(self._pieces)
        except StopIteration:
            qt.QTimer.singleShot(0, self._send)
        except MassError as error:
            self._end(error)
        else:
            qt.QTimer.singleShot(0, self._write_next)

    def _written(self) -> Generator[None, None, None]:
        """Write the files of all cases, with a pause after each piece; one case is in memory at a time."""
        for done, case in enumerate(self._cases):
            self._progressed(FinetuneProgress(stage="write", fraction=done / len(self._cases)))
            try:
                self._files.append((yield from self._case_written(case)))
            except MassError as error:
                raise type(error)(f"{case.name}: {error.message}", error.cure) from error

    def _case_written(self, case: Annotated) -> Generator[None, None, dict[str, Any]]:
        """Write a case and return its parameters for the worker."""
        numbers = {name: self.numbers[name] for name in case.styles if name in self.numbers}
        image, mask = case.image, case.mask
        if case.reference is not None:
            image = self._folder / f"case{len(self._files) + 1}.nrrd"
            mask = image.with_name(f"{image.stem}_labels.nrrd")
            yield from _unchanged(case.reference, self._nodes_written(case.reference, numbers, image, mask))
        return {"image": str(image), "mask": str(mask), "labels": sorted(numbers.values())}

    def _nodes_written(self, reference: Reference, numbers: dict[str, int], image: Path, mask: Path) -> Generator[None, None, None]:
        """Write a scan of the scene and its segments."""
        styles = scene.label_styles(reference.segmentation, reference.chosen())
        values = {segment_id: numbers[style.name] for segment_id, style in styles.items() if style.name in numbers}
        self.warnings += yield from scene.write_labels(reference.volume, reference.segmentation, values, mask)
        yield
        scene.write_volume(reference.volume, image)
        yield

    def _send(self) -> None:
        """Send the request once all files are written."""
        if not self.active:
            return
        order, known = self.order, annotated.classes(self._cases)
        styles = {number: known[name].style for name, number in self.numbers.items()}
        params = {
            "cases": self._files,
            "labels": sorted(self.numbers.values()),
            "appearance": appearance_of(styles),
            "output": str(self._output),
            "folder": str(self._folder / _RUN),
        }
        self._request(params | {name: getattr(order, name) for name in _PASSED_ON})

    def _request(self, params: dict[str, Any]) -> None:
        def failed(error: MassError) -> None:
            """Continue a run on another computer over a new connection, with the files that came back."""
            self._broken += 1
            lost = isinstance(error, HostError) and not self.stopping and self._broken <= ENOUGH
            if lost and any((self._folder / _RUN / "state").glob("*.pt")):
                self._log(str(error))
                self._request({**params, "resume": True})
            else:
                self._end(error)

        def done(reply: dict[str, Any]) -> None:
            self._end(result=reply["result"])

        self._call = self._client.request("finetune", params, progress=self._on_progress, done=done, failed=failed, cancelled=self._end)

    def _on_progress(self, stage: str, fraction: float, eta_s: float | None, values: dict[str, float] | None = None) -> None:
        if stage == "train":
            self._began, self._broken = self._began or time.monotonic(), 0
        spent = 0.0 if self._began is None else time.monotonic() - self._began
        self._progressed(FinetuneProgress(stage=stage, fraction=fraction, eta_s=eta_s, spent_s=spent, values=values or {}))

    def _finish(self, error: MassError | None, *, result: dict[str, Any] | None = None) -> None:
        """Save the best model if the worker could not, delete the files and report the end."""
        best = self._folder / _RUN / _BEST
        if not self._output.is_file() and best.is_file():
            with contextlib.suppress(OutputError):  # what ended the run is reported then
                named_files.copy(best, self._output)
        shutil.rmtree(self._folder, ignore_errors=True)
        model = self._output.stem if self._output.is_file() else ""
        self._finished(Outcome(error=error, result=result, model=model))


def _unchanged(reference: Reference, pieces: Generator[None, None, None]) -> Generator[None, None, None]:
    """Do pieces of work as long as the nodes stay in the scene and the scan as it is.

    Raises:
        InputError: if they do not.
    """

    def state() -> tuple:
        if reference.volume.GetScene() is None or reference.segmentation.GetScene() is None:
            raise InputError(_("The scan or its segmentation was removed."), _("Choose the cases again."))
        scene.check_volume(reference.volume)
        return scene.state(reference.volume)

    before = state()
    for _piece in pieces:
        yield
        if state() != before:
            raise InputError(_("The scan was changed while it was being written."), _("Start again."))
