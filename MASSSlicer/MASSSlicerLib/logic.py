"""The module's logic, used by the window and by scripts.

From Slicer's Python console, without the window:

    logic = slicer.modules.massslicer.widgetRepresentation().self().logic   # or MASSSlicer.MASSSlicerLogic()
    run = logic.segment([Reference(ct, drawn)], [other_ct])                 # returns at once
    logic.wait(run)                                                        # Slicer stays usable meanwhile
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from mass_core.errors import InputError, MassError
from mass_core.outputs import stem
from mass_core.remote import hosts

from .parameters import MASSSlicerParameterNode
from .processes.engine import Engine
from .runs.cases import Case
from .runs.features import FeaturesRun
from .runs.finetuning import FinetuneProgress, Finetuning, Order, Outcome
from .runs.order import Destination, Progress, Reference, Settings
from .runs.segmentation import Run
from .scene import exchange as scene
from .scene.exports import Exports

_LOG_LINES = 2000
_SURFACE_MS = 50
"""Before a surface is made: results are drawn in the slices first."""


class MASSSlicerLogic(ScriptedLoadableModuleLogic):
    """Segments targets by references, finetunes models, owns the worker."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.exports = Exports()
        self.log: list[str] = []
        self.worker_started: Callable[[bool], None] = lambda again: None
        self.host = ""
        """ssh name of the computer that runs are done on; empty: this one. `run_on` changes it."""
        self._engine: Engine | None = None
        self._run: Run | FeaturesRun | None = None
        self.finetuning: Finetuning | None = None
        """The latest one."""
        self._flat: list[str] = []
        """Segmentations that wait for their surface."""

    def getParameterNode(self) -> MASSSlicerParameterNode:
        """The parameters of this scene."""
        return MASSSlicerParameterNode(super().getParameterNode())

    @property
    def engine(self) -> Engine:
        """The engine, made on first use; the worker starts with the first request."""
        if self._engine is None:
            self._engine = Engine(self._note, lambda again: self.worker_started(again), self.host)
        return self._engine

    @property
    def busy(self) -> bool:
        """True while a segmentation, feature or finetuning run is in progress."""
        return self.segmenting or (self.finetuning is not None and self.finetuning.active)

    @property
    def segmenting(self) -> bool:
        """True while a segmentation or feature run is in progress."""
        return self._run is not None and self._run.active

    def run_on(self, host: str) -> None:
        """Do all runs on another computer from now on, over ssh (docs/remote.md); a worker that is there is ended.

        Args:
            host: what stands behind ssh in a terminal; empty: this computer.

        Raises:
            MassError: if it cannot be the name of a computer, or a run is in progress.
        """
        self._check_idle()
        self.host = hosts.checked(host) if host else ""
        if self._engine is not None:
            self._engine.move(self.host)

    def segment(
        self,
        task: Sequence[Reference] | str | Path | None,
        targets: Sequence[slicer.vtkMRMLScalarVolumeNode | str | Path | Case],
        *,
        adapt_s: float = 0.0,
        settings: Settings = Settings(),  # noqa: B008  # frozen
        destination: Destination = Destination(),  # noqa: B008  # frozen
        changing: Callable[[slicer.vtkMRMLSegmentationNode], None] = lambda segmentation: None,
        changed: Callable[[Case], None] = lambda case: None,
        progressed: Callable[[Progress], None] = lambda progress: None,
        finished: Callable[[MassError | None], None] = lambda error: None,
    ) -> Run:
        """Segment targets; returns at once and reports through the callbacks.

        Args:
            task: references, or a task file; None: for finetuned weights, which have fixed classes.
            targets: volumes of the scene, image files, DICOM folders.
            adapt_s: seconds of adapting to the references; 0: none.
            settings: how.
            destination: where results go.
            changing: called with an existing segmentation before segments are added to it.
            changed: called with a case whenever something about it changed.
            progressed: called with a `Progress`.
            finished: called once, with the error that stopped the whole run or None.

        Raises:
            MassError: if something is missing or another run is in progress; nothing has begun then.
        """
        self._check_idle()
        self._run = run = Run(
            self.engine.client,
            self.exports,
            task=Path(task) if isinstance(task, (str, Path)) else task if task is None else self._checked(task),
            cases=[_case(target) for target in targets],
            adapt_s=adapt_s,
            settings=settings,
            destination=destination,
            log=self._note,
            changing=changing,
            changed=changed,
            flat=self._flat.append,
            progressed=progressed,
            finished=lambda error: self._ended(finished, error),
        )
        run.start()
        return run

    def show_features(
        self,
        volume: slicer.vtkMRMLScalarVolumeNode,
        *,
        settings: Settings = Settings(),  # noqa: B008  # frozen
        progressed: Callable[[Progress], None] = lambda progress: None,
        finished: Callable[[MassError | None], None] = lambda error: None,
    ) -> FeaturesRun:
        """Make a colour volume of the network's features in a volume; returns at once, the run's `node` is set at its end.

        Args:
            volume: of the scene.
            settings: how.
            progressed: called with a `Progress`.
            finished: called once, with the error or None.

        Raises:
            MassError: if the volume cannot be used or another run is in progress; nothing has begun then.
        """
        self._check_idle()
        self._run = run = FeaturesRun(
            self.engine.client,
            self.exports,
            volume,
            settings=settings,
            log=self._note,
            progressed=progressed,
            finished=lambda error: self._ended(finished, error),
        )
        run.start()
        return run

    def resume(self, run: Run) -> None:
        """Continue a run with the targets that are not done.

        Raises:
            MassError: if another run is in progress.
        """
        self._check_idle()
        self._run = run
        run.resume()

    def cancel(self) -> None:
        """Stop the current run, if any."""
        if self._run is not None:
            self._run.cancel()

    def finetune(
        self,
        order: Order,
        *,
        progressed: Callable[[FinetuneProgress], None] = lambda progress: None,
        finished: Callable[[Outcome], None] = lambda outcome: None,
    ) -> Finetuning:
        """Train a model on annotated scans; returns at once and reports through the callbacks.

        Args:
            order: which scans, which structures, how long.
            progressed: called with `FinetuneProgress`.
            finished: called once, with an `Outcome`.

        Raises:
            MassError: if something is missing or another run is in progress; nothing has begun then.
        """
        self._check_idle()
        run = Finetuning(self.engine.client, order, log=self._note, progressed=progressed, finished=finished)
        run.start()
        self.finetuning = run
        return run

    def stop_finetuning(self) -> None:
        """Stop the current finetuning run, if any; the best model so far is kept."""
        if self.finetuning is not None:
            self.finetuning.stop()

    def wait(self, run: Run | FeaturesRun | Finetuning, seconds: float = 3600.0) -> None:
        """Return when a run is over, for scripts; Slicer stays usable.

        Raises:
            MassError: if it takes longer; it is stopped then.
        """
        until = time.monotonic() + seconds
        while run.active:
            slicer.app.processEvents()
            time.sleep(0.01)
            if time.monotonic() > until:
                run.stop() if isinstance(run, Finetuning) else run.cancel()
                raise InputError(_("The run took longer than {seconds:.0f} s.").format(seconds=seconds), _("Allow more time."))

    def release_scene(self) -> None:
        """Stop and delete exported files when the scene is closed. A finetuning run that has its files continues."""
        self.cancel()
        if self.finetuning is not None and self.finetuning.needs_scene:
            self.finetuning.cancel()
        self._flat.clear()
        self.exports.close()

    def close(self) -> None:
        """End the worker and delete all files; the logic can be used again afterwards."""
        self.cancel()
        if self.finetuning is not None:
            self.finetuning.cancel()
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        self.release_scene()

    def _ended(self, finished: Callable[[MassError | None], None], error: MassError | None) -> None:
        finished(error)
        qt.QTimer.singleShot(_SURFACE_MS, self._make_surface)

    def _make_surface(self) -> None:
        """Give one new segmentation its surface, and come back for the next, unless a run is in progress, which has precedence."""
        if self.busy or not self._flat:
            return
        node = slicer.mrmlScene.GetNodeByID(self._flat.pop(0))
        if node is not None:
            node.CreateClosedSurfaceRepresentation()
        qt.QTimer.singleShot(_SURFACE_MS, self._make_surface)

    def _check_idle(self) -> None:
        if self.busy:
            raise InputError(_("Another run is in progress."), _("Wait until it has finished, or cancel it."))

    def _checked(self, references: Sequence[Reference]) -> Sequence[Reference]:
        if not references:
            raise InputError(_("No reference is chosen."), _("Choose a volume and a segmentation of the structure to find."))
        for reference in references:
            scene.check_volume(reference.volume)
        return references

    def _note(self, text: str) -> None:
        """Keep the latest lines of the worker's log."""
        self.log.append(text)
        del self.log[:-_LOG_LINES]


def references_of(parameters: MASSSlicerParameterNode) -> list[Reference]:
    """The complete references among the parameters; those whose nodes were deleted are left out."""
    rows = zip(parameters.referenceVolumes, parameters.referenceSegmentations, parameters.referenceSegments, strict=False)
    return [
        Reference(volume, segmentation, tuple(json.loads(ids or "[]")))
        for volume, segmentation, ids in rows
        if volume is not None and segmentation is not None
    ]


def settings_of(parameters: MASSSlicerParameterNode, device: str) -> Settings:
    """Settings of a run from the parameters."""
    own: dict[str, Any] = {} if parameters.align == "auto" else {"align": parameters.align}
    if parameters.ownSettings:
        own |= {
            "window_zyx": [parameters.window] * 3,
            "overlap": parameters.overlap,
            "threshold": parameters.threshold,
            "parts": parameters.parts,
        }
    return Settings(
        weights=parameters.weights,
        device=device,
        precision=parameters.precision,
        recipe=parameters.recipe,
        options=own,
        assess=parameters.assess,
    )


def destination_of(parameters: MASSSlicerParameterNode) -> Destination:
    """Destination of results from the parameters.

    Raises:
        InputError: if files are wanted but no folder is chosen.
    """
    if not parameters.toFiles:
        return Destination(into=parameters.outputSegmentation, name=parameters.resultName or "{target} MASS")
    folder = Path(parameters.outputFolder)
    if not parameters.outputFolder:
        raise InputError(_("No folder is chosen for the results."), _("Choose one under Results."))
    if not folder.is_dir():
        raise InputError(_("There is no folder {folder}.").format(folder=folder), _("Choose another one under Results."))
    return Destination(folder=folder, ending=parameters.outputFormat, skip_done=parameters.skipDone)


def _case(target: slicer.vtkMRMLScalarVolumeNode | str | Path | Case) -> Case:
    if isinstance(target, Case):
        return target
    if isinstance(target, (str, Path)):
        return Case(stem(Path(target)), path=Path(target))
    scene.check_volume(target)
    return Case(target.GetName(), volume_id=target.GetID())
