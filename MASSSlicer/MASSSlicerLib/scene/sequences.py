"""Sequences of volumes: every frame is a target, and the results become a sequence beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import slicer
from slicer.i18n import tr as _

from mass_core.errors import InputError


def frames(volume: slicer.vtkMRMLScalarVolumeNode) -> int:
    """Number of frames of a volume; 0: it is not a sequence."""
    _browser, sequence = _of(volume)
    return 0 if sequence is None else sequence.GetNumberOfDataNodes()


@contextmanager
def frame_volume(volume: slicer.vtkMRMLScalarVolumeNode, frame: int) -> Iterator[slicer.vtkMRMLScalarVolumeNode]:
    """One frame as a volume of its own, hidden, in the same place, for a while; the frame that is shown stays what it is.

    Raises:
        InputError: if the sequence lost that frame.
    """
    _browser, sequence = _of(volume)
    data = None if sequence is None else sequence.GetNthDataNode(frame)
    if data is None:
        text = _("“{name}” no longer has a frame {number}.").format(name=volume.GetName(), number=frame + 1)
        raise InputError(text, _("Segment it again."))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{volume.GetName()} [{frame + 1}]")
    node.SetHideFromEditors(True)
    node.SetAndObserveImageData(data.GetImageData())
    node.CopyOrientation(data)
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    try:
        yield node
    finally:
        slicer.mrmlScene.RemoveNode(node)


def add_frame(volume: slicer.vtkMRMLScalarVolumeNode, frame: int, segmentation: slicer.vtkMRMLSegmentationNode, name: str) -> str:
    """Put the segmentation of a frame into the sequence of results, which browses along with the volume; the node itself goes.

    Args:
        volume: shows the frames.
        frame: number, from 0.
        segmentation: of that frame.
        name: of the sequence, made with its first frame.

    Returns:
        ID of the segmentation node that shows the current frame.
    """
    browser, sequence = _of(volume)
    results = _results(browser, sequence, name)
    results.SetDataNodeAtValue(segmentation, sequence.GetNthIndexValue(frame))
    slicer.mrmlScene.RemoveNode(segmentation)
    if browser.GetProxyNode(results) is None:
        browser.AddSynchronizedSequenceNodeID(results.GetID())
        browser.SetSaveChanges(results, True)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    proxy = browser.GetProxyNode(results)
    proxy.SetName(name)
    proxy.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    return proxy.GetID()


def _of(volume: slicer.vtkMRMLScalarVolumeNode) -> tuple[slicer.vtkMRMLSequenceBrowserNode | None, slicer.vtkMRMLSequenceNode | None]:
    """Browser and sequence that a volume shows."""
    browser = slicer.modules.sequences.logic().GetFirstBrowserNodeForProxyNode(volume)
    return browser, None if browser is None else browser.GetSequenceNode(volume)


def _results(browser: slicer.vtkMRMLSequenceBrowserNode, sequence: slicer.vtkMRMLSequenceNode, name: str) -> slicer.vtkMRMLSequenceNode:
    """The sequence of results of this name, made if it is not there; indexed like that of the volume."""
    for node in slicer.util.getNodesByClass("vtkMRMLSequenceNode"):
        if node.GetName() == name and browser.IsSynchronizedSequenceNode(node):
            return node
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    node.SetIndexName(sequence.GetIndexName())
    node.SetIndexUnit(sequence.GetIndexUnit())
    node.SetIndexType(sequence.GetIndexType())
    return node
