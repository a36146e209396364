"""The table of targets: loaded volumes to tick, and files, folders and DICOM series that were added."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from mass_core.errors import MassError
from mass_core.outputs import stem

from ..parameters import MASSSlicerParameterNode
from ..runs.cases import Case, of_folder
from ..scene import dicom, sequences


class TargetsPanel:
    """Keeps the table and the parameters in step.

    Args:
        ui: the window's parts by name.
        changed: called whenever the targets changed.
        failed: shows an error.
    """

    def __init__(self, ui: object, changed: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        self._table = ui.targetsTable
        self._changed, self._failed = changed, failed
        self._parameters: MASSSlicerParameterNode | None = None
        self._quiet = False
        self._volumes: list[str] = []
        self._table.connect("itemChanged(QTableWidgetItem*)", self._on_item)
        self._table.connect("itemSelectionChanged()", lambda: self._changed())
        ui.allTargetsButton.connect("clicked()", self._all_or_none)
        ui.addFolderButton.connect("clicked()", self._ask_folder)
        ui.removeTargetButton.connect("clicked()", self._remove_selected)

    def show(self, parameters: MASSSlicerParameterNode | None) -> None:
        """Show the targets of a scene."""
        self._parameters = parameters
        self.refresh()

    def refresh(self) -> None:
        """Volumes came, went or were renamed."""
        if self._parameters is None:
            self._table.setRowCount(0)
            return
        self._quiet = True
        ticked = {node.GetID() for node in self._parameters.targetVolumes if node is not None}
        volumes = _volumes()
        self._volumes = [node.GetID() for node in volumes]
        files = list(self._parameters.targetFiles)
        self._table.setRowCount(len(volumes) + len(files))
        for row, node in enumerate(volumes):
            item = qt.QTableWidgetItem(node.GetName())
            item.setToolTip(node.GetName())
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable)
            item.setCheckState(qt.Qt.Checked if node.GetID() in ticked else qt.Qt.Unchecked)
            self._table.setItem(row, 0, item)
            self._table.setItem(row, 1, qt.QTableWidgetItem(_("scene")))
        for row, case in enumerate(map(_of_file, files), len(volumes)):
            self._show_file(row, case)
        self._quiet = False

    def _show_file(self, row: int, case: Case) -> None:
        """A line that was added; its tooltip tells the whole path."""
        for column, text in enumerate((case.name, "DICOM" if case.path is None else case.path.parent.name)):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(case.name if case.path is None else str(case.path))
            self._table.setItem(row, column, item)

    def cases(self) -> list[Case]:
        """The targets as cases of a run."""
        if self._parameters is None:
            return []
        nodes = [node for node in self._parameters.targetVolumes if node is not None]
        loaded = [case for node in nodes for case in _of_volume(node, all_frames=self._parameters.allFrames)]
        return loaded + [_of_file(entry) for entry in self._parameters.targetFiles]

    def current(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        """The loaded volume of the selected line; without one the first that is ticked."""
        row = self._table.currentRow()
        if 0 <= row < len(self._volumes):
            return slicer.mrmlScene.GetNodeByID(self._volumes[row])
        ticked = () if self._parameters is None else self._parameters.targetVolumes
        return next((node for node in ticked if node is not None), None)

    def add_files(self, entries: list[str]) -> None:
        """Add files, DICOM folders and series of the database that are not on the list."""
        known = list(self._parameters.targetFiles)
        self._parameters.targetFiles = known + [entry for entry in entries if entry not in known]
        self.refresh()
        self._changed()

    def add_folder(self, folder: Path) -> None:
        """Add every scan in a folder."""
        try:
            self.add_files([str(path) for path in of_folder(folder)])
        except (MassError, OSError) as error:
            self._failed(error)

    def _ask_folder(self) -> None:
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder with scans"))
        if folder:
            self.add_folder(Path(folder))

    def _on_item(self, item: qt.QTableWidgetItem) -> None:
        if self._quiet or item.column() != 0 or item.row() >= len(self._volumes):
            return
        self._store_ticks()

    def _store_ticks(self) -> None:
        rows = range(len(self._volumes))
        ids = [self._volumes[row] for row in rows if self._table.item(row, 0).checkState() == qt.Qt.Checked]
        nodes = [slicer.mrmlScene.GetNodeByID(node_id) for node_id in ids]
        self._parameters.targetVolumes = [node for node in nodes if node is not None]
        self._changed()

    def _all_or_none(self) -> None:
        """Tick all volumes but references; if they are ticked already, none."""
        references = {node.GetID() for node in self._parameters.referenceVolumes if node is not None}
        wanted = [node for node in _volumes() if node.GetID() not in references]
        ticked = [node for node in self._parameters.targetVolumes if node is not None]
        self._parameters.targetVolumes = [] if len(ticked) >= len(wanted) else wanted
        self.refresh()
        self._changed()

    def _remove_selected(self) -> None:
        number = self._table.currentRow() - len(self._volumes)
        files = list(self._parameters.targetFiles)
        if 0 <= number < len(files):
            del files[number]
            self._parameters.targetFiles = files
            self.refresh()
            self._changed()


def _of_volume(node: slicer.vtkMRMLScalarVolumeNode, *, all_frames: bool) -> list[Case]:
    """The case of a volume, or one for each frame of the sequence it shows."""
    count = sequences.frames(node) if all_frames else 0
    if not count:
        return [Case(node.GetName(), volume_id=node.GetID())]
    return [Case(f"{node.GetName()} [{number + 1}]", volume_id=node.GetID(), frame=number) for number in range(count)]


def _of_file(entry: str) -> Case:
    """The case of a line that was added."""
    if entry.startswith(dicom.SCHEME):
        uid = entry.removeprefix(dicom.SCHEME)
        return Case(dicom.series_name(uid), series=uid)
    return Case(stem(Path(entry)), path=Path(entry))


def _volumes() -> list[slicer.vtkMRMLScalarVolumeNode]:
    """Loaded scans, in the order of the scene: no label maps, no vector volumes, nothing hidden."""
    nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return [node for node in nodes if node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetHideFromEditors()]
