"""Entries of combo boxes and cells of tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import qt


def fill(combo: qt.QComboBox, entries: Iterable[tuple[str, str]], chosen: str) -> None:
    """Offer entries, given as text and value, and select a value, which is added where it is none of them; no signal is sent."""
    combo.blockSignals(True)
    combo.clear()
    for text, value in entries:
        combo.addItem(text, value)
    if combo.findData(chosen) < 0:
        combo.addItem(Path(chosen).name, chosen)
    combo.currentIndex = combo.findData(chosen)
    combo.blockSignals(False)


def put(
    table: qt.QTableWidget, row: int, column: int, text: str, tip: str = "", *, ticked: bool | None = None, locked: bool = False
) -> qt.QTableWidgetItem:
    """Fill a cell with text and return its item.

    Args:
        table: the cell's.
        row: from 0.
        column: from 0.
        text: shown.
        tip: of the cell.
        ticked: state of its check box; None: it has none.
        locked: the check box cannot be clicked.
    """
    item = qt.QTableWidgetItem(text)
    item.setToolTip(tip)
    if ticked is not None:
        flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
        item.setFlags(flags if locked else flags | qt.Qt.ItemIsUserCheckable)
        item.setCheckState(qt.Qt.Checked if ticked else qt.Qt.Unchecked)
    table.setItem(row, column, item)
    return item
