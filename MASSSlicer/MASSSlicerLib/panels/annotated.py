"""The table of annotated scans: segmentations of the scene to tick, each with its scan, and scans with label maps of a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from mass_core.errors import MassError

from ..parameters import MASSSlicerParameterNode
from ..processes.surveying import Survey
from ..runs import annotated, pairs
from ..runs.annotated import Annotated
from ..runs.order import Reference
from ..scene import exchange as scene
from .selectors import selector


class AnnotatedPanel:
    """Keeps the table and the parameters in step.

    Args:
        ui: the window's parts by name.
        changed: called whenever the cases changed.
        failed: shows an error.
    """

    def __init__(self, ui: object, changed: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        self._ui, self._table = ui, ui.annotatedTable
        self._changed, self._failed = changed, failed
        self._parameters: MASSSlicerParameterNode | None = None
        self._quiet = False
        self._segmentations: list[str] = []
        """IDs, line by line."""
        self._scans: dict[str, Any] = {}
        """Selectors by the ID of the segmentation."""
        self._survey: Survey | None = None
        self._pairs: dict[str, Path] = {}
        """Scans by label map, of the survey that is on."""
        self._names: dict[int, str] = {}
        self._table.connect("itemChanged(QTableWidgetItem*)", self._on_item)
        ui.allAnnotatedButton.connect("clicked()", self._all_or_none)
        ui.addAnnotatedButton.connect("clicked()", self._ask_folder)
        ui.removeAnnotatedButton.connect("clicked()", self._remove_selected)

    @property
    def looking(self) -> bool:
        """Whether label maps of a folder are being looked at."""
        return self._survey is not None

    def show(self, parameters: MASSSlicerParameterNode | None) -> None:
        """Show the cases of a scene."""
        self._parameters = parameters
        self._segmentations = []
        self._clear()
        if parameters is not None:
            self.refresh()
        elif self._survey is not None:
            self._survey.cancel()

    def refresh(self) -> None:
        """Segmentations or segments came, went or were renamed."""
        if self._parameters is None:
            return
        nodes = [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if not node.GetHideFromEditors()]
        ids, files = [node.GetID() for node in nodes], list(self._parameters.tuneFiles)
        self._quiet = True
        if ids != self._segmentations:
            self._clear()
            self._segmentations = ids
        self._table.setRowCount(len(nodes) + len(files))
        ticked = self._stored()
        for row, node in enumerate(nodes):
            self._show_segmentation(row, node, ticked)
        for row, entry in enumerate(map(json.loads, files), len(nodes)):
            self._show_file(row, entry)
        self._quiet = False

    def cases(self) -> tuple[list[Annotated], str]:
        """The ticked cases, and why one of them cannot be used; empty: all can."""
        if self._parameters is None:
            return [], ""
        found, problems = [], []
        for segmentation_id, volume in self._stored().items():
            try:
                found.append(annotated.of_scene(Reference(volume, slicer.mrmlScene.GetNodeByID(segmentation_id))))
            except MassError as error:
                problems.append(f"{error.message} {error.cure}")
        found += [_of_entry(json.loads(entry)) for entry in self._parameters.tuneFiles]
        return found, problems[0] if problems else ""

    def add(self, volume: slicer.vtkMRMLNode, segmentation: slicer.vtkMRMLNode) -> None:
        """Tick a segmentation, with its scan."""
        self.refresh()
        stored = self._stored() | {segmentation.GetID(): volume}
        self._store(stored)
        self.refresh()
        self._changed()

    def add_folder(self, folder: Path) -> None:
        """Look at every label map in a folder, then add it with its scan."""
        try:
            found = pairs.of_folder(folder)
            known = {json.loads(entry)["mask"] for entry in self._parameters.tuneFiles}
            self._pairs = {str(mask): image for image, mask in found if str(mask) not in known}
            self._names = pairs.names(folder)
            self._survey = Survey([Path(mask) for mask in self._pairs], looked=self._on_looked, finished=self._on_survey_over)
            self._survey.start()
        except MassError as error:
            self._failed(error)
        self._changed()

    def _on_looked(self, found: Mapping[str, Any]) -> None:
        """A label map was looked at; one that cannot be used is told, the others count."""
        if self._parameters is None:
            return
        mask, image = found["mask"], self._pairs[found["mask"]]
        try:
            if "error" in found:
                raise MassError(f"{mask}: {found['error']}")
            entry = {"image": str(image), "mask": mask, "labels": found["labels"], "names": {str(k): v for k, v in self._names.items()}}
            _of_entry(entry)
        except MassError as error:
            self._failed(error)
            return
        self._parameters.tuneFiles = [*self._parameters.tuneFiles, json.dumps(entry)]
        self.refresh()
        self._changed()

    def _on_survey_over(self, error: MassError | None) -> None:
        self._survey = None
        if error is not None:
            self._failed(error)
        self._changed()

    def _show_segmentation(self, row: int, node: slicer.vtkMRMLSegmentationNode, ticked: Mapping[str, Any]) -> None:
        """A line of the scene."""
        if node.GetID() not in self._scans:
            box = selector("vtkMRMLScalarVolumeNode", _("Scan the segmentation was drawn on"))
            box.setCurrentNode(ticked.get(node.GetID()) or _scan_of(node))
            box.connect("currentNodeChanged(vtkMRMLNode*)", lambda chosen: self._on_scan())
            self._scans[node.GetID()] = box
            self._table.setCellWidget(row, 1, box)
        item = qt.QTableWidgetItem(node.GetName())
        if self._scans[node.GetID()].currentNode() is None:
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
            item.setToolTip(_("Choose the scan it was drawn on first"))
        else:
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable)
        item.setCheckState(qt.Qt.Checked if node.GetID() in ticked else qt.Qt.Unchecked)
        self._table.setItem(row, 0, item)
        names = ", ".join(look.name for look in scene.looks(node, scene.segment_ids(node)).values())
        self._show_names(row, names)

    def _show_file(self, row: int, entry: Mapping[str, Any]) -> None:
        """A line of a folder."""
        case = _of_entry(entry)
        for column, text in enumerate((case.mask.name, case.image.name)):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(str((case.mask, case.image)[column]))
            self._table.setItem(row, column, item)
        self._show_names(row, ", ".join(case.looks))

    def _show_names(self, row: int, names: str) -> None:
        item = qt.QTableWidgetItem(names or _("nothing drawn yet"))
        item.setToolTip(names)
        self._table.setItem(row, 2, item)

    def _stored(self) -> dict[str, slicer.vtkMRMLNode]:
        """Scans of the ticked segmentations by the ID of the segmentation."""
        rows = zip(self._parameters.tuneSegmentations, self._parameters.tuneVolumes, strict=False)
        return {segmentation.GetID(): volume for segmentation, volume in rows if segmentation is not None and volume is not None}

    def _store(self, ticked: Mapping[str, slicer.vtkMRMLNode]) -> None:
        """Keep them with the scene."""
        nodes = {slicer.mrmlScene.GetNodeByID(segmentation_id): volume for segmentation_id, volume in ticked.items()}
        with slicer.util.NodeModify(self._parameters.parameterNode):
            self._parameters.tuneSegmentations = list(nodes)
            self._parameters.tuneVolumes = list(nodes.values())

    def _read_ticks(self) -> None:
        """From the table to the parameters."""
        rows = enumerate(self._segmentations)
        ticked = [i for row, i in rows if self._table.item(row, 0).checkState() == qt.Qt.Checked]
        present = [i for i in ticked if slicer.mrmlScene.GetNodeByID(i) is not None]
        self._store({i: self._scans[i].currentNode() for i in present if self._scans[i].currentNode() is not None})
        self._changed()

    def _on_item(self, item: qt.QTableWidgetItem) -> None:
        if not self._quiet and item.column() == 0 and item.row() < len(self._segmentations):
            self._read_ticks()

    def _on_scan(self) -> None:
        if not self._quiet and self._parameters is not None:
            self._read_ticks()
            self.refresh()

    def _all_or_none(self) -> None:
        """Tick all segmentations whose scan is known; if they are ticked already, none."""
        wanted = {i: box.currentNode() for i, box in self._scans.items() if box.currentNode() is not None}
        self._store({} if len(self._stored()) >= len(wanted) else wanted)
        self.refresh()
        self._changed()

    def _ask_folder(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder with scans and label maps"))
        if folder:
            self.add_folder(Path(folder))

    def _remove_selected(self) -> None:
        """Take a file off the list; without a selected one all of them."""
        number, files = self._table.currentRow() - len(self._segmentations), list(self._parameters.tuneFiles)
        if 0 <= number < len(files):
            del files[number]
        else:
            files = []
        self._parameters.tuneFiles = files
        self.refresh()
        self._changed()

    def _clear(self) -> None:
        before, self._quiet = self._quiet, True
        for box in self._scans.values():
            box.setMRMLScene(None)
        self._scans = {}
        self._table.setRowCount(0)
        self._quiet = before


def _of_entry(entry: Mapping[str, Any]) -> Annotated:
    """The case of a line that was added."""
    names = {int(value): name for value, name in entry["names"].items()}
    return annotated.of_files(Path(entry["image"]), Path(entry["mask"]), entry["labels"], names)


def _scan_of(segmentation: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLNode | None:
    """The scan a segmentation was drawn on as Slicer knows it; else the one whose name its own begins with, as files are usually called."""
    known = segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole())
    if known is not None:
        return known
    volumes = [v for v in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if v.GetClassName() == "vtkMRMLScalarVolumeNode"]
    alike = [v for v in volumes if v.GetName() and segmentation.GetName().startswith(v.GetName())]
    return max(alike, key=lambda volume: len(volume.GetName()), default=None)
