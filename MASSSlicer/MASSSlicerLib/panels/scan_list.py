"""A table of scans: nodes of the scene to tick, and below them files that were added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer

from ..parameters import MASSSlicerParameterNode


class ScanList:
    """Keeps the table and the parameters in step.

    A subclass has `_in_scene` for the nodes, `_show_node` and `_show_file` to fill a line, `add_folder` for the files of a folder,
    `_store_ticks` for IDs of ticked nodes, and `_all_or_none`.

    Args:
        table: of the window.
        buttons: tick all or none, add a folder, remove.
        changed: called whenever the list changed.
    """

    FILES: str
    """Parameter that holds the files."""
    FOLDER: str
    """Title of the dialog that asks for a folder."""

    def __init__(self, table: Any, buttons: tuple[Any, Any, Any], changed: Callable[[], None]) -> None:
        self._table, self._changed = table, changed
        self._parameters: MASSSlicerParameterNode | None = None
        self._quiet = False
        self._nodes: list[str] = []
        """IDs, line by line."""
        table.connect("itemChanged(QTableWidgetItem*)", self._on_item)
        for button, action in zip(buttons, (self._all_or_none, self._ask_folder, self._remove_selected), strict=True):
            button.connect("clicked()", action)

    def show(self, parameters: MASSSlicerParameterNode | None) -> None:
        """Show the scans of a scene, with new lines."""
        for shown in (None, parameters):
            self._parameters = shown
            self.refresh()

    def refresh(self) -> None:
        """Show nodes and files as they are now."""
        nodes, files = ([], []) if self._parameters is None else (self._in_scene(), self._files)
        self._quiet = True
        self._show_ids([node.GetID() for node in nodes])
        self._table.setRowCount(len(nodes) + len(files))
        for row, node in enumerate(nodes):
            self._show_node(row, node)
        for row, entry in enumerate(files, len(nodes)):
            self._show_file(row, entry)
        self._quiet = False

    def _show_ids(self, ids: list[str]) -> None:
        """Note which nodes the lines show from now on."""
        self._nodes = ids

    @property
    def _files(self) -> list[str]:
        """Lines of the parameters, one for each file."""
        return list(getattr(self._parameters, self.FILES))

    def _store_files(self, files: Sequence[str]) -> None:
        setattr(self._parameters, self.FILES, list(files))
        self._refresh_and_report()

    def _refresh_and_report(self) -> None:
        self.refresh()
        self._changed()

    def _on_item(self, item: qt.QTableWidgetItem) -> None:
        if not self._quiet and item.column() == 0 and item.row() < len(self._nodes):
            self._read_ticks()

    def _read_ticks(self) -> None:
        """Store the ticks of the table in the parameters."""
        ids = [i for row, i in enumerate(self._nodes) if self._table.item(row, 0).checkState() == qt.Qt.Checked]
        self._store_ticks([i for i in ids if slicer.mrmlScene.GetNodeByID(i) is not None])
        self._changed()

    def _ask_folder(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), self.FOLDER)
        if folder:
            self.add_folder(Path(folder))

    def _remove_selected(self) -> None:
        """Take the selected file off the list."""
        number, files = self._table.currentRow() - len(self._nodes), self._files
        if 0 <= number < len(files):
            del files[number]
            self._store_files(files)
