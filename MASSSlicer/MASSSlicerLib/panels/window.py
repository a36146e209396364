"""The window: connects its parts with parameters and logic, enables its buttons and gives the reason where one is disabled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from mass_core.errors import MassError

from ..logic import MASSSlicerLogic, destination_of, settings_of
from ..parameters import MASSSlicerParameterNode
from ..runs import cases as c
from ..runs.adapted import Adapted
from ..runs.features import FeaturesRun
from ..runs.order import Progress, Reference, duration
from ..runs.segmentation import Run
from .advanced import AdvancedPanel
from .choice import Choice
from .dicom_dialog import choose_series
from .drawing import Drawing
from .errors import errors_shown, show_error
from .features import FeaturesPanel
from .finetune import FinetunePanel
from .place import PlacePanel
from .references import ReferencesPanel
from .results import ResultsPanel
from .saved_files import ModelsPanel, TasksPanel
from .selectors import empty_when_removed
from .status import StatusPanel
from .targets import TargetsPanel

_BAR = 1000
_WIDE = {
    "referencesTable": (0, 1, 2),
    "targetsTable": (0,),
    "resultsTable": (0, 3, 4, 5),
    "tasksTable": (0,),
    "annotatedTable": (0, 1, 2),
    "classesTable": (0,),
    "modelsTable": (0, 1),
}
"""Columns of each table that share the room the others leave; those are as wide as what they hold."""
_NARROWEST = 48
"""Pixels of a column."""
_ROW_MARGIN = 6
"""Pixels of a row above and below its text."""
_COUNTED = ((c.DONE, _("done")), (c.SKIPPED, _("skipped")), (c.FAILED, _("failed")), (c.STOPPED, _("stopped")))


class Window(VTKObservationMixin):
    """One scene's references, targets and results on the screen.

    Args:
        ui: the parts of MASSSlicer.ui by name.
        logic: does the work.
    """

    def __init__(self, ui: object, logic: MASSSlicerLogic) -> None:
        VTKObservationMixin.__init__(self)
        self.ui, self.logic = ui, logic
        self.parameters: MASSSlicerParameterNode | None = None
        self.run: Run | None = None
        self._adapting_to: tuple = ()
        """State of the references when the latest run began."""
        self._gui_tag: object = None
        self._refresh_due = False
        self._reread_due = False
        self._closed = False
        """True once the window is gone; timers and processes may still call it."""
        _fit_tables(ui)
        self._show_message("")
        self.status = StatusPanel(ui, logic, self.update)
        self.references = ReferencesPanel(ui, self.update)
        self.drawing = Drawing(ui, self.references)
        self.targets = TargetsPanel(ui, self.update, self._show_message)
        self.choice = Choice(ui, self.update)
        self.tasks = TasksPanel(ui, self.choice.use_task, lambda: self.run)
        self.models = ModelsPanel(ui, lambda model: self.choice.use_model(model.name), self._model_moved)
        self.place = PlacePanel(ui, logic, self._moved)
        self.advanced = AdvancedPanel(ui, logic, self.status, self.update)
        self.status.show_devices([])
        self.finetune = FinetunePanel(
            ui,
            logic,
            self.status,
            device=lambda: self.advanced.device,
            allowed=self.place.allowed,
            use=self._use_finetuned,
            changed=self.update,
        )
        self.results = ResultsPanel(ui, self.references.add_reference, self.finetune.cases.add)
        self.features = FeaturesPanel(ui, self.targets.current, self._show_features, self._show_end)
        ui.segmentButton.connect("clicked()", self.segment)
        ui.adaptButton.connect("clicked()", self.adapt)
        ui.cancelButton.connect("clicked()", logic.cancel)
        ui.resumeButton.connect("clicked()", self.resume)
        ui.addDicomButton.connect("clicked()", lambda: self.targets.add_files(choose_series()))
        ui.outputFolderEdit.connect("currentPathChanged(QString)", lambda path: self._on_folder())
        ui.outputFolderEdit.connect("validInputChanged(bool)", lambda valid: self._on_folder())  # an emptied line sends nothing else
        for section in (ui.referencesSection, ui.advancedSection):  # unfolding shows all they hold, lines that say nothing too
            section.connect("contentsCollapsed(bool)", lambda folded: None if folded else self.update())
        empty_when_removed(ui.outputSelector)
        logic.worker_started = self._worker_started

    def enter(self) -> None:
        """Show the scene's parameters."""
        if self._closed:
            return
        if self.parameters is None:
            self._show_scene()
        for panel in (self.models, self.references, self.finetune):
            panel.refresh()
        self.update()
        self.status.enter()
        self.drawing.enter()

    def exit(self) -> None:
        """Release keyboard and views; a run continues."""
        self.drawing.exit()

    def close(self) -> None:
        """Disconnect everything."""
        self._closed = True
        self.logic.worker_started = lambda again: None
        self._let_go()
        self.drawing.close()
        self.advanced.close()
        self.status.close()

    def on_scene_start_close(self) -> None:
        """Stop a run that needs the scene, whose nodes are about to go."""
        self.drawing.leave()
        self.logic.release_scene()
        self._let_go()
        self.run = None
        self.results.begin([])
        self._show_idle("")

    def on_scene_changed(self) -> None:
        """Refresh after nodes came or went: once for many changes, and when they are complete, for a new volume has no image yet."""
        if not self._refresh_due:
            self._refresh_due = True
            qt.QTimer.singleShot(0, self._refresh)

    def on_scene_imported(self) -> None:
        """Show the parameters of a scene that was loaded."""
        self._reread_due = True
        self.on_scene_changed()

    def segment(self) -> None:
        """Start a run."""
        self._begin(self.choice.task())

    def adapt(self) -> None:
        """Start a run that adapts to the references first."""
        self._begin(self.choice.references(), adapt_s=self.parameters.adaptSeconds)

    def resume(self) -> None:
        """Continue a run with the targets that are not done."""
        if not self.place.allowed():
            return
        with errors_shown():
            self.logic.resume(self.run)
            self._show_begun()

    def why_not(self) -> str:
        """Reason why a run cannot begin; empty if it can."""
        parameters = self.parameters
        if parameters is None:
            return _("There is no scene.")
        if reason := self.status.why_not() or self.choice.why_not():
            return reason
        if not self.targets.cases():
            return _("Tick at least one target, or add a folder.")
        if parameters.toFiles and not parameters.outputFolder:
            return _("Choose a folder for the results.")
        return ""

    def update(self) -> None:
        """Enable the buttons that can be used, and show the reason for the others."""
        if self._closed:
            return
        reason = self.why_not()
        self.ui.segmentButton.enabled = not reason
        self.ui.segmentButton.toolTip = reason or _("Segment all ticked targets. Existing segments are not changed")
        reason = reason or self.choice.why_not_adapt()
        self.ui.adaptButton.enabled = not reason
        self.ui.adaptButton.toolTip = reason or _("Adapt to the references for {seconds} s, then segment all ticked targets").format(
            seconds=self.parameters.adaptSeconds
        )
        self.ui.cancelButton.enabled = self.logic.segmenting
        left = self.run is not None and not self.logic.busy and not all(case.over for case in self.run.cases)
        self.ui.resumeButton.enabled = left
        files = self.parameters is not None and self.parameters.toFiles
        for widget in (self.ui.outputFolderEdit, self.ui.formatCombo, self.ui.skipCheck):
            widget.enabled = files
        self.ui.outputSelector.enabled = not files
        for panel in (self.choice, self.place, self.advanced, self.tasks, self.models, self.finetune):
            panel.update()
        self.features.update(self.status.why_not())

    def _show_scene(self) -> None:
        """Connect to the parameters of the scene."""
        self.parameters = self.logic.getParameterNode()
        self._gui_tag = self.parameters.connectGui(self.ui)
        self.addObserver(self.parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, lambda caller, event: self.update())
        self.ui.outputFolderEdit.currentPath = self.parameters.outputFolder
        self._show_parameters()
        self.update()

    def _on_folder(self) -> None:
        if self.parameters is not None:
            self.parameters.outputFolder = self.ui.outputFolderEdit.currentPath

    def _let_go(self) -> None:
        self.removeObservers()
        if self.parameters is not None:
            self.parameters.disconnectGui(self._gui_tag)
        self.parameters = None
        self._show_parameters()

    def _show_parameters(self) -> None:
        for panel in (self.choice, self.references, self.targets, self.advanced, self.finetune):
            panel.show(self.parameters)

    def _refresh(self) -> None:
        self._refresh_due = False
        if self._closed or slicer.mrmlScene.IsBatchProcessing() or slicer.mrmlScene.IsClosing():
            return
        if self._reread_due:
            self._reread_due = False
            self._let_go()
        if self.parameters is None:
            self._show_scene()
        for panel in (self.references, self.targets, self.finetune, self.results):
            panel.refresh()
        self.update()

    def _begin(self, task: Sequence[Reference] | Path | None, *, adapt_s: float = 0.0) -> None:
        """Start a run."""
        if not self.place.allowed():
            return
        with errors_shown():
            self._adapting_to = self.choice.state()
            self.run = self.logic.segment(
                task,
                self.targets.cases(),
                adapt_s=adapt_s,
                settings=settings_of(self.parameters, self.advanced.device),
                destination=destination_of(self.parameters),
                changing=self.drawing.save_for_undo,
                changed=self.results.update,
                progressed=self._on_progress,
                finished=self._on_finished,
            )
            self.results.begin(self.run.cases)
            self._show_begun()

    def _use_finetuned(self, name: str) -> None:
        """Use a model that is ready."""
        self.models.refresh()
        self.choice.use_model(name)

    def _model_moved(self, name: str, to: str) -> None:
        """Follow a model that was renamed, or deleted (empty name)."""
        if self.parameters is not None and self.parameters.weights == name:
            self.choice.use_model(to) if to else self.choice.model_gone()
        self.update()

    def _moved(self) -> None:
        """Follow the choice of another computer."""
        self.status.show_devices([])
        self.update()

    def _show_features(self, volume: slicer.vtkMRMLScalarVolumeNode, finished: Callable[[MassError | None], None]) -> FeaturesRun | None:
        if not self.place.allowed():
            return None
        with errors_shown():
            settings = settings_of(self.parameters, self.advanced.device)
            run = self.logic.show_features(volume, settings=settings, progressed=self._on_progress, finished=finished)
            self.update()
            return run
        return None

    def _worker_started(self, again: bool) -> None:
        if again:
            self._show_message(_("The worker was restarted. The scene is unchanged."))
        self.status.show_devices(self.logic.engine.client.worker["devices"])

    def _on_progress(self, progress: Progress) -> None:
        self.ui.progressBar.value = int(_BAR * progress.fraction)
        left = "" if progress.eta_s is None else _(", {time} left").format(time=duration(progress.eta_s))
        self.ui.progressBar.format = f"{progress.text}{left}"

    def _on_finished(self, error: MassError | None) -> None:
        run = self.run
        if run is not None and run.adapted is not None:
            fit = run.adapted
            self.choice.keep(Adapted(run.task_file, fit["seconds"], tuple(fit["dice"]), self._adapting_to))
        short = run is not None and run.memory_short and self.status.gpu and run.settings.device != "cpu"
        self._show_end(_summary(run) if run is not None else "", None if short else error)
        if short:
            self._offer_processor(run)

    def _offer_processor(self, run: Run) -> None:
        """Offer to continue on the processor after the graphics card ran out of memory."""
        text = _("The graphics card ran out of memory.\n\nContinue on the processor? That takes longer; finished results are kept.")
        if slicer.util.confirmYesNoDisplay(text, windowTitle=_("MASS")):
            run.settings = replace(run.settings, device="cpu")
            self.resume()

    def _show_begun(self) -> None:
        """Show a run that has begun, or its summary if there was nothing to do."""
        self._show_idle("" if self.logic.busy else _summary(self.run))
        if self.logic.busy and self.logic.host and not self.logic.engine.client.ready:
            self.ui.progressBar.format = _("Connecting to {host}…").format(host=self.logic.host)
        self.update()

    def _show_end(self, message: str, error: MassError | None) -> None:
        """Show how a run ended."""
        self._show_idle(message)
        self.status.ask_devices()
        self.references.refresh()
        self.targets.refresh()
        self.update()
        if error is not None:
            show_error(error)

    def _show_idle(self, message: str) -> None:
        self.ui.progressBar.value = 0
        self.ui.progressBar.format = ""
        self._show_message(message)

    def _show_message(self, message: str) -> None:
        """Show a message below the bar; an empty one takes no room."""
        self.ui.messageLabel.text = message
        self.ui.messageLabel.visible = bool(message)


def _fit_tables(ui: object) -> None:
    """Fit all columns of the tables to any width of the window, and rows to two lines of text, whatever the font."""
    for name, wide in _WIDE.items():
        table = getattr(ui, name)
        header = table.horizontalHeader()
        header.minimumSectionSize = _NARROWEST
        for column in range(table.columnCount):
            header.setSectionResizeMode(column, qt.QHeaderView.Stretch if column in wide else qt.QHeaderView.ResizeToContents)
        rows = table.verticalHeader()
        rows.defaultSectionSize = max(rows.defaultSectionSize, 2 * table.fontMetrics().lineSpacing() + _ROW_MARGIN)


def _summary(run: Run) -> str:
    """Summary of a finished run, with the warnings about its references."""
    counts = [(sum(case.status == status for case in run.cases), word) for status, word in _COUNTED]
    parts = [f"{count} {word}" for count, word in counts if count]
    where = _(" (on {device})").format(device=run.device) if run.device else ""
    return " ".join([", ".join(parts) + where + ".", *run.warnings])
