"""Nodes that are deleted while they are chosen: what windows and parameters hold then is nothing, and never another node.

Slicer's selectors take the next node of the list by themselves, so there is always one: another person, or another person's drawing.
"""

from contextlib import contextmanager
from functools import partial

import pytest

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")

ONE_BY_ONE, IN_A_BATCH = "one by one", "in a batch"


@pytest.fixture(params=[ONE_BY_ONE, IN_A_BATCH])
def delete(request, clinic):
    """Deletes nodes as the user does, or many of them as other modules do."""
    return partial(remove, clinic, request.param)


def remove(clinic, way, *nodes):
    with batch(clinic.slicer) if way == IN_A_BATCH else nothing():
        for node in nodes:
            clinic.slicer.mrmlScene.RemoveNode(node)
    clinic.bench.process_events()


@contextmanager
def batch(slicer):
    slicer.mrmlScene.StartState(slicer.vtkMRMLScene.BatchProcessState)
    yield
    slicer.mrmlScene.EndState(slicer.vtkMRMLScene.BatchProcessState)


@contextmanager
def nothing():
    yield


def with_neighbours(clinic, *targets):
    """A complete reference, with other scans and drawings before and after it in every list."""
    clinic.drawn(clinic.volume(1, "before"), 1).SetName("before drawn")
    clinic.ready(*targets or ("target",))
    clinic.drawn(clinic.volume(2, "after"), 2).SetName("after drawn")
    clinic.bench.process_events()
    assert clinic.ui.segmentButton.enabled


def row(clinic):
    """The only line of the references."""
    (found,) = clinic.window.references.rows
    return found.volume.currentNode(), found.segmentation.currentNode()


def test_the_scan_of_a_reference(clinic, delete):
    with_neighbours(clinic)
    delete(clinic.reference)
    assert row(clinic) == (None, clinic.segmentation)
    assert (list(clinic.parameters.referenceVolumes), list(clinic.parameters.referenceSegmentations)) == ([], [])
    assert not clinic.ui.segmentButton.enabled and "reference" in clinic.ui.segmentButton.toolTip


def test_the_segmentation_of_a_reference(clinic, delete):
    with_neighbours(clinic)
    delete(clinic.segmentation)
    assert row(clinic) == (clinic.reference, None)
    assert (list(clinic.parameters.referenceVolumes), list(clinic.parameters.referenceSegmentations)) == ([], [])
    assert clinic.window.references.rows[0].segments.text == "none"
    assert not clinic.ui.segmentButton.enabled


def test_a_whole_reference(clinic, delete):
    with_neighbours(clinic)
    delete(clinic.reference, clinic.segmentation)
    assert row(clinic) == (None, None) and list(clinic.parameters.referenceSegments) == []


def test_a_target(clinic, delete):
    with_neighbours(clinic)
    delete(clinic.targets[0])
    assert [node for node in clinic.parameters.targetVolumes if node is not None] == []
    assert not clinic.ui.segmentButton.enabled and "target" in clinic.ui.segmentButton.toolTip


def test_the_segmentation_that_gets_the_results(clinic, delete):
    """Results go into a new one then, and not into somebody else's."""
    with_neighbours(clinic)
    mine = clinic.drawn(clinic.targets[0], 1, ("mine",))
    clinic.drawn(clinic.targets[0], 1, ("not mine",))
    clinic.ui.outputSelector.setCurrentNode(mine)
    assert clinic.parameters.outputSegmentation is mine
    delete(mine)
    assert clinic.ui.outputSelector.currentNode() is None and clinic.parameters.outputSegmentation is None


def finetuned(clinic):
    """Names of the scans and segmentations to finetune on."""
    pairs = zip(clinic.parameters.tuneVolumes, clinic.parameters.tuneSegmentations, strict=True)
    return [(volume.GetName(), drawn.GetName()) for volume, drawn in pairs if volume is not None and drawn is not None]


@pytest.mark.parametrize("what", ["reference", "segmentation"])
def test_a_pair_to_finetune_on(clinic, delete, what):
    with_neighbours(clinic)
    clinic.ui.allAnnotatedButton.click()
    pairs = [("before", "before drawn"), ("reference", "drawn"), ("after", "after drawn")]
    assert finetuned(clinic) == pairs
    delete(getattr(clinic, what))
    assert finetuned(clinic) == [pairs[0], pairs[2]]


@pytest.mark.parametrize("what", ["reference", "segmentation"])
def test_what_is_being_drawn(clinic, delete, what):
    """Draw ends; the editor does not go on with another segmentation, nor on another scan."""
    with_neighbours(clinic)
    clinic.ui.drawButton.click()
    editor, edited = clinic.ui.segmentEditor, []
    editor.connect("segmentationNodeChanged(vtkMRMLSegmentationNode*)", edited.append)
    editor.connect("sourceVolumeNodeChanged(vtkMRMLVolumeNode*)", edited.append)
    delete(getattr(clinic, what))
    assert not clinic.ui.drawButton.checked and not editor.visible
    assert editor.segmentationNode() is None and set(edited) == {None}


def test_something_else_while_drawing(clinic, delete):
    with_neighbours(clinic)
    clinic.ui.drawButton.click()
    delete(clinic.targets[0], clinic.slicer.util.getNode("before drawn"))
    assert clinic.ui.drawButton.checked and clinic.ui.segmentEditor.segmentationNode() is clinic.segmentation


@pytest.mark.usefixtures("quick")
def test_results(clinic):
    with_neighbours(clinic, "first", "second")
    clinic.press(clinic.ui.segmentButton)
    buttons = [clinic.ui.editButton, clinic.ui.asReferenceButton, clinic.ui.forFinetuningButton, clinic.ui.exportButton]
    for row, (name, way) in enumerate((("first", ONE_BY_ONE), ("second", IN_A_BATCH))):
        clinic.ui.resultsTable.setCurrentCell(row, 0)
        assert all(button.enabled for button in buttons)
        remove(clinic, way, clinic.slicer.util.getNode(f"{name} MASS"))
        assert clinic.ui.showButton.enabled and not any(button.enabled for button in buttons)
        remove(clinic, way, clinic.targets[row])
        assert not clinic.ui.showButton.enabled
