"""The task of a run: references, a task adapted to them, a saved task, or a finetuned model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from slicer.i18n import tr as _

from mass_core.colors import LabelStyle

from ..library import models
from ..logic import references_of, settings_of
from ..parameters import MASSSlicerParameterNode
from ..runs.adapted import Adapted, state
from ..runs.order import Reference
from .saved_files import in_colour

_BASE = "small"
"""Weights that need references, where none were in use before."""
_REFERENCE = _("Choose a reference: a scan and a segmentation of the structure to find.")


class Choice:
    """Shows the task in use below the references, with a button that goes back to them.

    Args:
        ui: the window's parts by name.
        changed: called when the choice changed.
    """

    def __init__(self, ui: object, changed: Callable[[], None]) -> None:
        self._ui, self._changed = ui, changed
        self._parameters: MASSSlicerParameterNode | None = None
        self._adapted: Adapted | None = None
        self._base = _BASE
        ui.useReferencesButton.connect("clicked()", self.use_references)

    def show(self, parameters: MASSSlicerParameterNode | None) -> None:
        """Show the choice of a scene."""
        self._parameters, self._adapted = parameters, None

    def use_task(self, path: Path | str) -> None:
        """Segment with a saved task; an empty text stands for the references."""
        self._parameters.taskFile = str(path)
        self._leave_model()
        self._changed()

    def use_model(self, name: str) -> None:
        """Segment with a finetuned model."""
        self._note_base()
        self._parameters.taskFile = ""
        self._parameters.weights = name
        self._changed()

    def use_references(self) -> None:
        """Segment with the references as they are."""
        self._adapted = None
        self.use_task("")

    def model_gone(self) -> None:
        """Return to weights that need references after the model in use was deleted."""
        self._parameters.weights = self._base
        self._changed()

    def keep(self, adapted: Adapted) -> None:
        """Use a task that was adapted to the references."""
        self._adapted = adapted

    def references(self) -> list[Reference]:
        """The complete references."""
        return references_of(self._parameters)

    def state(self) -> tuple:
        """State of references and settings, for which an adapted task is valid."""
        return state(self.references(), settings_of(self._parameters, ""))

    def task(self) -> Sequence[Reference] | Path | None:
        """Task of a run: a task file, references, or None for a model."""
        if self._classes():
            return None
        if self._parameters.taskFile:
            return Path(self._parameters.taskFile)
        adapted = self._valid()
        return adapted.file if adapted is not None else self.references()

    def why_not(self) -> str:
        """Reason why there is no task; empty if there is one."""
        return "" if self._classes() or self._parameters.taskFile or self.references() else _REFERENCE

    def why_not_adapt(self) -> str:
        """Reason why Adapt is not possible; empty if it is."""
        if self._classes() or self._parameters.taskFile:
            return _("Adapt needs references: press “Use references instead” first.")
        return "" if self.references() else _REFERENCE

    def update(self) -> None:
        """Show the task in use."""
        text = "" if self._parameters is None else self._text()
        self._ui.taskRow.visible = bool(text)
        self._ui.taskLabel.text = text
        if self._parameters is not None:
            self._note_base()

    def _text(self) -> str:
        """Description of the task or model in use; empty if references are used."""
        weights, task, adapted = self._parameters.weights, self._parameters.taskFile, self._valid()
        if classes := self._classes():
            return _("Uses the model “{name}”: {classes}").format(name=Path(weights).stem, classes=in_colour(classes.values()))
        if task:
            return _("Uses the saved task “{name}”.").format(name=Path(task).stem)
        return "" if adapted is None else adapted.text()

    def _classes(self) -> dict[int, LabelStyle] | None:
        """Classes of the weights in use; empty if they need references, None if they are missing."""
        return models.classes_of(self._parameters.weights)

    def _valid(self) -> Adapted | None:
        """The adapted task, if the references are still the same."""
        kept = self._adapted
        if kept is not None and (not kept.file.is_file() or kept.of != self.state()):
            self._adapted = kept = None
        return kept

    def _note_base(self) -> None:
        """Remember the latest weights that need references."""
        if self._classes() == {}:
            self._base = self._parameters.weights

    def _leave_model(self) -> None:
        if self._classes():
            self._parameters.weights = self._base
