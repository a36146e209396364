"""The table of references: a line holds a scan, a segmentation and which of its segments count."""

from __future__ import annotations

import json
from collections.abc import Callable

import qt
import slicer
from slicer.i18n import tr as _

from ..parameters import MASSSlicerParameterNode
from ..scene import exchange as scene
from .selectors import selector


class ReferenceRow:
    """One line of the table.

    Args:
        changed: called whenever the user chose something.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._quiet = False
        self.volume = selector("vtkMRMLScalarVolumeNode", _("Scan the reference was drawn on"))
        self.segmentation = selector("vtkMRMLSegmentationNode", _("Segmentation of the structure to find"))
        self.segments = qt.QToolButton()
        self.segments.popupMode = qt.QToolButton.InstantPopup
        self.segments.toolTip = _("Segments to find; each one becomes a structure of the result")
        self.segments.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Preferred)
        self._menu = qt.QMenu(self.segments)
        self.segments.setMenu(self._menu)
        self._menu.connect("aboutToShow()", self._fill)
        self._chosen: list[str] = []
        self.volume.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: None if self._quiet else self._changed())
        self.segmentation.connect("currentNodeChanged(vtkMRMLNode*)", self._on_segmentation)
        self.show_segments()

    @property
    def complete(self) -> bool:
        """True if scan and segmentation are chosen."""
        return self.volume.currentNode() is not None and self.segmentation.currentNode() is not None

    def chosen(self) -> list[str]:
        """IDs of the ticked segments; empty: all."""
        return list(self._chosen)

    def put(self, volume: slicer.vtkMRMLNode | None, segmentation: slicer.vtkMRMLNode | None, chosen: list[str]) -> None:
        """Show a reference without reporting a change."""
        self._quiet = True
        self.volume.setCurrentNode(volume)
        self.segmentation.setCurrentNode(segmentation)
        self._chosen = list(chosen)
        self._quiet = False
        self.show_segments()

    def show_segments(self) -> None:
        """Show the chosen segments on the button."""
        segmentation = self.segmentation.currentNode()
        if segmentation is None:
            self.segments.text, self.segments.enabled = _("none"), False
            return
        known = scene.segment_ids(segmentation)
        ids = [i for i in known if i in self._chosen] if self._chosen else known
        names = [style.name for style in scene.label_styles(segmentation, ids).values()]
        self.segments.enabled = True
        self.segments.text = ", ".join(names) if names else _("nothing drawn yet")

    def close(self) -> None:
        """Detach the selectors of a removed line from the scene."""
        self._quiet = True
        self.volume.setMRMLScene(None)
        self.segmentation.setMRMLScene(None)

    def _on_segmentation(self, node: slicer.vtkMRMLNode | None) -> None:
        if self._quiet:
            return
        self._chosen = []
        drawn_on = None if node is None else node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
        if drawn_on is not None and self.volume.currentNode() is None:
            self._quiet = True
            self.volume.setCurrentNode(drawn_on)
            self._quiet = False
        self.show_segments()
        self._changed()

    def _fill(self) -> None:
        """Fill the menu, each time it opens: segments come and go."""
        self._menu.clear()
        segmentation = self.segmentation.currentNode()
        if segmentation is None:
            return
        for segment_id, style in scene.label_styles(segmentation, scene.segment_ids(segmentation)).items():
            action = self._menu.addAction(style.name)
            action.checkable = True
            action.checked = not self._chosen or segment_id in self._chosen
            action.connect("toggled(bool)", lambda on, segment_id=segment_id: self._toggle(segment_id, on))

    def _toggle(self, segment_id: str, on: bool) -> None:
        known = scene.segment_ids(self.segmentation.currentNode())
        ticked = set(self._chosen or known)
        ticked = ticked | {segment_id} if on else ticked - {segment_id}
        # All or none of them ticked both mean: all, also those drawn later.
        self._chosen = [] if len(ticked) in (0, len(known)) else [i for i in known if i in ticked]
        self.show_segments()
        self._changed()


class ReferencesPanel:
    """Keeps the table and the parameters in step; an unfinished line stays out of the parameters.

    Args:
        ui: the window's parts by name.
        changed: called whenever the references changed.
    """

    def __init__(self, ui: object, changed: Callable[[], None]) -> None:
        self._table = ui.referencesTable
        self._changed = changed
        self._parameters: MASSSlicerParameterNode | None = None
        self.rows: list[ReferenceRow] = []
        ui.addReferenceButton.connect("clicked()", self.add)
        ui.removeReferenceButton.connect("clicked()", self._remove_selected)

    def show(self, parameters: MASSSlicerParameterNode | None) -> None:
        """Show the references of a scene."""
        self._parameters = parameters
        self._clear()
        if parameters is None:
            return
        for row in zip(parameters.referenceVolumes, parameters.referenceSegmentations, parameters.referenceSegments, strict=False):
            self._append(row[0], row[1], json.loads(row[2] or "[]"))
        if not self.rows:
            self._append(None, None, [])

    def selected(self) -> ReferenceRow | None:
        """The line that is selected, or the last one."""
        number = self._table.currentRow()
        return self.rows[number] if 0 <= number < len(self.rows) else (self.rows[-1] if self.rows else None)

    def refresh(self) -> None:
        """Show segments as they are now."""
        for row in self.rows:
            row.show_segments()

    def add(self) -> ReferenceRow:
        """Add an empty line."""
        self._append(None, None, [])
        self._table.setCurrentCell(len(self.rows) - 1, 0)
        return self.rows[-1]

    def add_reference(self, volume: slicer.vtkMRMLNode, segmentation: slicer.vtkMRMLNode, segment_ids: list[str]) -> None:
        """Add a reference, in place of an unfinished line."""
        row = next((row for row in self.rows if not row.complete), None) or self.add()
        row.put(volume, segmentation, segment_ids)
        self._store()

    def _append(self, volume: slicer.vtkMRMLNode | None, segmentation: slicer.vtkMRMLNode | None, chosen: list[str]) -> None:
        row = ReferenceRow(self._store)
        number = len(self.rows)
        self._table.setRowCount(number + 1)
        for column, widget in enumerate((row.volume, row.segmentation, row.segments)):
            self._table.setCellWidget(number, column, widget)
        self.rows.append(row)
        row.put(volume, segmentation, chosen)

    def _remove_selected(self) -> None:
        row = self.selected()
        row.close()
        self._table.removeRow(self.rows.index(row))
        self.rows.remove(row)
        if not self.rows:
            self._append(None, None, [])
        self._store()

    def _clear(self) -> None:
        for row in self.rows:
            row.close()
        self._table.setRowCount(0)
        self.rows = []

    def _store(self) -> None:
        """Write the complete lines to the parameters."""
        if self._parameters is not None:
            complete = [row for row in self.rows if row.complete]
            with slicer.util.NodeModify(self._parameters.parameterNode):
                self._parameters.referenceVolumes = [row.volume.currentNode() for row in complete]
                self._parameters.referenceSegmentations = [row.segmentation.currentNode() for row in complete]
                self._parameters.referenceSegments = [json.dumps(row.chosen()) for row in complete]
        self._changed()
