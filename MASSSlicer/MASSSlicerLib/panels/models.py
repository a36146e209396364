"""Finetuned models on the screen."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from mass_core.errors import MassError
from mass_core.weights.store import WeightsClass

from ..library import models, named_files
from ..library.models import Model

_FILTER = "MASS model (*.safetensors)"


class ModelsPanel:
    """Use, share, rename and delete models.

    Args:
        ui: the window's parts by name.
        use: called with the name of the model to segment with.
        moved: called with a model's name and the new one, empty if it was deleted.
        failed: shows an error.
    """

    def __init__(
        self, ui: object, use: Callable[[str], None], moved: Callable[[str, str], None], failed: Callable[[Exception], None]
    ) -> None:
        self._ui, self._use, self._moved, self._failed = ui, use, moved, failed
        self._models: list[Model] = []
        ui.modelsTable.connect("itemSelectionChanged()", self.update)
        ui.modelsTable.connect("cellDoubleClicked(int,int)", lambda row, column: self._use_selected())
        ui.useModelButton.connect("clicked()", self._use_selected)
        ui.importModelButton.connect("clicked()", self._ask_import)
        ui.exportModelButton.connect("clicked()", self._ask_export)
        ui.renameModelButton.connect("clicked()", self._ask_rename)
        ui.deleteModelButton.connect("clicked()", self._ask_delete)
        self.refresh()

    def refresh(self) -> None:
        """Show what is in the folder."""
        self._models = models.listing()
        table = self._ui.modelsTable
        table.setRowCount(len(self._models))
        for row, model in enumerate(self._models):
            table.setItem(row, 0, qt.QTableWidgetItem(model.name))
            label = qt.QLabel(in_colour(model.classes))
            label.toolTip = ", ".join(one.name for one in model.classes)
            table.setCellWidget(row, 1, label)
        self.update()

    def update(self) -> None:
        """What can be pressed."""
        ui, chosen = self._ui, self._selected() is not None
        for button in (ui.useModelButton, ui.exportModelButton, ui.renameModelButton, ui.deleteModelButton):
            button.enabled = chosen

    def _selected(self) -> Model | None:
        row = self._ui.modelsTable.currentRow()
        return self._models[row] if 0 <= row < len(self._models) else None

    def _use_selected(self) -> None:
        model = self._selected()
        if model is not None:
            self._use(model.name)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (MassError, OSError) as error:
            self._failed(error)
        self.refresh()

    def _ask_import(self) -> None:
        path = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("Model to import"), "", _FILTER)
        if path:
            self._try(lambda: models.add(Path(path), Path(path).name))

    def _ask_export(self) -> None:
        model = self._selected()
        path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), _("Export model"), model.path.name, _FILTER)
        if path:
            self._try(lambda: named_files.copy(model.path, Path(path)))

    def _ask_rename(self) -> None:
        model = self._selected()
        name = qt.QInputDialog.getText(slicer.util.mainWindow(), _("Rename model"), _("Name:"), qt.QLineEdit.Normal, model.name)
        if name:
            self._try(lambda: self._moved(model.name, models.rename(model, name).name))

    def _ask_delete(self) -> None:
        model = self._selected()
        question = _("Delete the model “{name}” from this computer? It cannot be made again without its training data.")
        if slicer.util.confirmYesNoDisplay(question.format(name=model.name), windowTitle=_("MASS")):
            self._try(lambda: (models.delete(model), self._moved(model.name, "")))


def in_colour(classes: Sequence[WeightsClass]) -> str:
    """Names of classes behind a square of their colour, as rich text."""
    return ", ".join(f"{_square(one.color)}{html.escape(one.name)}" for one in classes)


def _square(color: tuple[float, float, float] | None) -> str:
    """Of a colour; nothing where there is none."""
    if color is None:
        return ""
    red, green, blue = (round(255 * value) for value in color)
    return f'<span style="color:#{red:02x}{green:02x}{blue:02x}">■</span> '
