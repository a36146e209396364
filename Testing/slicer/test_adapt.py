"""Adapt: what the references teach is fitted to them, kept for them, and dropped when they change."""

import re

import pytest

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")
from Testing.slicer import patients
from Testing.slicer.patients import LIVER
from Testing.slicer.teaching import Helped


@pytest.mark.usefixtures("quick")
def test_adapt_fits_then_segments_and_is_used_again(clinic, monkeypatch):
    """With the worker's own adapt, for a second."""
    helped = Helped(monkeypatch)
    clinic.admit("target")
    assert not clinic.ui.adaptButton.enabled and "reference" in clinic.ui.adaptButton.toolTip
    clinic.choose_reference()
    clinic.tick("target")
    clinic.ui.adaptSpin.value = 1
    assert "1 s" in clinic.ui.adaptButton.toolTip
    clinic.press(clinic.ui.adaptButton)
    assert clinic.results()[0][1] == "done", clinic.bench.shown
    assert helped.params("adapt")["seconds"] == 1 and helped.methods() == ["adapt", "segment"]
    assert re.search(r"task adapted to the references \(\d+ s\)\. Dice on them: 0\.\d\d before, 0\.\d\d after\.", clinic.ui.taskLabel.text)
    adapted = helped.params("segment")["task"]
    clinic.press(clinic.ui.segmentButton)
    assert helped.methods() == ["adapt", "segment", "segment"] and helped.params("segment")["task"] == adapted
    clinic.bench.answer("text", "adapted liver")
    clinic.ui.saveTaskButton.click()
    assert clinic.ui.tasksTable.item(0, 0).text() == "adapted liver"
    clinic.ui.useReferencesButton.click()
    assert clinic.ui.taskLabel.text == ""
    clinic.press(clinic.ui.segmentButton)
    assert helped.methods()[-2:] == ["encode", "segment"]


@pytest.mark.parametrize("change", ["nothing", "drawn", "renamed", "another reference", "other weights", "file gone"])
def test_it_is_dropped_when_what_it_was_made_of_changes(clinic, tmp_path, change):
    """And only then: looking at it, and settings that say nothing about references, leave it."""
    from MASSSlicerLib.runs.adapted import Adapted

    clinic.ready("target")
    choice, file = clinic.window.choice, tmp_path / "adapted.masstask"
    file.touch()
    choice.keep(Adapted(file, 30.0, (0.71, 0.86), choice.state()))
    clinic.window.update()
    assert "adapted" in clinic.ui.taskLabel.text and choice.task() == file
    if change == "nothing":
        clinic.ui.assessCheck.click()
        clinic.widget.logic.exports.volume(clinic.reference)
        clinic.segmentation.CreateClosedSurfaceRepresentation()
    elif change == "drawn":
        mask = clinic.people[0][1].array == LIVER
        mask[mask.nonzero()[0][:10]] = 0
        patients.redraw(clinic.segmentation, clinic.reference, mask, "liver")
    elif change == "renamed":
        clinic.segmentation.GetSegmentation().GetSegment("liver").SetName("hepar")
    elif change == "another reference":
        clinic.window.references.add_reference(clinic.targets[0], clinic.drawn(clinic.targets[0], 1), [])
    elif change == "other weights":
        clinic.parameters.weights = "mass_base"
    else:
        file.unlink()
    clinic.window.update()
    kept = change == "nothing"
    assert ("adapted" in clinic.ui.taskLabel.text) == kept
    assert (choice.task() == file) == kept


@pytest.mark.usefixtures("quick")
def test_cancel_discards_and_leaves_the_scene(clinic):
    clinic.ready("target")
    nodes = clinic.slicer.mrmlScene.GetNumberOfNodes()
    clinic.ui.adaptButton.click()
    assert clinic.widget.logic.busy and not clinic.ui.adaptButton.enabled
    clinic.bench.wait_until(lambda: clinic.ui.progressBar.format.startswith("Adapting"))
    clinic.ui.cancelButton.click()
    clinic.bench.wait_until(lambda: not clinic.widget.logic.engine.client.busy)
    assert clinic.ui.taskLabel.text == "" and clinic.results()[0][1] == "stopped"
    assert clinic.slicer.mrmlScene.GetNumberOfNodes() == nodes
    assert sorted(path.suffix for path in clinic.widget.logic.exports.folder.iterdir()) == [".nrrd", ".nrrd"], "no task"


def test_only_references_can_be_adapted_to(clinic, tmp_path):
    clinic.ready("target")
    assert clinic.ui.adaptButton.enabled
    clinic.window.choice.use_task(tmp_path / "liver.masstask")
    assert not clinic.ui.adaptButton.enabled and "Use references instead" in clinic.ui.adaptButton.toolTip
    clinic.ui.useReferencesButton.click()
    assert clinic.ui.adaptButton.enabled
