"""Selectors of a node of the scene that never choose one by themselves."""

from __future__ import annotations

import slicer


def selector(kind: str, tip: str) -> slicer.qMRMLNodeComboBox:
    """A list of the scene's nodes of one kind, or none of them."""
    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = [kind]
    box.showChildNodeTypes = False
    box.noneEnabled = True
    box.addEnabled = False
    box.removeEnabled = False
    box.toolTip = tip
    empty_when_removed(box)
    box.setMRMLScene(slicer.mrmlScene)
    return box


def empty_when_removed(box: slicer.qMRMLNodeComboBox) -> None:
    """Select nothing when the selected node leaves the scene: by itself the widget would select the next node of the list."""
    box.connect("nodeAboutToBeRemoved(vtkMRMLNode*)", lambda node: box.setCurrentNode(None) if node is box.currentNode() else None)
