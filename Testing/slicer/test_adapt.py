"""Adapt: what the references teach is fitted to them, kept for them, and dropped when they change."""

import pytest

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")
from Testing.slicer import patients
from Testing.slicer.patients import LIVER
from Testing.slicer.teaching import Helped


@pytest.fixture
def helped(monkeypatch):
    """A worker whose adapt is its encode, told as adapt."""
    made = Helped(monkeypatch)

    def adapt(client, params, original, *, progress, done, **callbacks):
        seconds = params["seconds"]

        def finished(reply):
            progress("adapt", 0.5, seconds / 2)
            reply["result"] |= {"steps": 12, "seconds": seconds, "dice": [0.71, 0.86]}
            done(reply)

        plain = {name: value for name, value in params.items() if name != "seconds"}
        return original(client, "encode", plain, progress=progress, done=finished, **callbacks)

    made.answers["adapt"] = adapt
    return made


def test_adapt_fits_then_segments_and_is_used_again(clinic, helped):
    clinic.admit("target")
    assert not clinic.ui.adaptButton.enabled and "reference" in clinic.ui.adaptButton.toolTip
    clinic.choose_reference()
    clinic.tick("target")
    clinic.ui.adaptSpin.value = 45
    assert "45 s" in clinic.ui.adaptButton.toolTip
    clinic.press(clinic.ui.adaptButton)
    assert clinic.results()[0][1] == "done"
    assert helped.params("adapt")["seconds"] == 45 and helped.methods() == ["adapt", "segment"]
    text = clinic.ui.taskLabel.text
    assert "adapted task (45 s)" in text and "0.71" in text and "0.86" in text
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
    from MASSSlicerLib.adapted import Adapted

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


def test_cancel_discards_and_leaves_the_scene(clinic, monkeypatch):
    helped = Helped(monkeypatch)
    helped.answers["adapt"] = lambda client, params, original, **callbacks: original(
        client, "encode", {name: value for name, value in params.items() if name != "seconds"}, **callbacks
    )
    clinic.ready("target")
    nodes = clinic.slicer.mrmlScene.GetNumberOfNodes()
    clinic.ui.adaptButton.click()
    assert clinic.widget.logic.busy and not clinic.ui.adaptButton.enabled
    clinic.ui.cancelButton.click()
    clinic.bench.wait_until(lambda: not clinic.widget.logic.engine.client.busy, seconds=30)
    assert clinic.ui.taskLabel.text == "" and clinic.results()[0][1] == "stopped"
    assert clinic.slicer.mrmlScene.GetNumberOfNodes() == nodes
    assert helped.methods() == ["adapt"]


def test_only_references_can_be_adapted_to(clinic, tmp_path):
    clinic.ready("target")
    assert clinic.ui.adaptButton.enabled
    clinic.window.choice.use_task(tmp_path / "liver.masstask")
    assert not clinic.ui.adaptButton.enabled and "Use references instead" in clinic.ui.adaptButton.toolTip
    clinic.ui.useReferencesButton.click()
    assert clinic.ui.adaptButton.enabled
