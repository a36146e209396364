"""The task library on the screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from mass_core.errors import MassError

from ..library import tasks
from ..library.tasks import SavedTask
from ..runs.segmentation import Run

_FILTER = "MASS task (*.masstask)"


class LibraryPanel:
    """Save, use, share and delete tasks.

    Args:
        ui: the window's parts by name.
        use: called with the file of the task to segment with.
        last_run: the latest run, whose task can be saved.
        failed: shows an error.
    """

    def __init__(
        self,
        ui: object,
        use: Callable[[Path], None],
        last_run: Callable[[], Run | None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._ui, self._use, self._last_run, self._failed = ui, use, last_run, failed
        self._tasks: list[SavedTask] = []
        ui.tasksTable.connect("itemSelectionChanged()", self.update)
        ui.tasksTable.connect("cellDoubleClicked(int,int)", lambda row, column: self.use_selected())
        ui.useTaskButton.connect("clicked()", self.use_selected)
        ui.saveTaskButton.connect("clicked()", self._ask_save)
        ui.importTaskButton.connect("clicked()", self._ask_import)
        ui.exportTaskButton.connect("clicked()", self._ask_export)
        ui.renameTaskButton.connect("clicked()", self._ask_rename)
        ui.deleteTaskButton.connect("clicked()", self._ask_delete)
        self.refresh()

    def refresh(self) -> None:
        """Show what is in the folder."""
        self._tasks = tasks.listing()
        table = self._ui.tasksTable
        table.setRowCount(len(self._tasks))
        for row, task in enumerate(self._tasks):
            for column, text in enumerate((task.name, task.weights)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(", ".join(task.labels))
                table.setItem(row, column, item)
        self.update()

    def update(self) -> None:
        """What can be pressed."""
        for button in (self._ui.useTaskButton, self._ui.exportTaskButton, self._ui.renameTaskButton, self._ui.deleteTaskButton):
            button.enabled = self._selected() is not None
        run = self._last_run()
        self._ui.saveTaskButton.enabled = run is not None and run.task_file is not None

    def use_selected(self) -> None:
        """Segment with the selected task."""
        task = self._selected()
        if task is not None:
            self._use(task.path)

    def save(self, name: str) -> None:
        """Keep the task of the last run."""
        run = self._last_run()
        if run is not None and run.task_file is not None:
            self._try(lambda: tasks.add(run.task_file, name))

    def bring(self, path: Path) -> None:
        """Copy a file into the library."""
        self._try(lambda: tasks.add(path, path.name))

    def send(self, path: Path) -> None:
        """Copy the selected task to a file."""
        task = self._selected()
        self._try(lambda: tasks.copy(task, path))

    def rename(self, name: str) -> None:
        """Give the selected task another name."""
        task = self._selected()
        self._try(lambda: tasks.rename(task, name))

    def delete(self) -> None:
        """Delete the selected task."""
        task = self._selected()
        self._try(lambda: tasks.delete(task))

    def _selected(self) -> SavedTask | None:
        row = self._ui.tasksTable.currentRow()
        return self._tasks[row] if 0 <= row < len(self._tasks) else None

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (MassError, OSError) as error:
            self._failed(error)
        self.refresh()

    def _ask_save(self) -> None:
        names = ", ".join(look.name for look in self._last_run().found.values())
        name = qt.QInputDialog.getText(slicer.util.mainWindow(), _("Save task"), _("Name:"), qt.QLineEdit.Normal, names)
        if name:
            self.save(name)

    def _ask_import(self) -> None:
        path = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("Task to import"), "", _FILTER)
        if path:
            self.bring(Path(path))

    def _ask_export(self) -> None:
        path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), _("Export task"), self._selected().path.name, _FILTER)
        if path:
            self.send(Path(path))

    def _ask_rename(self) -> None:
        name = qt.QInputDialog.getText(slicer.util.mainWindow(), _("Rename task"), _("Name:"), qt.QLineEdit.Normal, self._selected().name)
        if name:
            self.rename(name)

    def _ask_delete(self) -> None:
        question = _("Delete the task “{name}” from this computer?").format(name=self._selected().name)
        if slicer.util.confirmYesNoDisplay(question, windowTitle=_("MASS")):
            self.delete()
