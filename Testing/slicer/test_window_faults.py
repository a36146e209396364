"""Failures while the user works in the window: reported, with nothing lost and nothing left behind."""

import os
import signal

import pytest

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")
from Testing.slicer.clinic import alive


@pytest.mark.usefixtures("quick")
def test_cancel_leaves_the_scene_as_it_was_and_resume_goes_on(clinic):
    clinic.ready("target one", "target two")
    nodes = clinic.slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    clinic.ui.segmentButton.click()
    assert clinic.ui.cancelButton.enabled and not clinic.ui.segmentButton.enabled
    clinic.bench.wait_until(lambda: clinic.results()[0][1] == "running")
    clinic.ui.cancelButton.click()
    assert not clinic.widget.logic.busy
    clinic.bench.wait_until(lambda: not clinic.widget.logic.engine.client.busy)
    assert [row[1] for row in clinic.results()] == ["stopped", "stopped"]
    assert clinic.slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == nodes
    assert clinic.ui.resumeButton.enabled
    clinic.press(clinic.ui.resumeButton)
    assert [row[1] for row in clinic.results()] == ["done", "done"]
    assert not clinic.ui.resumeButton.enabled


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
@pytest.mark.usefixtures("own_worker")
def test_a_worker_that_dies_is_told_and_replaced(clinic):
    clinic.ready("target one", "target two")
    clinic.ui.segmentButton.click()
    clinic.bench.wait_until(lambda: clinic.results()[0][1] == "running")
    os.kill(clinic.worker_pid(), signal.SIGKILL)
    clinic.bench.wait_until(lambda: not clinic.widget.logic.busy)
    first, second = clinic.results()
    assert first[1] == "failed" and "worker ended" in first[5]
    assert second[1] == "done"


@pytest.mark.usefixtures("quick")
def test_closing_the_scene_stops_the_run_and_the_window_goes_on(clinic):
    clinic.ready("target")
    clinic.ui.segmentButton.click()
    clinic.bench.wait_until(lambda: clinic.results()[0][1] == "running")
    clinic.slicer.mrmlScene.Clear(0)
    clinic.bench.process_events()
    assert not clinic.widget.logic.busy and clinic.results() == []
    assert clinic.parameters is not None and list(clinic.parameters.targetVolumes) == []
    clinic.ready("another")
    clinic.press(clinic.ui.segmentButton)
    assert clinic.results()[0][1] == "done"


@pytest.mark.usefixtures("own_worker")
def test_slicer_ends_in_mid_run_and_no_process_stays(clinic):
    clinic.ready("target")
    clinic.ui.segmentButton.click()
    clinic.bench.wait_until(lambda: clinic.results()[0][1] == "running")
    pid = clinic.worker_pid()
    folder = clinic.widget.logic.exports.folder
    clinic.bench.application.send("aboutToQuit()")
    clinic.bench.wait_until(lambda: not alive(pid))
    assert not folder.exists()


@pytest.mark.usefixtures("quick")
def test_a_volume_deleted_while_it_is_segmented_is_told(clinic):
    clinic.ready("target")
    clinic.ui.segmentButton.click()
    clinic.bench.wait_until(lambda: clinic.results()[0][1] == "running")
    clinic.slicer.mrmlScene.RemoveNode(clinic.targets[0])
    clinic.bench.wait_until(lambda: not clinic.widget.logic.busy)
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


@pytest.mark.usefixtures("own_worker")
def test_the_worker_that_cannot_start_is_told(clinic, monkeypatch, tmp_path):
    monkeypatch.setenv("MASS_PYTHON", str(tmp_path / "no such python"))
    clinic.ready("target")
    clinic.ui.segmentButton.click()
    clinic.bench.wait_until(lambda: bool(clinic.bench.shown))
    assert clinic.bench.shown[-1][0] == "error" and "MASS_PYTHON" in clinic.bench.shown[-1][1]
    assert not clinic.widget.logic.busy


@pytest.mark.usefixtures("own_worker")
def test_reload_and_module_switches_leave_nothing_behind(clinic):
    from Testing.slicer.testbench.host import observers

    clinic.ready("target")
    clinic.press(clinic.ui.segmentButton)
    pid = clinic.worker_pid()
    for _ in range(3):
        clinic.bench.exit("MASSSlicer")
        clinic.bench.enter("MASSSlicer")
    clinic.bench.unload("MASSSlicer")
    clinic.bench.wait_until(lambda: not alive(pid))
    count = observers(clinic.slicer.mrmlScene)
    for _ in range(5):
        clinic.bench.module("MASSSlicer")
        clinic.bench.unload("MASSSlicer")
    assert observers(clinic.slicer.mrmlScene) == count


@pytest.mark.slow
def test_the_window_works_after_reload(clinic):
    """Slicer builds it anew without entering it, and hides the old one."""
    clinic.admit("target")
    old = clinic.widget
    clinic.widget = clinic.bench.reload("MASSSlicer")
    clinic.ui, clinic.window = clinic.widget.ui, clinic.widget.window
    assert clinic.widget is not old and not old.form.visible and clinic.widget.form.visible
    assert old.window.parameters is None and clinic.parameters is not None
    assert "reference" in clinic.ui.segmentButton.toolTip
    clinic.choose_reference()
    clinic.tick("target")
    clinic.press(clinic.ui.segmentButton)
    assert clinic.results()[0][1] == "done"


def test_a_window_that_is_gone_does_not_come_back(clinic):
    """Although the scene changed just before, and the window was about to answer that."""
    from Testing.slicer.testbench.host import observers

    gone = clinic.window
    clinic.admit("target")
    clinic.slicer.mrmlScene.RemoveNode(clinic.reference)
    clinic.widget.cleanup()
    count = observers(clinic.slicer.mrmlScene)
    clinic.bench.process_events()
    gone.enter()
    assert gone.parameters is None and observers(clinic.slicer.mrmlScene) == count
    clinic.slicer.mrmlScene.Clear(0)
    clinic.bench.process_events()
    assert gone.parameters is None


def test_closing_the_scene_ends_draw(clinic):
    clinic.admit()
    clinic.choose_reference()
    clinic.ui.drawButton.click()
    assert clinic.ui.segmentEditor.visible
    clinic.slicer.mrmlScene.Clear(0)
    clinic.bench.process_events()
    assert not clinic.ui.drawButton.checked and not clinic.ui.segmentEditor.visible
    clinic.admit()
    clinic.choose_reference()
    clinic.ui.drawButton.click()
    editor = clinic.ui.segmentEditor.mrmlSegmentEditorNode()
    assert editor.GetSegmentationNode() is clinic.segmentation
    assert editor.GetOverwriteMode() == editor.OverwriteNone, "neighbours are safe in the next scene too"


def test_an_emptied_folder_is_no_folder(clinic, tmp_path):
    """CTK's line does not announce that; results must not go where the window no longer says."""
    clinic.ready("target")
    clinic.ui.toFilesCheck.click()
    clinic.ui.outputFolderEdit.currentPath = str(tmp_path)
    assert clinic.parameters.outputFolder == str(tmp_path) and clinic.ui.segmentButton.enabled
    clinic.ui.outputFolderEdit.currentPath = ""
    assert clinic.parameters.outputFolder == "" and not clinic.ui.segmentButton.enabled
    assert "folder" in clinic.ui.segmentButton.toolTip


@pytest.mark.usefixtures("quick")
def test_two_runs_at_once_are_refused(clinic):
    from mass_core.errors import InputError

    clinic.ready("target")
    clinic.ui.segmentButton.click()
    with pytest.raises(InputError, match="Another run is in progress"):
        clinic.widget.logic.segment([], [clinic.targets[0]])
    assert not clinic.ui.segmentButton.enabled
    clinic.ui.cancelButton.click()


def test_a_download_that_fails_is_told(clinic, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    clinic.bench.answer("question", True)
    clinic.ui.downloadButton.click()
    assert clinic.ui.downloadButton.text == "Cancel download"
    clinic.bench.wait_until(lambda: clinic.bench.shown[-1][0] == "error")
    assert "huggingface.co" in clinic.bench.shown[-1][1] or "proxy" in clinic.bench.shown[-1][1].lower()
    assert clinic.ui.downloadButton.text == "Download…" and clinic.parameters.weights == "small"


@pytest.fixture
def no_start(monkeypatch, tmp_path):
    """A program that is there and cannot be started."""
    program = tmp_path / "python"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    monkeypatch.setenv("MASS_PYTHON", str(program))


@pytest.mark.skipif(os.name == "nt", reason="made for systems with #! lines")
def test_a_download_that_cannot_start_is_told(clinic, no_start):
    clinic.bench.answer("question", True)
    clinic.ui.downloadButton.click()
    clinic.bench.wait_until(lambda: clinic.bench.shown[-1][0] == "error")
    assert "could not be started" in clinic.bench.shown[-1][1]
    assert clinic.ui.downloadButton.text == "Download…"


@pytest.mark.skipif(os.name == "nt", reason="made for systems with #! lines")
def test_a_look_at_label_maps_that_cannot_start_is_told(clinic, no_start, tmp_path):
    for name in ("a.nrrd", "a_seg.nrrd"):
        (tmp_path / name).write_bytes(b"never read")
    clinic.bench.answer("folder", str(tmp_path))
    clinic.ui.addAnnotatedButton.click()
    clinic.bench.wait_until(lambda: clinic.bench.shown[-1][0] == "error")
    assert not clinic.window.finetune.cases.looking


def test_a_download_ends_with_the_window(clinic, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    clinic.bench.answer("question", True)
    clinic.ui.downloadButton.click()
    download = clinic.window.advanced._download
    assert download.running
    clinic.bench.unload("MASSSlicer")
    clinic.bench.wait_until(lambda: not download.running)
    assert not download.running


def test_a_check_that_fails_keeps_segment_from_being_pressed(clinic, monkeypatch, tmp_path):
    clinic.ready("target")
    assert clinic.ui.segmentButton.enabled
    broken = tmp_path / "broken/torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('half a torch')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    clinic.window.status.check()
    clinic.bench.wait_until(lambda: clinic.window.status.readiness is not None)
    assert "half a torch" in clinic.ui.statusLabel.text
    assert not clinic.ui.segmentButton.enabled and "PyTorch" in clinic.ui.segmentButton.toolTip
