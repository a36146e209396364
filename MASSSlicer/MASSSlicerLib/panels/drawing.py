"""The embedded Segment Editor, to draw a reference without leaving the module."""

from __future__ import annotations

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ..scene.exchange import new_segmentation
from .references import ReferencesPanel

_UNDO_STEPS = 10
_FIRST = 1.0
"""Priority of an observer that is called before the widgets, whose priority is 0."""


class Drawing(VTKObservationMixin):
    """Shows the editor for the selected reference while Draw is pressed.

    Args:
        ui: the window's parts by name.
        references: the table of references.
    """

    def __init__(self, ui: object, references: ReferencesPanel) -> None:
        VTKObservationMixin.__init__(self)
        self._button, self._editor, self._panel = ui.drawButton, ui.segmentEditor, ui.referencesSection
        self._references = references
        self._editor.setMaximumNumberOfUndoStates(_UNDO_STEPS)
        self._editor.visible = False
        self._button.connect("toggled(bool)", self._on_toggle)
        self.addObserver(slicer.mrmlScene, slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._on_removal, priority=_FIRST)

    def enter(self) -> None:
        """Take keyboard shortcuts, which belong to the module that is shown."""
        if self._button.checked:
            self._editor.setupViewObservations()
            self._editor.installKeyboardShortcuts(self._panel)

    def exit(self) -> None:
        """Release mouse, keyboard and views."""
        self._editor.setActiveEffect(None)
        self._editor.uninstallKeyboardShortcuts()
        self._editor.removeViewObservations()

    def save_for_undo(self, segmentation: slicer.vtkMRMLSegmentationNode) -> None:
        """Save an undo state before segments are added, wherever the segmentation is being edited."""
        for editor in (self._editor, _module_editor()):
            if editor is not None and editor.segmentationNode() is segmentation:
                editor.saveStateForUndo()

    def leave(self) -> None:
        """End Draw, and release segmentation and scan."""
        self._button.checked = False
        if self._editor.segmentationNode() is not None:
            self._editor.setSourceVolumeNode(None)
            self._editor.setSegmentationNode(None)

    def close(self) -> None:
        """Release the scene."""
        self.removeObservers()
        self.exit()
        self.leave()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_removal(self, scene: slicer.vtkMRMLScene, event: str, node: slicer.vtkMRMLNode | None) -> None:
        """End Draw when its segmentation or scan is removed: by itself the editor would go on with another one."""
        if node is not None and (node is self._editor.segmentationNode() or node is self._editor.sourceVolumeNode()):
            self.leave()

    def _on_toggle(self, on: bool) -> None:
        self._editor.visible = on
        if not on:
            self.exit()
            self._references.refresh()
            return
        row = self._references.selected()
        volume = row.volume.currentNode()
        if volume is None:
            self._button.checked = False
            slicer.util.infoDisplay(_("First choose the scan to draw on."), windowTitle=_("MASS"))
            return
        segmentation = row.segmentation.currentNode() or self._new_segmentation(volume)
        row.segmentation.setCurrentNode(segmentation)
        node = editor_node("MASSSlicer")  # this module's own, so that the Segment Editor module keeps its settings
        # Drawing a reference must not eat into its neighbours; closing a scene resets this.
        node.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteNone)
        self._editor.setMRMLSegmentEditorNode(node)
        self._editor.setSegmentationNode(segmentation)
        self._editor.setSourceVolumeNode(volume)
        self.enter()

    def _new_segmentation(self, volume: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLSegmentationNode:
        segmentation = new_segmentation(volume, _("{volume} reference").format(volume=volume.GetName()))
        segmentation.GetSegmentation().AddEmptySegment("", _("structure"))
        return segmentation


def editor_node(tag: str) -> slicer.vtkMRMLSegmentEditorNode:
    """Settings of a Segment Editor by the tag of the module they belong to, made if missing."""
    node = slicer.mrmlScene.GetSingletonNode(tag, "vtkMRMLSegmentEditorNode")
    if node is None:
        node = slicer.vtkMRMLSegmentEditorNode()
        node.SetSingletonTag(tag)
        node = slicer.mrmlScene.AddNode(node)
    return node


def _module_editor() -> slicer.qMRMLSegmentEditorWidget | None:
    """The editor of Slicer's Segment Editor module, if that was opened."""
    return getattr(getattr(slicer.modules, "SegmentEditorWidget", None), "editor", None)
