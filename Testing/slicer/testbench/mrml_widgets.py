"""Slicer's widgets bound to the scene, with the properties, signals and slots of their headers and no others."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import shiboken6
import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Qt, Signal

from .ctk_widgets import QStringList, stored


class Observations:
    """Observers of a widget, gone with the widget."""

    every: ClassVar[weakref.WeakSet[Observations]] = weakref.WeakSet()

    def __init__(self) -> None:
        self._made: list[tuple[Any, int]] = []
        self.every.add(self)

    def observe(self, thing: Any, events: Iterable[Any], method: Callable[[Any, str], None]) -> None:
        """Call a method of a widget as long as the widget is there."""
        reference = weakref.WeakMethod(method)

        def call(caller: Any, event: str) -> None:
            alive = reference()
            if alive is not None and shiboken6.isValid(alive.__self__):
                alive(caller, event)

        self._made += [(thing, thing.AddObserver(event, call)) for event in events]

    def observe_removal(self, scene: Any, method: Callable[[Any, Any], None]) -> None:
        """Call a method of a widget with each node that is about to leave the scene."""
        reference = weakref.WeakMethod(method)

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def call(caller: Any, event: str, node: Any) -> None:
            alive = reference()
            if alive is not None and shiboken6.isValid(alive.__self__):
                alive(caller, node)

        self._made.append((scene, scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, call)))

    def clear(self) -> None:
        """Observe nothing."""
        for thing, tag in self._made:
            thing.RemoveObserver(tag)
        self._made.clear()


class SceneWidget:
    """Has a scene and follows it."""

    SIGNALS = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}
    _scene: Any = None
    _scene_observations: Observations

    def mrmlScene(self) -> Any:
        """The scene."""
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        """A slot."""
        if scene is self._scene:
            return
        if self._scene is not None:
            self._scene_observations.clear()
        self._scene = scene
        self._scene_observations = Observations()
        if scene is not None:
            kind = slicer.vtkMRMLScene
            self._scene_observations.observe(scene, (kind.NodeAddedEvent, kind.NodeRemovedEvent), self._on_node)
            self._scene_observations.observe(scene, (kind.EndCloseEvent, kind.EndBatchProcessEvent), self._on_scene)
            self._scene_observations.observe_removal(scene, self._on_removal)
        self._scene_set()

    def _scene_set(self) -> None:
        """The scene is another one."""

    def _on_node(self, scene: Any, event: str) -> None:
        """A node came or went."""

    def _on_removal(self, scene: Any, node: Any) -> None:
        """A node is about to go."""

    def _on_scene(self, scene: Any, event: str) -> None:
        """The scene was closed, or many nodes came or went."""


class qMRMLWidget(SceneWidget, QtWidgets.QWidget):
    """A widget with a scene."""

    mrmlSceneChanged = Signal(object)

    def _scene_set(self) -> None:
        self.mrmlSceneChanged.emit(self._scene)


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """A module's panel."""

    _python: Any = None

    def reload(self) -> None:
        """Build the contents anew, with the code that is loaded now: setup(), and no enter()."""
        name = self._python.moduleName
        self.build(getattr(sys.modules[name], f"{name}Widget"), name)

    def build(self, kind: Callable[[Any], Any], name: str) -> None:
        """Testbench only: make a module's own widget object and set it up."""
        self._python = kind(self)
        setattr(slicer.modules, f"{name}Widget", self._python)
        self._python.setup()

    def self(self) -> Any:
        """The module's own widget object."""
        return self._python


class qMRMLNodeComboBox(SceneWidget, QtWidgets.QWidget):
    """Selector of a node. Without a scene it is disabled and only remembers what it shall select."""

    SIGNALS = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeChanged(bool)": "_valid_node_changed",
        "currentNodeIDChanged(QString)": "currentNodeIDChanged",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated",
        "nodeAdded(vtkMRMLNode*)": "nodeAdded",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
        "nodeAboutToBeRemoved(vtkMRMLNode*)": "nodeAboutToBeRemoved",
    }
    currentNodeChanged = Signal(object)
    _valid_node_changed = Signal(bool)
    currentNodeIDChanged = Signal(str)
    nodeActivated = Signal(object)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    nodeAboutToBeRemoved = Signal(object)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._id = self._requested = ""
        self._ids: list[str] = []
        self._attributes: list[tuple[str, str, Any]] = []
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._box = QtWidgets.QComboBox()
        self._box.activated.connect(self._picked)
        layout.addWidget(self._box)
        self.setEnabled(False)

    def addAttribute(self, node_type: str, name: str, value: Any = None) -> None:
        """List only nodes of the type that have an attribute."""
        self._attributes.append((node_type, name, value))
        self._fill()

    def nodeCount(self) -> int:
        """Number of nodes listed."""
        return len(self._nodes())

    def nodeFromIndex(self, index: int) -> Any:
        """A listed node."""
        nodes = self._nodes()
        return nodes[index] if 0 <= index < len(nodes) else None

    def currentNode(self) -> Any:
        """The selected node or None."""
        return self._scene.GetNodeByID(self._id) if self._scene is not None and self._id else None

    def setCurrentNode(self, node: Any) -> None:
        """A slot."""
        self.setCurrentNodeID("" if node is None else node.GetID() or "")

    def setCurrentNodeID(self, node_id: str) -> None:
        """A slot."""
        if self._scene is None:
            self._requested = node_id
        elif node_id in self._ids:
            self._select(node_id)
        else:
            self._select("")

    def setCurrentNodeIndex(self, index: int) -> None:
        """A slot."""
        self.setCurrentNode(self.nodeFromIndex(index))

    def addNode(self, node_type: str | None = None) -> Any:
        """A slot: make a node, as the user does with the menu."""
        node_type = node_type or self.nodeTypes[0]
        node = self._scene.AddNewNodeByClass(node_type, *([self.baseName] if self.baseName else []))
        for kind, name, value in self._attributes:
            if node.IsA(kind) and value is not None:
                node.SetAttribute(name, str(value))
        self._fill()
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        """A slot."""
        if self.currentNode() is not None:
            self._scene.RemoveNode(self.currentNode())

    def _fill(self) -> None:
        """List what there is."""
        nodes = self._nodes()
        none = [self.noneDisplay] if self.noneEnabled else []
        self._ids = ([""] if self.noneEnabled else []) + [node.GetID() for node in nodes]
        self._box.blockSignals(True)
        self._box.clear()
        self._box.addItems([*none, *(node.GetName() or "" for node in nodes)])
        if self._scene is not None:
            self._box.addItems(
                [text for text, offered in (("Create new", self.addEnabled), ("Delete current", self.removeEnabled)) if offered]
            )
        self._box.blockSignals(False)
        self._show()

    nodeTypes = stored(QStringList, (), lambda self: self._fill())
    hideChildNodeTypes = stored(QStringList, (), lambda self: self._fill())
    showHidden = stored(bool, False, lambda self: self._fill())
    showChildNodeTypes = stored(bool, True, lambda self: self._fill())
    noneEnabled = stored(bool, False, lambda self: self._fill())
    noneDisplay = stored(str, "None", lambda self: self._fill())
    addEnabled = stored(bool, True, lambda self: self._fill())
    removeEnabled = stored(bool, True, lambda self: self._fill())
    editEnabled = stored(bool, False)
    renameEnabled = stored(bool, False)
    baseName = stored(str, "")
    selectNodeUponCreation = stored(bool, True)
    interactionNodeSingletonTag = stored(str, "Singleton")
    currentNodeID = Property(str, lambda self: self._id, setCurrentNodeID)

    def _nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        every = (self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes()))
        return [node for node in every if self._lists(node)]

    def _lists(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self.showHidden:
            return False
        kinds = [kind for kind in self.nodeTypes if (node.IsA(kind) if self.showChildNodeTypes else node.GetClassName() == kind)]
        if not kinds or any(node.IsA(kind) for kind in self.hideChildNodeTypes):
            return False
        wanted = [(name, value) for kind, name, value in self._attributes if node.IsA(kind)]
        return all(node.GetAttribute(name) == (node.GetAttribute(name) or "" if value is None else str(value)) for name, value in wanted)

    def _scene_set(self) -> None:
        self._fill()
        self.setEnabled(self._scene is not None)
        self.setCurrentNodeID(self._requested or self._id)
        self._requested = ""

    def _on_node(self, scene: Any, event: str) -> None:
        if scene.IsBatchProcessing():
            return
        before = list(self._ids)
        self._fill()
        for node_id in self._ids:
            if node_id and node_id not in before:
                self.nodeAdded.emit(scene.GetNodeByID(node_id))

    def _on_removal(self, scene: Any, node: Any) -> None:
        """As in Slicer, in a batch too, the selection falls to the node that takes the row, or to the last one."""
        node_id = node.GetID()
        if scene.IsClosing() or node_id not in self._ids:
            return
        self.nodeAboutToBeRemoved.emit(node)
        row = self._ids.index(node_id)
        self._ids.remove(node_id)
        if self._id == node_id:
            following = self._ids[row:]
            self._select(following[0] if following else next((other for other in reversed(self._ids) if other), ""))

    def _on_scene(self, scene: Any, event: str) -> None:
        self._fill()
        if self._id not in self._ids:
            self._select("")

    def _select(self, node_id: str) -> None:
        changed = node_id != self._id
        self._id = node_id
        self._show()
        if changed:
            self.currentNodeChanged.emit(self.currentNode())
            self._valid_node_changed.emit(self.currentNode() is not None)
            self.currentNodeIDChanged.emit(node_id)

    def _show(self) -> None:
        self._box.blockSignals(True)
        self._box.currentIndex = self._ids.index(self._id) if self._id in self._ids else -1
        self._box.blockSignals(False)

    def _picked(self, row: int) -> None:
        """The user chose a line."""
        if row < len(self._ids):
            self._select(self._ids[row])
            self.nodeActivated.emit(self.currentNode())
        elif self._box.itemText(row) == "Create new":
            self.addNode()
        else:
            self.removeCurrentNode()


class qMRMLSegmentsTableView(qMRMLWidget):
    """Table of a segmentation's segments."""

    SIGNALS = qMRMLWidget.SIGNALS | {"selectionChanged(QItemSelection,QItemSelection)": "selectionChanged"}
    selectionChanged = Signal(object, object)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._segmentation: Any = None
        self._observations = Observations()
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._table = QtWidgets.QTableWidget(0, 2)
        self._table.setHorizontalHeaderLabels(["Color", "Name"])
        self._table.setSelectionBehavior(QtWidgets.QAbstractItemView.SelectRows)
        self._table.horizontalHeader().setStretchLastSection(True)
        self._table.selectionModel().selectionChanged.connect(lambda chosen, left: self.selectionChanged.emit(chosen, left))
        layout.addWidget(self._table)

    def segmentationNode(self) -> Any:
        """The segmentation shown."""
        return self._segmentation

    def setSegmentationNode(self, node: Any) -> None:
        """A slot."""
        self._observations.clear()
        self._segmentation = node
        if node is not None:
            kind = slicer.vtkSegmentation
            self._observations.observe(node, (kind.SegmentAdded, kind.SegmentRemoved, kind.SegmentModified), self._on_segments)
        self._fill()

    def tableWidget(self) -> QtWidgets.QTableWidget:
        """The table."""
        return self._table

    def selectedSegmentIDs(self) -> tuple[str, ...]:
        """In the order of the rows."""
        rows = sorted(index.row() for index in self._table.selectionModel().selectedRows())
        return tuple(self.segmentIDForRow(row) for row in rows)

    def setSelectedSegmentIDs(self, segment_ids: Iterable[str]) -> None:
        """Select these and no others."""
        model = self._table.selectionModel()
        self._table.clearSelection()
        for row, segment_id in enumerate(self._ids()):
            if segment_id in segment_ids:
                flags = QtCore.QItemSelectionModel.Select | QtCore.QItemSelectionModel.Rows
                model.select(self._table.model().index(row, 0), flags)

    def clearSelection(self) -> None:
        """Select none."""
        self._table.clearSelection()

    def rowForSegmentID(self, segment_id: str) -> int:
        """-1: not shown."""
        return self._ids().index(segment_id) if segment_id in self._ids() else -1

    def segmentIDForRow(self, row: int) -> str:
        """Of a row."""
        return self._ids()[row]

    headerVisible = stored(bool, True, lambda self: self._table.horizontalHeader().setVisible(self.headerVisible))
    visibilityColumnVisible = stored(bool, True)
    colorColumnVisible = stored(bool, True, lambda self: self._table.setColumnHidden(0, not self.colorColumnVisible))
    opacityColumnVisible = stored(bool, True)
    statusColumnVisible = stored(bool, False)
    readOnly = stored(bool, False)
    selectionMode = stored(int, 3)
    filterBarVisible = stored(bool, False)
    segmentCount = Property(int, lambda self: len(self._ids()))

    def _on_segments(self, node: Any, event: str) -> None:
        self._fill()

    def _ids(self) -> list[str]:
        if self._segmentation is None:
            return []
        inner = self._segmentation.GetSegmentation()
        return [inner.GetNthSegmentID(number) for number in range(inner.GetNumberOfSegments())]

    def _fill(self) -> None:
        ids = self._ids()
        self._table.setRowCount(len(ids))
        for row, segment_id in enumerate(ids):
            segment = self._segmentation.GetSegmentation().GetSegment(segment_id)
            color = QtWidgets.QTableWidgetItem("")
            color.setBackground(QtGui.QColor.fromRgbF(*segment.GetColor()))
            name = QtWidgets.QTableWidgetItem(segment.GetName())
            name.setFlags(Qt.ItemIsEnabled | Qt.ItemIsSelectable)
            self._table.setItem(row, 0, color)
            self._table.setItem(row, 1, name)


WIDGETS = (qMRMLWidget, qMRMLNodeComboBox, qMRMLSegmentsTableView)
