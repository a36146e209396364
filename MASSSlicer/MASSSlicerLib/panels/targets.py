"""The table of targets: loaded volumes to tick, and files, folders and DICOM series that were added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from mass_core.errors import listing
from mass_core.outputs import stem

from ..runs.cases import Case
from ..runs.folders import scans_in
from ..scene import dicom, sequences
from .errors import errors_shown
from .items import put
from .scan_list import ScanList

_NAMED = 5
"""Files that are left out and named."""


class TargetsPanel(ScanList):
    """The table of targets.

    Args:
        ui: the window's parts by name.
        changed: called whenever the targets changed.
        show_message: shows a sentence.
    """

    FILES = "targetFiles"
    FOLDER = _("Folder with scans")

    def __init__(self, ui: object, changed: Callable[[], None], show_message: Callable[[str], None]) -> None:
        self._show_message = show_message
        super().__init__(ui.targetsTable, (ui.allTargetsButton, ui.addFolderButton, ui.removeTargetButton), changed)
        self._table.connect("itemSelectionChanged()", lambda: self._changed())

    def cases(self) -> list[Case]:
        """The targets as cases of a run."""
        loaded = [case for node in self._ticked() for case in _of_volume(node, all_frames=self._parameters.allFrames)]
        return loaded + [_of_file(entry) for entry in self._files]

    def current(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        """The loaded volume of the selected line; without one the first that is ticked."""
        row = self._table.currentRow()
        if 0 <= row < len(self._nodes):
            return slicer.mrmlScene.GetNodeByID(self._nodes[row])
        return None if self._parameters is None else next(iter(self._ticked()), None)

    def add_files(self, entries: list[str]) -> None:
        """Add files, DICOM folders and series of the database that are not on the list."""
        known = self._files
        self._store_files(known + [entry for entry in entries if entry not in known])

    def add_folder(self, folder: Path) -> None:
        """Add every scan in a folder, and report what is left out."""
        left_out: list[Path] = []
        with errors_shown():
            scans = scans_in(folder, left_out)
            self.add_files([str(path) for path in scans])
            self._show_message(_count_text(folder, len(scans), left_out))

    def _in_scene(self) -> list[slicer.vtkMRMLScalarVolumeNode]:
        """Loaded scans, in the order of the scene: no label maps, no vector volumes, nothing hidden."""
        nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        return [node for node in nodes if node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetHideFromEditors()]

    def _show_node(self, row: int, node: slicer.vtkMRMLScalarVolumeNode) -> None:
        put(self._table, row, 0, node.GetName(), node.GetName(), ticked=node in self._ticked())
        put(self._table, row, 1, _("scene"))

    def _show_file(self, row: int, entry: str) -> None:
        case = _of_file(entry)
        tip = case.name if case.path is None else str(case.path)
        put(self._table, row, 0, case.name, tip)
        put(self._table, row, 1, "DICOM" if case.path is None else case.path.parent.name, tip)

    def _ticked(self) -> list[slicer.vtkMRMLScalarVolumeNode]:
        """The ticked volumes that are still in the scene."""
        return [node for node in self._parameters.targetVolumes if node is not None]

    def _store_ticks(self, ids: Sequence[str]) -> None:
        self._parameters.targetVolumes = [slicer.mrmlScene.GetNodeByID(node_id) for node_id in ids]

    def _all_or_none(self) -> None:
        """Tick all volumes but references; if they are ticked already, none."""
        references = {node.GetID() for node in self._parameters.referenceVolumes if node is not None}
        wanted = [node for node in self._in_scene() if node.GetID() not in references]
        self._parameters.targetVolumes = [] if len(self._ticked()) >= len(wanted) else wanted
        self._refresh_and_report()


def _count_text(folder: Path, count: int, left_out: Sequence[Path]) -> str:
    """Text on the scans found in a folder, with the first files that were not taken."""
    text = _("Scans found in “{name}”: {count}.").format(name=folder.name, count=count)
    if not left_out:
        return text
    names = listing((path.name for path in left_out), _NAMED)
    return text + " " + _("Masks, results and other files are left out: {names}.").format(names=names)


def _of_volume(node: slicer.vtkMRMLScalarVolumeNode, *, all_frames: bool) -> list[Case]:
    """The case of a volume, or one for each frame of the sequence it shows."""
    count = sequences.frames(node) if all_frames else 0
    if not count:
        return [Case(node.GetName(), volume_id=node.GetID())]
    return [Case(f"{node.GetName()} [{number + 1}]", volume_id=node.GetID(), frame=number) for number in range(count)]


def _of_file(entry: str) -> Case:
    """The case of a stored line."""
    if entry.startswith(dicom.SCHEME):
        uid = entry.removeprefix(dicom.SCHEME)
        return Case(dicom.series_name(uid), series=uid)
    return Case(stem(Path(entry)), path=Path(entry))
