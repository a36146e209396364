"""The table of results and what can be done with one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from mass_core.errors import MassError

from . import cases as c
from . import scene
from .cases import Case

_WORDS = {
    c.WAITING: _("waiting"),
    c.RUNNING: _("running"),
    c.DONE: _("done"),
    c.SKIPPED: _("was done"),
    c.FAILED: _("failed"),
    c.STOPPED: _("stopped"),
}


class ResultsPanel:
    """Shows the cases of a run.

    Args:
        ui: the window's parts by name.
        as_reference: called with volume, segmentation and segment IDs to add as a reference.
        failed: shows an error.
    """

    def __init__(self, ui: object, as_reference: Callable[..., None], failed: Callable[[Exception], None]) -> None:
        self._table = ui.resultsTable
        self._as_reference, self._failed = as_reference, failed
        self._buttons = (ui.showButton, ui.editButton, ui.asReferenceButton, ui.exportButton)
        self._cases: list[Case] = []
        self._table.connect("itemSelectionChanged()", self._on_selection)
        self._table.connect("cellDoubleClicked(int,int)", lambda row, column: self.show_selected())
        ui.showButton.connect("clicked()", self.show_selected)
        ui.editButton.connect("clicked()", self._edit)
        ui.asReferenceButton.connect("clicked()", self._use_as_reference)
        ui.exportButton.connect("clicked()", self._ask_export)
        self._on_selection()

    def begin(self, cases: Sequence[Case]) -> None:
        """A run has these targets."""
        self._cases = list(cases)
        self._table.setRowCount(len(self._cases))
        for case in self._cases:
            self.update(case)
        self._on_selection()

    def update(self, case: Case) -> None:
        """Something about a case changed."""
        row = next((number for number, known in enumerate(self._cases) if known is case), None)
        if row is None:
            return
        volumes = ", ".join(f"{name} {_amount(ml)}" for name, ml in case.volumes_ml.items())
        note = " ".join([case.message, *case.warnings]).replace("\n", " ").strip()
        cells = (case.name, _WORDS[case.status], f"{case.seconds:.1f} s" if case.seconds else "", volumes, note)
        for column, text in enumerate(cells):
            item = qt.QTableWidgetItem(text)
            item.setToolTip("\n".join([case.message, *case.warnings]).strip() or text)
            self._table.setItem(row, column, item)
        self._on_selection()

    def clear(self) -> None:
        """The scene is closed."""
        self.begin([])

    def selected(self) -> Case | None:
        """The case of the selected line; with a single line, that one."""
        row = 0 if len(self._cases) == 1 else self._table.currentRow()
        return self._cases[row] if 0 <= row < len(self._cases) else None

    def show_selected(self) -> None:
        """Bring scan and result into the views."""
        volume, segmentation = self._nodes()
        if volume is None:
            return
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        if segmentation is not None and segmentation.GetDisplayNode() is not None:
            segmentation.GetDisplayNode().SetVisibility(True)

    def save_selected(self, path: Path) -> None:
        """Write the selected result to a file."""
        case = self.selected()
        volume, segmentation = self._nodes()
        try:
            scene.save_segments(segmentation, case.segment_ids, volume, path)
        except (MassError, OSError) as error:
            self._failed(error)

    def _nodes(self) -> tuple[slicer.vtkMRMLNode | None, slicer.vtkMRMLNode | None]:
        """Volume and segmentation of the selected case, as far as they are in the scene."""
        case = self.selected()
        ids = ("", "") if case is None else (case.volume_id, case.segmentation_id)
        return tuple(slicer.mrmlScene.GetNodeByID(node_id) if node_id else None for node_id in ids)

    def _edit(self) -> None:
        """Open the result in the Segment Editor, with its scan."""
        volume, segmentation = self._nodes()
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
        if editor is None:
            editor = slicer.vtkMRMLSegmentEditorNode()
            editor.SetSingletonTag("SegmentEditor")
            editor = slicer.mrmlScene.AddNode(editor)
        editor.SetAndObserveSegmentationNode(segmentation)
        editor.SetAndObserveSourceVolumeNode(volume)

    def _use_as_reference(self) -> None:
        volume, segmentation = self._nodes()
        self._as_reference(volume, segmentation, list(self.selected().segment_ids))

    def _ask_export(self) -> None:
        name = self.selected().name
        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Write the result"), f"{name}.seg.nrrd", "Segmentation (*.seg.nrrd);;Label map (*.nii.gz *.nrrd)"
        )
        if path:
            self.save_selected(Path(path))

    def _on_selection(self) -> None:
        volume, segmentation = self._nodes()
        show, *rest = self._buttons
        show.enabled = volume is not None
        for button in rest:
            button.enabled = volume is not None and segmentation is not None


def _amount(ml: float) -> str:
    """Millilitres with three digits."""
    return f"{ml:.0f} ml" if ml >= 100 else f"{ml:.3g} ml"
