"""The table of annotated scans: segmentations of the scene to tick, each with its scan, and scans with label maps of a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from mass_core.errors import MassError

from ..parameters import MASSSlicerParameterNode
from ..processes.surveying import Survey
from ..runs import annotated, folders
from ..runs.annotated import Annotated
from ..runs.order import Reference
from ..scene import exchange as scene
from .errors import errors_shown, show_error
from .items import put
from .scan_list import ScanList
from .selectors import selector


class AnnotatedPanel(ScanList):
    """The table of annotated scans.

    Args:
        ui: the window's parts by name.
        changed: called whenever the cases changed.
    """

    FILES = "tuneFiles"
    FOLDER = _("Folder with scans and label maps")

    def __init__(self, ui: object, changed: Callable[[], None]) -> None:
        super().__init__(ui.annotatedTable, (ui.allAnnotatedButton, ui.addAnnotatedButton, ui.removeAnnotatedButton), changed)
        self._scans: dict[str, Any] = {}
        """Selectors by the ID of the segmentation."""
        self._survey: Survey | None = None

    @property
    def looking(self) -> bool:
        """True while label maps of a folder are being read."""
        return self._survey is not None

    def show(self, parameters: MASSSlicerParameterNode | None) -> None:
        """Show the cases of a scene."""
        super().show(parameters)
        if parameters is None and self._survey is not None:
            self._survey.cancel()

    def cases(self) -> tuple[list[Annotated], str]:
        """The ticked cases, and why one of them cannot be used; empty: all can."""
        found, problems = [], []
        for segmentation_id, volume in self._stored().items():
            try:
                found.append(annotated.of_scene(Reference(volume, slicer.mrmlScene.GetNodeByID(segmentation_id))))
            except MassError as error:
                problems.append(f"{error.message} {error.cure}")
        found += [_of_entry(json.loads(entry)) for entry in self._files]
        return found, problems[0] if problems else ""

    def add(self, volume: slicer.vtkMRMLNode, segmentation: slicer.vtkMRMLNode) -> None:
        """Tick a segmentation, with its scan."""
        self.refresh()
        self._store(self._stored() | {segmentation.GetID(): volume})
        self._refresh_and_report()

    def add_folder(self, folder: Path) -> None:
        """Add every label map of a folder with its scan, once the survey has read it."""
        with errors_shown():
            known = {json.loads(entry)["mask"] for entry in self._files}
            scans = {str(mask): image for image, mask in folders.pairs_in(folder) if str(mask) not in known}
            names = folders.label_names(folder)

            def add(found: Mapping[str, Any]) -> None:
                self._add_file(found, scans[found["mask"]], names)

            self._survey = Survey([Path(mask) for mask in scans], found=add, finished=self._on_survey_over)
            self._survey.start()
        self._changed()

    def _add_file(self, found: Mapping[str, Any], image: Path, names: Mapping[int, str]) -> None:
        """Add a label map that was read; one that cannot be used is reported, the others count."""
        with errors_shown():
            if "error" in found:
                raise MassError(f"{found['mask']}: {found['error']}")
            entry = {"image": str(image), "mask": found["mask"], "labels": found["labels"], "names": names}
            _of_entry(entry)
            self._store_files([*self._files, json.dumps(entry)])

    def _on_survey_over(self, error: MassError | None) -> None:
        self._survey = None
        if error is not None:
            show_error(error)
        self._changed()

    def _in_scene(self) -> list[slicer.vtkMRMLSegmentationNode]:
        return [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if not node.GetHideFromEditors()]

    def _show_ids(self, ids: list[str]) -> None:
        """Remove the lines with their selectors, which belong to certain nodes."""
        if ids != self._nodes:
            for box in self._scans.values():
                box.setMRMLScene(None)
            self._scans = {}
            self._table.setRowCount(0)
        super()._show_ids(ids)

    def _show_node(self, row: int, node: slicer.vtkMRMLSegmentationNode) -> None:
        ticked = self._stored()
        if node.GetID() not in self._scans:
            box = selector("vtkMRMLScalarVolumeNode", _("Scan the segmentation was drawn on"))
            box.setCurrentNode(ticked.get(node.GetID()) or _scan_of(node))
            box.connect("currentNodeChanged(vtkMRMLNode*)", lambda chosen: self._on_scan())
            self._scans[node.GetID()] = box
            self._table.setCellWidget(row, 1, box)
        unknown = self._scans[node.GetID()].currentNode() is None
        why_not = _("First choose the scan it was drawn on") if unknown else ""
        put(self._table, row, 0, node.GetName(), why_not or node.GetName(), ticked=node.GetID() in ticked, locked=unknown)
        names = ", ".join(style.name for style in scene.label_styles(node, scene.segment_ids(node)).values())
        self._show_names(row, names)

    def _show_file(self, row: int, entry: str) -> None:
        case = _of_entry(json.loads(entry))
        for column, path in enumerate((case.mask, case.image)):
            put(self._table, row, column, path.name, str(path))
        self._show_names(row, ", ".join(case.styles))

    def _show_names(self, row: int, names: str) -> None:
        put(self._table, row, 2, names or _("nothing drawn yet"), names)

    def _stored(self) -> dict[str, slicer.vtkMRMLNode]:
        """Scans of the ticked segmentations by the ID of the segmentation."""
        rows = zip(self._parameters.tuneSegmentations, self._parameters.tuneVolumes, strict=False)
        return {segmentation.GetID(): volume for segmentation, volume in rows if segmentation is not None and volume is not None}

    def _store(self, ticked: Mapping[str, slicer.vtkMRMLNode]) -> None:
        """Store ticked segmentations and their scans in the parameters."""
        nodes = {slicer.mrmlScene.GetNodeByID(segmentation_id): volume for segmentation_id, volume in ticked.items()}
        with slicer.util.NodeModify(self._parameters.parameterNode):
            self._parameters.tuneSegmentations = list(nodes)
            self._parameters.tuneVolumes = list(nodes.values())

    def _store_ticks(self, ids: Sequence[str]) -> None:
        self._store({i: self._scans[i].currentNode() for i in ids if self._scans[i].currentNode() is not None})

    def _on_scan(self) -> None:
        if not self._quiet and self._parameters is not None:
            self._read_ticks()
            self.refresh()

    def _all_or_none(self) -> None:
        """Tick all segmentations whose scan is known; if they are ticked already, none."""
        wanted = {i: box.currentNode() for i, box in self._scans.items() if box.currentNode() is not None}
        self._store({} if len(self._stored()) >= len(wanted) else wanted)
        self._refresh_and_report()

    def _remove_selected(self) -> None:
        """Take the selected file off the list; without one all of them."""
        if self._table.currentRow() < len(self._nodes):
            self._store_files([])
        else:
            super()._remove_selected()


def _of_entry(entry: Mapping[str, Any]) -> Annotated:
    """The case of a stored line."""
    names = {int(value): name for value, name in entry["names"].items()}
    return annotated.of_files(Path(entry["image"]), Path(entry["mask"]), entry["labels"], names)


def _scan_of(segmentation: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLNode | None:
    """The scan a segmentation was drawn on, by Slicer's record; else the scan whose name begins the segmentation's name."""
    known = segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole())
    if known is not None:
        return known
    volumes = [v for v in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if v.GetClassName() == "vtkMRMLScalarVolumeNode"]
    alike = [v for v in volumes if v.GetName() and segmentation.GetName().startswith(v.GetName())]
    return max(alike, key=lambda volume: len(volume.GetName()), default=None)
