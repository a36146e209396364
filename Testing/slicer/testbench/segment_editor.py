"""qMRMLSegmentEditorWidget over the real vtkSlicerSegmentEditorLogic: nodes, selection, undo; its tools are names only."""

from __future__ import annotations

from typing import Any

import slicer
from PySide6 import QtGui, QtWidgets
from PySide6.QtCore import Property, Signal

from .ctk_widgets import stored
from .mrml_widgets import Observations, qMRMLNodeComboBox, qMRMLSegmentsTableView, qMRMLWidget

_EFFECTS = ("Threshold", "Paint", "Draw", "Erase", "Level tracing", "Grow from seeds", "Margin", "Smoothing", "Scissors", "Islands")


class Effect:
    """A tool: its name."""

    def __init__(self, name: str) -> None:
        self.name = name


class qMRMLSegmentEditorWidget(qMRMLWidget):
    """The editor. It needs its node before a segmentation, and that before a volume; Slicer only logs a wrong order, here it fails."""

    SIGNALS = qMRMLWidget.SIGNALS | {
        "currentSegmentIDChanged(QString)": "currentSegmentIDChanged",
        "sourceVolumeNodeChanged(vtkMRMLVolumeNode*)": "sourceVolumeNodeChanged",
        "segmentationNodeChanged(vtkMRMLSegmentationNode*)": "segmentationNodeChanged",
    }
    currentSegmentIDChanged = Signal(str)
    sourceVolumeNodeChanged = Signal(object)
    segmentationNodeChanged = Signal(object)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._logic = slicer.vtkSlicerSegmentEditorLogic()
        self._history = slicer.vtkSegmentationHistory()
        self._logic.SetSegmentationHistory(self._history)
        self._node_observations = Observations()
        self._shown: tuple[Any, Any, str] = (None, None, "")
        self._undo_enabled = True
        self._views_observed = False
        self._shortcuts: list[QtGui.QShortcut] = []
        self._build()

    def mrmlSegmentEditorNode(self) -> Any:
        """Its settings."""
        return self._node

    def setMRMLSegmentEditorNode(self, node: Any) -> None:
        """A slot."""
        if node is self._node:
            return
        self._node_observations.clear()
        self._node = node
        self._logic.SetSegmentEditorNode(node)
        if node is not None:
            self._node_observations.observe(node, ("ModifiedEvent",), self._on_editor_node)
        self.updateWidgetFromMRML()

    def segmentationNode(self) -> Any:
        """The segmentation edited."""
        return self._node.GetSegmentationNode() if self._node is not None else None

    def setSegmentationNode(self, node: Any) -> None:
        """A slot."""
        if node is not None and self._node is None:
            raise RuntimeError("setSegmentationNode: need to set segment editor node first")
        if node is not self.segmentationNode():
            self._logic.SetSegmentationNode(node)
            self.setActiveEffect(None)
            self.updateWidgetFromMRML()

    def sourceVolumeNode(self) -> Any:
        """The volume drawn on."""
        return self._node.GetSourceVolumeNode() if self._node is not None else None

    def setSourceVolumeNode(self, node: Any) -> None:
        """A slot."""
        if node is not None and self.segmentationNode() is None:
            raise RuntimeError("setSourceVolumeNode: need to set segment editor and segmentation nodes first")
        self._logic.SetSourceVolumeNode(node)
        self.updateWidgetFromMRML()

    def currentSegmentID(self) -> str:
        """The selected segment, empty: none."""
        return self._logic.GetCurrentSegmentID() if self._node is not None else ""

    def setCurrentSegmentID(self, segment_id: str) -> None:
        """A slot."""
        if self._node is not None:
            self._node.SetSelectedSegmentID(segment_id)

    def availableEffectNames(self) -> tuple[str, ...]:
        """Of the tools."""
        return _EFFECTS

    def effectByName(self, name: str) -> Effect | None:
        """A tool; None: there is none of the name."""
        return Effect(name) if name in _EFFECTS else None

    def activeEffect(self) -> Effect | None:
        """The tool in hand."""
        return self.effectByName(self._node.GetActiveEffectName() or "") if self._node is not None else None

    def setActiveEffect(self, effect: Effect | None) -> None:
        """Take a tool, or lay it down with None."""
        if self._node is not None:
            self._node.SetActiveEffectName(effect.name if effect is not None else "")
        elif effect is not None:
            raise RuntimeError("setActiveEffect: Invalid segment editor parameter set node")

    def setActiveEffectByName(self, name: str) -> None:
        """A slot."""
        self.setActiveEffect(self.effectByName(name))

    def saveStateForUndo(self) -> None:
        """A slot: `undo` comes back to the segmentation as it is now."""
        self._logic.SaveStateForUndo()

    def undo(self) -> None:
        """A slot."""
        self._logic.Undo()

    def redo(self) -> None:
        """A slot."""
        self._logic.Redo()

    def setUndoEnabled(self, enabled: bool) -> None:
        """A slot."""
        if enabled:
            self._logic.ClearUndoState()
        self._undo_enabled = enabled

    def setMaximumNumberOfUndoStates(self, number: int) -> None:
        """A slot."""
        self._logic.SetMaximumNumberOfUndoStates(number)

    def setupViewObservations(self) -> None:
        """Follow the mouse in the views."""
        self._views_observed = True

    def removeViewObservations(self) -> None:
        """Follow it no longer."""
        self._views_observed = False

    def installKeyboardShortcuts(self, parent: Any = None) -> None:
        """A slot: undo and redo while the parent is shown; without one they would belong to the main window."""
        self.uninstallKeyboardShortcuts()
        for key, slot in (("Z", self.undo), ("Ctrl+Z", self.undo), ("Y", self.redo), ("Ctrl+Y", self.redo)):
            shortcut = QtGui.QShortcut(QtGui.QKeySequence(key), parent or self.window())
            shortcut.activated.connect(slot)
            self._shortcuts.append(shortcut)

    def uninstallKeyboardShortcuts(self) -> None:
        """A slot."""
        for shortcut in self._shortcuts:
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts.clear()

    def updateWidgetFromMRML(self) -> None:
        """A slot: show what the node says."""
        segmentation, volume = self.segmentationNode(), self.sourceVolumeNode()
        if segmentation is not None and not self.currentSegmentID() and segmentation.GetSegmentation().GetNumberOfSegments():
            self._node.SetSelectedSegmentID(segmentation.GetSegmentation().GetNthSegmentID(0))
        now = (segmentation, volume, self.currentSegmentID())
        before, self._shown = self._shown, now
        for selector, node in ((self._segmentation_selector, segmentation), (self._volume_selector, volume)):
            selector.blockSignals(True)
            selector.setCurrentNode(node)
            selector.blockSignals(False)
        if self._table.segmentationNode() is not segmentation:
            self._table.setSegmentationNode(segmentation)
        if segmentation is not before[0]:
            self.segmentationNodeChanged.emit(segmentation)
        if volume is not before[1]:
            self.sourceVolumeNodeChanged.emit(volume)
        if now[2] != before[2]:
            self.currentSegmentIDChanged.emit(now[2])

    undoEnabled = Property(bool, lambda self: self._undo_enabled, setUndoEnabled)
    maximumNumberOfUndoStates = Property(int, lambda self: self._logic.GetMaximumNumberOfUndoStates(), setMaximumNumberOfUndoStates)
    segmentationNodeSelectorVisible = stored(
        bool, True, lambda self: self._segmentation_selector.setVisible(self.segmentationNodeSelectorVisible)
    )
    sourceVolumeNodeSelectorVisible = stored(
        bool, True, lambda self: self._volume_selector.setVisible(self.sourceVolumeNodeSelectorVisible)
    )
    switchToSegmentationsButtonVisible = stored(bool, True)
    maskingSectionVisible = stored(bool, True)
    specifyGeometryButtonVisible = stored(bool, True)
    show3DButtonVisible = stored(bool, True)
    addRemoveSegmentButtonsVisible = stored(bool, True)
    autoShowSourceVolumeNode = stored(bool, True)
    readOnly = stored(bool, False)
    effectColumnCount = stored(int, 2)
    unorderedEffectsVisible = stored(bool, True)
    defaultTerminologyEntrySettingsKey = stored(str, "")

    def _scene_set(self) -> None:
        self._logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        self._logic.SetMRMLScene(self._scene)
        for widget in (self._segmentation_selector, self._volume_selector, self._table):
            widget.setMRMLScene(self._scene)
        super()._scene_set()

    def _on_scene(self, scene: Any, event: str) -> None:
        self.updateWidgetFromMRML()

    def _on_editor_node(self, node: Any, event: str) -> None:
        self.updateWidgetFromMRML()

    def _build(self) -> None:
        """Something to look at: selectors, segments, tools."""
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._segmentation_selector, self._volume_selector, self._table = qMRMLNodeComboBox(), qMRMLNodeComboBox(), qMRMLSegmentsTableView()
        form = QtWidgets.QFormLayout()
        for label, selector, kind in (
            ("Segmentation:", self._segmentation_selector, "vtkMRMLSegmentationNode"),
            ("Source volume:", self._volume_selector, "vtkMRMLScalarVolumeNode"),
        ):
            selector.nodeTypes = [kind]
            selector.noneEnabled = True
            selector.addEnabled = selector.removeEnabled = False
            form.addRow(label, selector)
        self._segmentation_selector.currentNodeChanged.connect(self.setSegmentationNode)
        self._volume_selector.currentNodeChanged.connect(self.setSourceVolumeNode)
        self._table.setMaximumHeight(120)
        layout.addLayout(form)
        layout.addWidget(self._table)
        grid = QtWidgets.QGridLayout()
        for number, name in enumerate(_EFFECTS):
            button = QtWidgets.QToolButton()
            button.text = name
            button.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Fixed)
            button.clicked.connect(lambda checked=False, name=name: self.setActiveEffectByName(name))
            grid.addWidget(button, number // 5, number % 5)
        layout.addLayout(grid)
