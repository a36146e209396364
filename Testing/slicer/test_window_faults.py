"""What goes wrong while somebody works in the window: told, with nothing lost and nothing left behind."""

import os
import signal

import pytest

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")
from Testing.slicer.clinic import alive


def test_cancel_leaves_the_scene_as_it_was_and_resume_goes_on(clinic):
    clinic.ready("target one", "target two")
    nodes = clinic.slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    clinic.ui.segmentButton.click()
    assert clinic.ui.cancelButton.enabled and not clinic.ui.segmentButton.enabled
    clinic.bench.wait_until(lambda: clinic.results()[0][1] == "running", seconds=60)
    clinic.ui.cancelButton.click()
    assert not clinic.widget.logic.busy
    clinic.bench.wait_until(lambda: not clinic.widget.logic.engine.client.busy, seconds=10)
    assert [row[1] for row in clinic.results()] == ["stopped", "stopped"]
    assert clinic.slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == nodes
    assert clinic.ui.resumeButton.enabled
    clinic.press(clinic.ui.resumeButton)
    assert [row[1] for row in clinic.results()] == ["done", "done"]
    assert not clinic.ui.resumeButton.enabled


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_a_worker_that_dies_is_told_and_replaced(clinic):
    clinic.ready("target one", "target two")
    clinic.ui.segmentButton.click()
    clinic.bench.wait_until(lambda: clinic.results()[0][1] == "running", seconds=60)
    os.kill(clinic.worker_pid(), signal.SIGKILL)
    clinic.bench.wait_until(lambda: not clinic.widget.logic.busy, seconds=120)
    first, second = clinic.results()
    assert first[1] == "failed" and "worker ended" in first[5]
    assert second[1] == "done"


def test_closing_the_scene_stops_the_run_and_the_window_goes_on(clinic):
    clinic.ready("target")
    clinic.ui.segmentButton.click()
    clinic.bench.wait_until(lambda: clinic.results()[0][1] == "running", seconds=60)
    clinic.slicer.mrmlScene.Clear(0)
    clinic.bench.process_events()
    assert not clinic.widget.logic.busy and clinic.results() == []
    assert clinic.parameters is not None and list(clinic.parameters.targetVolumes) == []
    clinic.ready("another")
    clinic.press(clinic.ui.segmentButton)
    assert clinic.results()[0][1] == "done"


def test_slicer_ends_in_mid_run_and_no_process_stays(clinic):
    clinic.ready("target")
    clinic.ui.segmentButton.click()
    clinic.bench.wait_until(lambda: clinic.results()[0][1] == "running", seconds=60)
    pid = clinic.worker_pid()
    folder = clinic.widget.logic.exports.folder
    clinic.bench.application.send("aboutToQuit()")
    clinic.bench.wait_until(lambda: not alive(pid), seconds=10)
    assert not folder.exists()


def test_a_volume_deleted_while_it_is_segmented_is_told(clinic):
    clinic.ready("target")
    clinic.ui.segmentButton.click()
    clinic.bench.wait_until(lambda: clinic.results()[0][1] == "running", seconds=60)
    clinic.slicer.mrmlScene.RemoveNode(clinic.targets[0])
    clinic.bench.wait_until(lambda: not clinic.widget.logic.busy, seconds=60)
    assert clinic.results()[0][1] == "failed" and "removed" in clinic.results()[0][5]


def test_bad_references_are_told_with_the_cure(clinic):
    clinic.ready("target")
    clinic.segmentation.GetSegmentation().GetSegment("liver").RemoveAllRepresentations()
    clinic.ui.segmentButton.click()
    ((kind, text),) = clinic.bench.shown
    assert kind == "error" and "empty" in text and "Draw it first" in text
    assert not clinic.widget.logic.busy


def test_an_empty_folder_is_told(clinic, tmp_path):
    clinic.bench.answer("folder", str(tmp_path))
    clinic.ui.addFolderButton.click()
    assert clinic.bench.shown[-1][0] == "error" and "no scans" in clinic.bench.shown[-1][1]


def test_weights_by_file_and_those_that_are_none(clinic, tmp_path):
    clinic.ready("target")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    clinic.bench.answer("open file", str(tmp_path / "broken.safetensors"))
    clinic.ui.browseWeightsButton.click()
    assert clinic.ui.weightsCombo.currentText == "broken.safetensors"
    clinic.press(clinic.ui.segmentButton)
    kind, text = clinic.bench.shown[-1]
    assert kind == "error" and "broken.safetensors" in text
    clinic.ui.weightsCombo.setCurrentIndex(0)
    clinic.press(clinic.ui.segmentButton)
    assert clinic.results()[0][1] == "done"


def test_the_worker_that_cannot_start_is_told(clinic, monkeypatch, tmp_path):
    monkeypatch.setenv("MASS_PYTHON", str(tmp_path / "no such python"))
    clinic.ready("target")
    clinic.ui.segmentButton.click()
    clinic.bench.wait_until(lambda: bool(clinic.bench.shown), seconds=10)
    assert clinic.bench.shown[-1][0] == "error" and "MASS_PYTHON" in clinic.bench.shown[-1][1]
    assert not clinic.widget.logic.busy


def test_reload_and_module_switches_leave_nothing_behind(clinic):
    from Testing.slicer.testbench.host import observers

    clinic.ready("target")
    clinic.press(clinic.ui.segmentButton)
    pid = clinic.worker_pid()
    for _ in range(3):
        clinic.bench.exit("MASSSlicer")
        clinic.bench.enter("MASSSlicer")
    clinic.bench.unload("MASSSlicer")
    clinic.bench.wait_until(lambda: not alive(pid), seconds=10)
    count = observers(clinic.slicer.mrmlScene)
    for _ in range(5):
        clinic.bench.module("MASSSlicer")
        clinic.bench.unload("MASSSlicer")
    assert observers(clinic.slicer.mrmlScene) == count


def test_two_runs_at_once_are_refused(clinic):
    from mass_core.errors import InputError

    clinic.ready("target")
    clinic.ui.segmentButton.click()
    with pytest.raises(InputError, match="A run is on"):
        clinic.widget.logic.segment([], [clinic.targets[0]])
    assert not clinic.ui.segmentButton.enabled
    clinic.ui.cancelButton.click()


def test_a_download_that_fails_is_told(clinic, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    clinic.bench.answer("question", True)
    clinic.ui.downloadButton.click()
    assert clinic.ui.downloadButton.text == "Cancel download"
    clinic.bench.wait_until(lambda: clinic.bench.shown[-1][0] == "error", seconds=60)
    assert "huggingface.co" in clinic.bench.shown[-1][1] or "proxy" in clinic.bench.shown[-1][1].lower()
    assert clinic.ui.downloadButton.text == "Download…" and clinic.parameters.weights == "small"


def test_a_check_that_fails_keeps_segment_from_being_pressed(clinic, monkeypatch, tmp_path):
    clinic.ready("target")
    assert clinic.ui.segmentButton.enabled
    broken = tmp_path / "broken/torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('half a torch')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    clinic.window.status.check()
    clinic.bench.wait_until(lambda: clinic.window.status.readiness is not None, seconds=60)
    assert "half a torch" in clinic.ui.statusLabel.text
    assert not clinic.ui.segmentButton.enabled and "PyTorch" in clinic.ui.segmentButton.toolTip
