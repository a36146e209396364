"""The section “Finetune”: cases, classes, budget, start and stop, curves, and the model at the end."""

from __future__ import annotations

from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from mass_core.errors import MassError

from ..library import models
from ..library.weights import listed
from ..logic import MASSSlicerLogic
from ..parameters import EPOCHS, MASSSlicerParameterNode
from ..runs import annotated
from ..runs.annotated import Structure
from ..runs.finetuning import FinetuneProgress, Finetuning, Order, Outcome
from ..runs.order import duration
from .annotated import AnnotatedPanel
from .curves import Curves
from .errors import errors_shown, show_error
from .items import fill, put
from .status import StatusPanel

_BAR = 1000
_STAGES = {
    "write": (0.0, 0.05),
    "send": (0.05, 0.08),
    "prepare": (0.08, 0.12),
    "labels": (0.12, 0.13),
    "encode": (0.13, 0.15),
    "train": (0.15, 1.0),
}
"""Begin and end of each stage on the bar; a validation does not move it."""
_WORDS = {
    "write": _("Writing the scans to files"),
    "send": _("Sending the scans"),
    "prepare": _("Preparing the scans"),
    "labels": _("Reading the label maps"),
    "encode": _("Encoding the structures"),
    "train": _("Training"),
    "validate": _("Validating"),
    "receive": _("Receiving the model"),
}
_MEASURED = _("The duration is estimated in the first seconds of training.")
_STOPPED = {
    "early": _("Stopped early: validation Dice no longer improved."),
    "budget": _("Time limit reached."),
    "cancelled": _("Stopped by the user."),
}


class FinetunePanel:
    """The section “Finetune”.

    Args:
        ui: the window's parts by name.
        logic: does the work.
        status: whether a run can begin, and where.
        device: returns the device to compute on.
        allowed: returns True if scans may go to the computer that runs are done on; asks the user if that is open.
        use: called with the name of the model that is ready.
        changed: called whenever something changed that others show.
    """

    def __init__(
        self,
        ui: object,
        logic: MASSSlicerLogic,
        status: StatusPanel,
        *,
        device: Callable[[], str],
        allowed: Callable[[], bool],
        use: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self._ui, self._logic, self._status = ui, logic, status
        self._device, self._allowed, self._use, self._changed = device, allowed, use, changed
        self._parameters: MASSSlicerParameterNode | None = None
        self._quiet = False
        self._classes: dict[str, Structure] = {}
        self.curves: Curves | None = None
        self.recipe: str | None = None
        """Of the training, for scripts; None: the one that suits the weights."""
        self.cases = AnnotatedPanel(ui, self._on_cases)
        ui.classesTable.connect("itemChanged(QTableWidgetItem*)", self._on_class)
        ui.tuneWeightsCombo.connect("currentIndexChanged(int)", self._on_weights)
        ui.tuneStartButton.connect("clicked()", self.start)
        ui.tuneStopButton.connect("clicked()", self.stop)
        ui.tuneCurvesButton.connect("toggled(bool)", self._on_curves)
        ui.tuneLabel.text = _MEASURED

    def show(self, parameters: MASSSlicerParameterNode | None) -> None:
        """Show the choices of a scene."""
        self._parameters = parameters
        self.cases.show(parameters)
        if parameters is None:
            self._ui.tuneCurvesButton.checked = False
        else:
            self._show_weights()
            self._show_classes()

    def refresh(self) -> None:
        """Show cases and classes as they are now."""
        self.cases.refresh()
        self._show_classes()

    def start(self) -> None:
        """Start a run."""
        if not self._allowed():
            return
        self.refresh()  # segments may have been drawn meanwhile
        parameters, (cases, _problem) = self._parameters, self.cases.cases()
        epochs = parameters.tuneUnit == EPOCHS
        order = Order(
            cases=tuple(cases),
            classes=tuple(self._ticked()),
            name=parameters.tuneName,
            weights=parameters.tuneWeights,
            device=self._device(),
            precision=parameters.precision if parameters.precision != "float16" else "auto",
            epochs=parameters.tuneAmount if epochs else None,
            minutes=None if epochs else float(parameters.tuneAmount),
            recipe=self.recipe,
        )
        with errors_shown():
            run = self._logic.finetune(order, progressed=self._on_progress, finished=self._on_finished)
            self._ui.tuneCurvesButton.checked = False
            self.curves = Curves(run.order.name)
            self._ui.tuneLabel.text = _MEASURED
            self._changed()

    def stop(self) -> None:
        """Stop; the best model so far is kept."""
        self._logic.stop_finetuning()
        if self._logic.finetuning is not None and self._logic.finetuning.active:
            self._ui.tuneLabel.text = _("Stopping; the best model so far is being kept…")
        self._changed()

    def why_not(self) -> str:
        """Reason why it cannot begin; empty if it can."""
        parameters = self._parameters
        if parameters is None:
            return _("There is no scene.")
        if reason := self._status.why_not():
            return reason
        if self.cases.looking:
            return _("Label maps are still being read.")
        cases, problem = self.cases.cases()
        if problem:
            return problem
        if not cases:
            return _("Tick at least one segmentation, with the scan it was drawn on, or add a folder.")
        if not self._ticked():
            return _("Tick at least one structure to segment.")
        try:
            models.free(parameters.tuneName)
        except MassError as error:
            return f"{error.message} {error.cure}" if parameters.tuneName.strip() else _("Give the model a name.")
        return ""

    def update(self) -> None:
        """Enable the buttons that can be used."""
        ui, reason, run = self._ui, self.why_not(), self._logic.finetuning
        ui.tuneStartButton.enabled = not reason
        ui.tuneStartButton.toolTip = reason or _("Train a model on the ticked scans. Slicer stays usable")
        ui.tuneStopButton.enabled = run is not None and run.active and not run.stopping
        ui.tuneCurvesButton.enabled = self.curves is not None and not self.curves.empty
        combo = ui.tuneWeightsCombo
        if self._parameters is not None and self._names() != [combo.itemText(row) for row in range(combo.count)]:
            self._show_weights()

    def _ticked(self) -> list[str]:
        """Names of the classes to learn."""
        return [name for name in self._classes if name not in list(self._parameters.tuneUnticked)]

    def _on_cases(self) -> None:
        self._show_classes()
        self._changed()

    def _show_classes(self) -> None:
        """A line for each class of the ticked cases."""
        if self._parameters is None:
            return
        cases, _problem = self.cases.cases()
        self._classes = annotated.classes(cases)
        unticked, table = list(self._parameters.tuneUnticked), self._ui.classesTable
        self._quiet = True
        table.setRowCount(len(self._classes))
        for row, (name, structure) in enumerate(self._classes.items()):
            put(table, row, 0, name, ticked=name not in unticked)
            tip = _("The other scans count as not containing it: draw it wherever it is visible, or untick it")
            count = _("{some} of {all}").format(some=structure.cases, all=len(cases))
            put(table, row, 1, count, tip if structure.cases < len(cases) else "")
        self._quiet = False

    def _on_class(self, item: qt.QTableWidgetItem) -> None:
        if self._quiet or item.column() != 0:
            return
        rows = range(self._ui.classesTable.rowCount)
        items = [self._ui.classesTable.item(row, 0) for row in rows]
        self._parameters.tuneUnticked = [one.text() for one in items if one.checkState() != qt.Qt.Checked]
        self._changed()

    def _names(self) -> list[str]:
        """Weights to start from: those on this computer that need references, and the present choice."""
        names = [weights.name for weights in listed() if weights.path is not None and weights.where != "finetuned"]
        chosen = self._parameters.tuneWeights
        return names if chosen in names else [*names, chosen]

    def _show_weights(self) -> None:
        fill(self._ui.tuneWeightsCombo, [(name, name) for name in self._names()], self._parameters.tuneWeights)

    def _on_weights(self, index: int) -> None:
        if self._parameters is not None and index >= 0:
            self._parameters.tuneWeights = self._ui.tuneWeightsCombo.itemText(index)

    def _on_curves(self, on: bool) -> None:
        if self.curves is not None:
            self.curves.show() if on else self.curves.hide()

    def _on_progress(self, progress: FinetuneProgress) -> None:
        """Show the progress."""
        ui = self._ui
        if progress.stage in _STAGES:
            begin, end = _STAGES[progress.stage]
            ui.tuneBar.value = int(_BAR * (begin + (end - begin) * progress.fraction))
        epoch = progress.values.get("epoch")
        what = _WORDS[progress.stage]
        ui.tuneBar.format = what if epoch is None else _("{what}, epoch {epoch:.0f}").format(what=what, epoch=epoch)
        if progress.values:
            self.curves.add(progress.values)
            if ui.tuneCurvesButton.checked and not self.curves.shown:
                self.curves.show()
            ui.tuneCurvesButton.enabled = True
        run = self._logic.finetuning
        if progress.eta_s is not None and progress.stage == "train" and not run.stopping:
            ui.tuneLabel.text = _estimate(progress, run.order, self._status.device_name(run.order.device))

    def _on_finished(self, outcome: Outcome) -> None:
        """Show the outcome and use the model."""
        ui, run = self._ui, self._logic.finetuning
        ui.tuneBar.value, ui.tuneBar.format = 0, ""
        ui.tuneLabel.text = _summary(outcome, run)
        if outcome.model and self._parameters is not None:
            self._use(outcome.model)
        self._status.ask_devices()
        self._changed()
        if outcome.error is not None:
            show_error(outcome.error)


def _estimate(progress: FinetuneProgress, order: Order, device: str) -> str:
    """Estimated duration, as measured so far."""
    left = duration(progress.eta_s)
    if order.epochs is None:
        return _("Training on {device}: about {left} left, less if validation Dice stops improving.").format(device=device, left=left)
    return _("About {total} for {epochs} epochs on {device}, {left} left; less if validation Dice stops improving.").format(
        total=duration(progress.spent_s + progress.eta_s), epochs=order.epochs, device=device, left=left
    )


def _summary(outcome: Outcome, run: Finetuning) -> str:
    """Summary of a finished run."""
    if not outcome.model and outcome.error is None:
        return _("Stopped before there was a model.")
    if not outcome.model:
        return _("Training failed before there was a model. You can start it again.")
    if outcome.result is None:
        return _("Training ended early. The best model so far is kept as “{name}” and is now in use.").format(name=outcome.model)
    result = outcome.result
    lines = [_("The model “{name}” is ready and now in use.").format(name=outcome.model)]
    if result["best_dice"] is not None:
        each = ", ".join(f"{label['name']} {label['dice']:.2f}" for label in result["labels"] if label["dice"] is not None)
        lines.append(
            _("Validation Dice {dice:.2f} ({each}), best after epoch {best} of {epochs}.").format(
                dice=result["best_dice"], each=each, best=result["best_epoch"], epochs=result["epochs"]
            )
        )
    lines += [_STOPPED[result["stopped"]]] if result["stopped"] in _STOPPED else []
    return " ".join([*lines, *run.warnings, *result["warnings"]])
