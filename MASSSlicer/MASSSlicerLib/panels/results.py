"""The table of results and its buttons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from mass_core.outputs import amount

from ..runs import cases as c
from ..runs import quality
from ..runs.cases import Case
from ..scene import exchange as scene
from .drawing import editor_node
from .errors import errors_shown
from .items import put

_WORDS = {
    c.WAITING: _("waiting"),
    c.RUNNING: _("running"),
    c.DONE: _("done"),
    c.SKIPPED: _("skipped"),
    c.FAILED: _("failed"),
    c.STOPPED: _("stopped"),
}
_QUALITY, _NOTE = 4, 5
"""Columns."""
_SWATCH = 12
"""Pixels of the coloured square before a word on quality and a serious warning."""
_KEYS: tuple[Callable[[Case], object], ...] = (
    lambda case: case.name.lower(),
    lambda case: _WORDS[case.status],
    lambda case: case.seconds or None,
    lambda case: sum(case.volumes_ml.values()) if case.volumes_ml else None,
    lambda case: case.quality[quality.worst(case.quality)].rank if case.quality else None,
    lambda case: (not case.serious, note) if (note := _note(case)) else None,
)
"""Sort key of each column; unknown values come last, serious warnings before other notes."""


class ResultsPanel:
    """Shows the cases of a run; a line belongs to its case, wherever sorting puts it.

    Args:
        ui: the window's parts by name.
        as_reference: called with volume, segmentation and segment IDs to add as a reference.
        for_finetuning: called with volume and segmentation to finetune on.
    """

    def __init__(self, ui: object, as_reference: Callable[..., None], for_finetuning: Callable[..., None]) -> None:
        self._table, self._as_reference = ui.resultsTable, as_reference
        self._buttons = (ui.showButton, ui.editButton, ui.asReferenceButton, ui.forFinetuningButton, ui.exportButton)
        self._cases: list[Case] = []
        self._shown: list[Case] = []
        """In the order of the lines."""
        self._sorted_by: tuple[int, bool] | None = None
        """Column, and whether the other way round; None: in the order of the run."""
        self._table.horizontalHeader().setSectionsClickable(True)
        self._table.horizontalHeader().connect("sectionClicked(int)", self.sort)
        self._table.connect("itemSelectionChanged()", self.refresh)
        self._table.connect("cellDoubleClicked(int,int)", lambda row, column: self.show_selected())
        ui.showButton.connect("clicked()", self.show_selected)
        ui.editButton.connect("clicked()", self._edit)
        ui.asReferenceButton.connect("clicked()", self._use_as_reference)
        ui.forFinetuningButton.connect("clicked()", lambda: for_finetuning(*self._nodes()))
        ui.exportButton.connect("clicked()", self._ask_export)
        self.refresh()

    def begin(self, cases: Sequence[Case]) -> None:
        """Show the targets of a new run; none: remove all lines."""
        self._cases = list(cases)
        self._sorted_by = None
        self._rearrange(None)

    def update(self, case: Case) -> None:
        """Show a case that changed, and move its line to its place in the order."""
        row = self._row(case)
        if row is None:
            return
        if self._in_order() != self._shown:
            self._rearrange(self.selected())
            return
        self._fill(row)
        self._show_quality()
        self.refresh()

    def sort(self, column: int) -> None:
        """Sort by a column; again: in reverse; a third time: in the order of the run."""
        known, turned = self._sorted_by or (-1, False)
        self._sorted_by = (column, False) if column != known else None if turned else (column, True)
        self._rearrange(self.selected())

    def refresh(self) -> None:
        """Enable the buttons that can be used: lines are selected, nodes come and go."""
        volume, segmentation = self._nodes()
        show, *rest = self._buttons
        show.enabled = volume is not None
        for button in rest:
            button.enabled = volume is not None and segmentation is not None

    def selected(self) -> Case | None:
        """The case of the selected line, or of the only line."""
        row = 0 if len(self._cases) == 1 else self._table.currentRow()
        return self._shown[row] if 0 <= row < len(self._shown) else None

    def show_selected(self) -> None:
        """Show scan and result in the views."""
        volume, segmentation = self._nodes()
        if volume is None:
            return
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        if segmentation is not None and segmentation.GetDisplayNode() is not None:
            segmentation.GetDisplayNode().SetVisibility(True)

    def save_selected(self, path: Path) -> None:
        """Write the selected result to a file."""
        volume, segmentation = self._nodes()
        with errors_shown():
            scene.save_segments(segmentation, self.selected().segment_ids, volume, path)

    def _rearrange(self, chosen: Case | None) -> None:
        """Fill all lines; the same case stays selected."""
        self._shown = self._in_order()
        self._table.setRowCount(len(self._shown))
        for row in range(len(self._shown)):
            self._fill(row)
        self._show_quality()
        header = self._table.horizontalHeader()
        header.setSortIndicatorShown(self._sorted_by is not None)
        if self._sorted_by is not None:
            column, turned = self._sorted_by
            header.setSortIndicator(column, qt.Qt.DescendingOrder if turned else qt.Qt.AscendingOrder)
        self._select(chosen)
        self.refresh()

    def _show_quality(self) -> None:
        """Show the column only if results were checked."""
        self._table.setColumnHidden(_QUALITY, not any(case.quality for case in self._cases))

    def _in_order(self) -> list[Case]:
        """The cases in the order of the lines."""
        if self._sorted_by is None:
            return list(self._cases)
        column, turned = self._sorted_by
        key = _KEYS[column]
        known = [case for case in self._cases if key(case) is not None]
        return sorted(known, key=key, reverse=turned) + [case for case in self._cases if key(case) is None]

    def _row(self, case: Case) -> int | None:
        """The line of a case."""
        return next((number for number, known in enumerate(self._shown) if known is case), None)

    def _select(self, case: Case | None) -> None:
        row = None if case is None else self._row(case)
        if row is not None and row != self._table.currentRow():
            self._table.setCurrentCell(row, 0)

    def _fill(self, row: int) -> None:
        """Write a line."""
        case = self._shown[row]
        volumes = ", ".join(f"{name} {amount(ml)}" for name, ml in case.volumes_ml.items())
        time = f"{case.seconds:.1f} s" if case.seconds else ""
        judged = quality.summary(case.quality)
        for column, text in enumerate((case.name, _WORDS[case.status], time, volumes, judged, _note(case))):
            lines = [text, case.message, *case.warnings] if column < _NOTE else [case.message, *case.warnings]
            item = put(self._table, row, column, text, "\n".join(filter(None, lines)))
            if column == _QUALITY and judged:
                item.setToolTip(quality.details(case.quality))
                item.setIcon(_swatch(quality.COLORS[case.quality[quality.worst(case.quality)].flag]))
            if column == _NOTE and case.serious:
                item.setIcon(_swatch(quality.COLORS[quality.CHECK]))

    def _nodes(self) -> tuple[slicer.vtkMRMLNode | None, slicer.vtkMRMLNode | None]:
        """Volume and segmentation of the selected case, as far as they are in the scene."""
        case = self.selected()
        ids = ("", "") if case is None else (case.volume_id, case.segmentation_id)
        return tuple(slicer.mrmlScene.GetNodeByID(node_id) if node_id else None for node_id in ids)

    def _edit(self) -> None:
        """Open the result in the Segment Editor, with its scan."""
        volume, segmentation = self._nodes()
        slicer.util.selectModule("SegmentEditor")
        editor = editor_node("SegmentEditor")
        editor.SetAndObserveSegmentationNode(segmentation)
        editor.SetAndObserveSourceVolumeNode(volume)

    def _use_as_reference(self) -> None:
        volume, segmentation = self._nodes()
        self._as_reference(volume, segmentation, list(self.selected().segment_ids))

    def _ask_export(self) -> None:
        name = self.selected().name
        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Export result"), f"{name}.seg.nrrd", "Segmentation (*.seg.nrrd);;Label map (*.nii.gz *.nrrd)"
        )
        if path:
            self.save_selected(Path(path))


def _note(case: Case) -> str:
    """Message and warnings in one line."""
    return " ".join([case.message, *case.warnings]).replace("\n", " ").strip()


def _swatch(color: str) -> qt.QIcon:
    """A small square of one colour."""
    square = qt.QPixmap(_SWATCH, _SWATCH)
    square.fill(qt.QColor(color))
    return qt.QIcon(square)
