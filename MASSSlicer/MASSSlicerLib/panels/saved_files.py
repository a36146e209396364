"""Tables of files the user gave names to: the task library and the finetuned models."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from mass_core.colors import LabelStyle

from ..library import models, named_files, tasks
from ..library.models import Model
from ..library.tasks import SavedTask
from ..runs.segmentation import Run
from .errors import errors_shown
from .items import put


class SavedFilesPanel:
    """Use, import, export, rename and delete saved files; a subclass fills the lines of the table (`_fill`).

    Args:
        ui: the window's parts by name.
        use: called with the file to segment with.
        moved: called with a file's name and the new one, empty if it was deleted.
    """

    KIND: str
    """As in the names of the window's parts."""
    LIBRARY: Any
    """Module that lists, adds and names the files."""
    FILTER: str
    IMPORT: str
    EXPORT: str
    RENAME: str
    DELETE: str

    def __init__(self, ui: object, use: Callable[[SavedTask | Model], None], moved: Callable[[str, str], None]) -> None:
        self._ui, self._use, self._moved = ui, use, moved
        self._saved: Sequence[SavedTask | Model] = ()
        self._table = getattr(ui, f"{self.KIND.lower()}sTable")
        self._table.connect("itemSelectionChanged()", self.update)
        self._table.connect("cellDoubleClicked(int,int)", lambda row, column: self.use_selected())
        actions = {
            "use": self.use_selected,
            "import": self._ask_import,
            "export": self._ask_export,
            "rename": self._ask_rename,
            "delete": self._ask_delete,
        }
        buttons = {action: getattr(ui, f"{action}{self.KIND}Button") for action in actions}
        for action, button in buttons.items():
            button.connect("clicked()", actions[action])
        self._for_selected = [button for action, button in buttons.items() if action != "import"]
        self.refresh()

    def refresh(self) -> None:
        """Show the files of the folder."""
        self._saved = self.LIBRARY.listing()
        self._table.setRowCount(len(self._saved))
        for row, saved in enumerate(self._saved):
            self._fill(row, saved)
        self.update()

    def update(self) -> None:
        """Enable the buttons that have something to act on."""
        for button in self._for_selected:
            button.enabled = self._selected() is not None

    def use_selected(self) -> None:
        """Segment with the selected file."""
        saved = self._selected()
        if saved is not None:
            self._use(saved)

    def _selected(self) -> SavedTask | Model | None:
        row = self._table.currentRow()
        return self._saved[row] if 0 <= row < len(self._saved) else None

    def _try(self, action: Callable[[], object]) -> None:
        with errors_shown():
            action()
        self.refresh()

    def _ask_import(self) -> None:
        path = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), self.IMPORT, "", self.FILTER)
        if path:
            self._try(lambda: self.LIBRARY.add(Path(path), Path(path).name))

    def _ask_export(self) -> None:
        saved = self._selected()
        path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), self.EXPORT, saved.path.name, self.FILTER)
        if path:
            self._try(lambda: named_files.copy(saved.path, Path(path)))

    def _ask_rename(self) -> None:
        saved = self._selected()
        name = qt.QInputDialog.getText(slicer.util.mainWindow(), self.RENAME, _("Name:"), qt.QLineEdit.Normal, saved.name)
        if name:
            self._try(lambda: self._moved(saved.name, saved.path.rename(self.LIBRARY.free(name)).stem))

    def _ask_delete(self) -> None:
        saved = self._selected()
        if slicer.util.confirmYesNoDisplay(self.DELETE.format(name=saved.name), windowTitle=_("MASS")):
            self._try(lambda: (saved.path.unlink(missing_ok=True), self._moved(saved.name, "")))


class TasksPanel(SavedFilesPanel):
    """The task library; also saves the task of the last run.

    Args:
        ui: the window's parts by name.
        use: called with the task file to segment with.
        last_run: returns the latest run, whose task can be saved.
    """

    KIND, LIBRARY, FILTER = "Task", tasks, "MASS task (*.masstask)"
    IMPORT, EXPORT, RENAME = _("Import task"), _("Export task"), _("Rename task")
    DELETE = _("Delete the task “{name}” from this computer?")

    def __init__(self, ui: object, use: Callable[[Path], None], last_run: Callable[[], Run | None]) -> None:
        self._last_run = last_run
        super().__init__(ui, lambda task: use(task.path), lambda name, to: None)
        ui.saveTaskButton.connect("clicked()", self._ask_save)

    def update(self) -> None:
        """Enable the buttons that have something to act on."""
        super().update()
        run = self._last_run()
        self._ui.saveTaskButton.enabled = run is not None and run.task_file is not None

    def _fill(self, row: int, saved: SavedTask) -> None:
        for column, text in enumerate((saved.name, saved.weights)):
            put(self._table, row, column, text, ", ".join(saved.labels))

    def _ask_save(self) -> None:
        run = self._last_run()
        names = ", ".join(style.name for style in run.found.values())
        name = qt.QInputDialog.getText(slicer.util.mainWindow(), _("Save task"), _("Name:"), qt.QLineEdit.Normal, names)
        if name:
            self._try(lambda: tasks.add(run.task_file, name))


class ModelsPanel(SavedFilesPanel):
    """The finetuned models."""

    KIND, LIBRARY, FILTER = "Model", models, "MASS model (*.safetensors)"
    IMPORT, EXPORT, RENAME = _("Import model"), _("Export model"), _("Rename model")
    DELETE = _("Delete the model “{name}” from this computer? Without its training data it cannot be made again.")

    def _fill(self, row: int, saved: Model) -> None:
        put(self._table, row, 0, saved.name)
        label = qt.QLabel(in_colour(saved.classes.values()))
        label.toolTip = ", ".join(one.name for one in saved.classes.values())
        self._table.setCellWidget(row, 1, label)


def in_colour(classes: Iterable[LabelStyle]) -> str:
    """Names of classes behind a square of their colour, as rich text."""
    return ", ".join(f"{_square(one.color)}{html.escape(one.name)}" for one in classes)


def _square(color: tuple[float, float, float] | None) -> str:
    """A square of a colour as rich text; empty without a colour."""
    if color is None:
        return ""
    red, green, blue = (round(255 * value) for value in color)
    return f'<span style="color:#{red:02x}{green:02x}{blue:02x}">■</span> '
