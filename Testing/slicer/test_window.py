"""The window, clicked through: shipped .py and .ui files on the testbench, a real worker, the bundled weights."""

import importlib
import unittest
from pathlib import Path

import numpy as np
import pytest

from mass_core import __version__

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")
from Testing.slicer import patients
from Testing.slicer.patients import LIVER
from Testing.slicer.trainer import lines


def test_nothing_happens_when_it_opens(clinic):
    assert clinic.bench.shown == []
    assert clinic.widget.logic._engine is None, "no worker before it is needed"
    assert not clinic.ui.segmentButton.enabled


def test_opening_only_checks_the_packages(clinic, monkeypatch, tmp_path):
    """In a process of its own, and not in Slicer's testing mode, in which the other tests run; a PyTorch that fails at once."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise ImportError('not now')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    clinic.bench.exit("MASSSlicer")
    clinic.bench.application.testing = False
    clinic.bench.enter("MASSSlicer")
    assert clinic.ui.statusLabel.text == "Checking the packages…"
    clinic.bench.wait_until(lambda: clinic.window.status.readiness is not None)
    assert clinic.bench.shown == [] and clinic.widget.logic._engine is None


def test_every_control_explains_itself(clinic):
    silent = []
    for name, widget in vars(clinic.ui).items():
        if name.endswith(("Button", "Combo", "Check", "Edit", "Slider", "Spin", "Table", "Selector")) and not widget.toolTip:
            silent.append(name)
    assert silent == []


def test_the_disabled_button_says_what_is_missing(clinic):
    tip = lambda: clinic.ui.segmentButton.toolTip  # noqa: E731
    clinic.admit("target")
    assert "reference" in tip()
    clinic.choose_reference()
    assert "target" in tip()
    clinic.tick("target")
    assert clinic.ui.segmentButton.enabled
    clinic.ui.toFilesCheck.click()
    assert not clinic.ui.segmentButton.enabled and "folder" in tip()


@pytest.mark.usefixtures("own_worker")
def test_the_whole_way(clinic):
    clinic.ready("target one", "target two")
    clinic.press(clinic.ui.segmentButton)
    assert [row[:2] for row in clinic.results()] == [["target one", "done"], ["target two", "done"]]
    assert all("liver" in row[3] and row[2].endswith("s") for row in clinic.results())
    assert clinic.ui.messageLabel.text.startswith("2 done")
    segmentation = clinic.slicer.util.getNode("target one MASS")
    segment_id = segmentation.GetSegmentation().GetNthSegmentID(0)
    found = patients.mask_of(segmentation, segment_id, clinic.targets[0])
    assert patients.dice(found, clinic.people[1][1].array == LIVER) > 0.4
    assert clinic.bench.shown == []


@pytest.mark.usefixtures("quick")
def test_results_go_into_a_chosen_segmentation_without_touching_it(clinic):
    clinic.ready("target")
    mine = clinic.drawn(clinic.targets[0], 1, ("mine",))
    before = patients.mask_of(mine, "mine", clinic.targets[0])
    clinic.ui.outputSelector.setCurrentNode(mine)
    clinic.press(clinic.ui.segmentButton)
    inner = mine.GetSegmentation()
    assert [inner.GetNthSegment(n).GetName() for n in range(inner.GetNumberOfSegments())] == ["mine", "liver"]
    np.testing.assert_array_equal(patients.mask_of(mine, "mine", clinic.targets[0]), before)


@pytest.mark.usefixtures("quick")
def test_undo_takes_added_segments_back(clinic):
    clinic.ready("target")
    mine = clinic.drawn(clinic.targets[0], 1, ("mine",))
    row = clinic.window.references.add()
    row.put(clinic.targets[0], mine, [])
    clinic.ui.drawButton.click()
    clinic.ui.outputSelector.setCurrentNode(mine)
    clinic.press(clinic.ui.segmentButton)
    assert mine.GetSegmentation().GetNumberOfSegments() == 2
    clinic.ui.segmentEditor.undo()
    assert [mine.GetSegmentation().GetNthSegmentID(0)] == ["mine"] and mine.GetSegmentation().GetNumberOfSegments() == 1


@pytest.mark.usefixtures("quick")
def test_a_result_is_edited_exported_and_becomes_a_reference_and_a_case_to_finetune_on(clinic, tmp_path):
    clinic.ready("target")
    clinic.press(clinic.ui.segmentButton)
    clinic.ui.editButton.click()
    assert clinic.bench.selected_modules == ["SegmentEditor"]
    editor = clinic.slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    assert editor.GetSegmentationNode().GetName() == "target MASS" and editor.GetSourceVolumeNode() is clinic.targets[0]
    path = tmp_path / "result.seg.nrrd"
    clinic.bench.answer("save file", str(path))
    clinic.ui.exportButton.click()
    assert clinic.slicer.util.loadSegmentation(str(path)).GetSegmentation().GetNthSegment(0).GetName() == "liver"
    scan = tmp_path / "scan.nii.gz"
    assert clinic.slicer.util.saveNode(clinic.targets[0], str(scan))
    precious = scan.read_bytes()
    clinic.bench.answer("save file", str(scan))
    clinic.ui.exportButton.click()
    assert "not be overwritten" in clinic.bench.shown[-1][1] and scan.read_bytes() == precious
    clinic.ui.resultsTable.setCurrentCell(0, 0)
    clinic.ui.asReferenceButton.click()
    assert [node.GetName() for node in clinic.parameters.referenceVolumes] == ["reference", "target"]
    assert len(clinic.window.references.rows) == 2
    assert clinic.window.references.rows[1].segments.text == "liver"
    clinic.ui.forFinetuningButton.click()
    assert [node.GetName() for node in clinic.parameters.tuneSegmentations] == ["target MASS"]
    assert [node.GetName() for node in clinic.parameters.tuneVolumes] == ["target"]
    assert lines(clinic.ui.classesTable) == [["liver", "1 of 1"]]


def test_segments_to_choose(clinic):
    clinic.admit("target")
    clinic.segmentation = clinic.drawn(clinic.reference, names=("liver", "spleen"))
    clinic.choose_reference()
    row = clinic.window.references.rows[0]
    assert row.segments.text == "liver, spleen"
    row._fill()
    next(action for action in row.segments.menu().actions() if action.text == "liver").trigger()
    assert row.segments.text == "spleen" and list(clinic.parameters.referenceSegments) == ['["spleen"]']


def test_the_segmentation_knows_its_scan(clinic):
    """Choosing the segmentation first fills in the scan it was drawn on."""
    clinic.admit("target")
    row = clinic.window.references.rows[0]
    row.segmentation.setCurrentNode(clinic.segmentation)
    assert row.volume.currentNode() is clinic.reference
    assert list(clinic.parameters.referenceVolumes) == [clinic.reference]


@pytest.mark.usefixtures("quick")
def test_draw_opens_an_editor_for_a_new_segment(clinic):
    clinic.admit("target")
    row = clinic.window.references.rows[0]
    clinic.ui.drawButton.click()
    assert clinic.bench.shown[-1][0] == "info" and not clinic.ui.drawButton.checked, "first the scan to draw on"
    row.volume.setCurrentNode(clinic.reference)
    clinic.ui.drawButton.click()
    editor = clinic.ui.segmentEditor
    assert editor.visible and editor.sourceVolumeNode() is clinic.reference
    segmentation = editor.segmentationNode()
    assert segmentation.GetName() == "reference reference" and row.segmentation.currentNode() is segmentation
    segment_id = segmentation.GetSegmentation().GetNthSegmentID(0)
    editor.saveStateForUndo()
    patients.redraw(segmentation, clinic.reference, clinic.people[0][1].array == LIVER, segment_id)
    clinic.ui.drawButton.click()
    clinic.tick("target")
    clinic.press(clinic.ui.segmentButton)
    assert clinic.results()[0][1] == "done"


def test_tasks_are_saved_used_shared_and_deleted(clinic, tmp_path):
    clinic.ready("target")
    assert not clinic.ui.saveTaskButton.enabled
    clinic.press(clinic.ui.segmentButton)
    volume = clinic.results()[0][3]
    clinic.bench.answer("text", "My liver")
    clinic.ui.saveTaskButton.click()
    table = clinic.ui.tasksTable
    assert [table.item(0, column).text() for column in range(2)] == ["My liver", "small"]
    clinic.bench.answer("text", "My liver")
    clinic.ui.saveTaskButton.click()
    assert clinic.bench.shown[-1][0] == "error" and "already" in clinic.bench.shown[-1][1]
    table.setCurrentCell(0, 0)
    shared = tmp_path / "shared.masstask"
    clinic.bench.answer("save file", str(shared))
    clinic.ui.exportTaskButton.click()
    clinic.ui.useTaskButton.click()
    assert "My liver" in clinic.ui.taskLabel.text
    clinic.press(clinic.ui.segmentButton)
    # The file holds no image to align, which the result says; the network alone finds another volume.
    assert clinic.results()[0][3].startswith("liver ") and volume.startswith("liver ")
    assert any("no images to align" in note for note in clinic.window.run.cases[0].warnings)
    clinic.ui.useReferencesButton.click()
    assert not clinic.parameters.taskFile
    clinic.bench.answer("text", "Other name")
    clinic.ui.renameTaskButton.click()
    assert table.item(0, 0).text() == "Other name"
    clinic.bench.answer("open file", str(shared))
    clinic.ui.importTaskButton.click()
    assert [table.item(row, 0).text() for row in range(2)] == ["Other name", "shared"]
    table.setCurrentCell(1, 0)
    clinic.bench.answer("question", True)
    clinic.ui.deleteTaskButton.click()
    assert table.rowCount == 1
    (tmp_path / "no.masstask").write_bytes(b"not a task")
    clinic.bench.answer("open file", str(tmp_path / "no.masstask"))
    clinic.ui.importTaskButton.click()
    assert "is not a task file" in clinic.bench.shown[-1][1]


@pytest.mark.usefixtures("quick")
def test_a_folder_of_scans_to_files(clinic, tmp_path):
    from MASSSlicerLib.scene import exchange as scene

    clinic.admit("a", "b")
    clinic.choose_reference()
    folder, results = tmp_path / "scans", tmp_path / "results"
    folder.mkdir()
    results.mkdir()
    for node in clinic.targets:
        scene.write_volume(node, folder / f"{node.GetName()}.nrrd")
    (folder / "a_seg.nrrd").write_bytes((folder / "a.nrrd").read_bytes())
    (folder / "notes.txt").write_text("no scan")
    clinic.bench.answer("folder", str(folder))
    clinic.ui.addFolderButton.click()
    assert [Path(path).name for path in clinic.parameters.targetFiles] == ["a.nrrd", "b.nrrd"]
    told = clinic.ui.messageLabel.text
    assert told.startswith("Scans found in “scans”: 2.") and "left out" in told and "a_seg.nrrd" in told and "notes.txt" in told
    clinic.ui.toFilesCheck.click()
    clinic.ui.outputFolderEdit.currentPath = str(results)
    clinic.press(clinic.ui.segmentButton)
    assert sorted(path.name for path in results.iterdir()) == ["MASS_summary.csv", "a.seg.nrrd", "b.seg.nrrd"]
    clinic.press_again = clinic.ui.segmentButton.click()
    clinic.bench.wait_until(lambda: not clinic.widget.logic.busy)
    assert [row[1] for row in clinic.results()] == ["skipped", "skipped"]


def test_choices_are_saved_with_the_scene(clinic, tmp_path):
    clinic.ready("target")
    clinic.ui.ownSettingsCheck.click()
    clinic.ui.thresholdSlider.value = 0.3
    clinic.ui.partsCombo.currentText = "all"
    clinic.ui.nameEdit.text = "{target} found"
    path = tmp_path / "scene.mrb"
    assert clinic.slicer.util.saveScene(str(path))
    clinic.slicer.mrmlScene.Clear(0)
    clinic.bench.process_events()
    assert not clinic.ui.ownSettingsCheck.checked
    clinic.slicer.util.loadScene(str(path))
    clinic.bench.process_events()
    assert clinic.ui.ownSettingsCheck.checked and clinic.ui.thresholdSlider.value == pytest.approx(0.3)
    assert clinic.ui.partsCombo.currentText == "all" and clinic.ui.nameEdit.text == "{target} found"
    row = clinic.window.references.rows[0]
    assert row.volume.currentNode().GetName() == "reference" and row.segments.text == "liver"
    assert [node.GetName() for node in clinic.parameters.targetVolumes] == ["target"]
    assert clinic.ui.segmentButton.enabled


@pytest.mark.usefixtures("quick")
def test_own_settings_reach_the_worker(clinic):
    clinic.ready("target")
    clinic.press(clinic.ui.segmentButton)
    usual = clinic.results()[0][3]
    clinic.ui.ownSettingsCheck.click()
    clinic.ui.thresholdSlider.value = 0.2
    clinic.ui.partsCombo.currentText = "all"
    clinic.press(clinic.ui.segmentButton)
    more = clinic.results()[0][3]
    assert float(more.split()[1]) > float(usual.split()[1]), "a lower threshold finds more"


@pytest.mark.parametrize(("align", "options"), [("auto", {}), ("off", {"align": "off"}), ("only", {"align": "only"})])
def test_the_choice_of_alignment_reaches_the_worker(clinic, align, options):
    """auto leaves it to what the weights record."""
    clinic.ui.alignCombo.currentText = align
    assert clinic.parameters.align == align
    from MASSSlicerLib.logic import settings_of

    assert settings_of(clinic.parameters, "cpu").options == options


def test_the_self_test_passes(clinic):
    import MASSSlicer

    MASSSlicer.MASSSlicerTest().runTest()
    (found,) = (node for node in clinic.slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if node.GetName().endswith("MASS"))
    assert found.GetSegmentation().GetNthSegment(0).GetName() == "liver"


def test_the_self_test_is_skipped_where_pytorch_is_absent(clinic, monkeypatch):
    """As on the machines that build Slicer's extensions."""
    import MASSSlicerLib.install.packages as install

    import MASSSlicer

    monkeypatch.delenv("MASS_PYTHON")
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(unittest.SkipTest, match="PyTorch is not installed"):
        MASSSlicer.MASSSlicerTest().runTest()


@pytest.mark.usefixtures("quick")
def test_series_of_the_dicom_database(clinic, tmp_path):
    """Chosen in a window, read from their files, result to a folder."""
    import SimpleITK as sitk
    from MASSSlicerLib.scene import exchange as scene

    from mass_core import Volume

    clinic.admit()
    clinic.choose_reference()
    clinic.ui.addDicomButton.click()
    assert clinic.bench.shown[-1][0] == "info" and "Open the DICOM module once" in clinic.bench.shown[-1][1]
    database = clinic.bench.open_dicom()
    clinic.ui.addDicomButton.click()
    assert clinic.bench.shown[-1][0] == "info" and "no CT, MR or PET" in clinic.bench.shown[-1][1]
    patient = clinic.volume(1, "patient")
    scene.write_volume(patient, tmp_path / "patient.nrrd")
    image, files = sitk.ReadImage(str(tmp_path / "patient.nrrd")), []
    for number in range(image.GetDepth()):
        plane = image[:, :, number]
        plane = sitk.JoinSeries([plane], image.GetOrigin()[2] + number * image.GetSpacing()[2], image.GetSpacing()[2])
        tags = {"0008|0060": "CT", "0020|000e": "1.2.3", "0008|0018": f"1.2.3.{number}", "0020|0013": str(number + 1)}
        place = plane.TransformIndexToPhysicalPoint((0, 0, 0))
        tags |= {"0020|0032": "\\".join(map(str, place)), "0020|0037": "1\\0\\0\\0\\1\\0"}
        for tag, value in tags.items():
            plane.SetMetaData(tag, value)
        files.append(tmp_path / "dicom" / f"{number}.dcm")
        files[-1].parent.mkdir(exist_ok=True)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()  # one series, not one for each file
        writer.SetFileName(str(files[-1]))
        writer.Execute(plane)
    database.content = {"Jane": {"1.2": {"1.2.3": [str(file) for file in files]}}}

    def tick(dialog):
        import qt

        table = next(child for child in dialog.children() if isinstance(child, qt.QTableWidget))
        assert table.item(0, 0).text() == "Jane"
        table.item(0, 0).setCheckState(qt.Qt.Checked)
        buttons = next(child for child in dialog.children() if isinstance(child, qt.QDialogButtonBox))
        buttons.button(qt.QDialogButtonBox.Ok).click()

    clinic.bench.answer("dialog", tick)
    clinic.ui.addDicomButton.click()
    assert list(clinic.parameters.targetFiles) == ["dicom:1.2.3"]
    clinic.ui.toFilesCheck.click()
    clinic.ui.formatCombo.currentText = ".nii.gz"
    (tmp_path / "results").mkdir()
    clinic.ui.outputFolderEdit.currentPath = str(tmp_path / "results")
    clinic.press(clinic.ui.segmentButton)
    assert clinic.results()[0][1] == "done", clinic.results()
    (found,) = (tmp_path / "results").glob("*.nii.gz")
    assert Volume.read(found).geometry.shape_zyx == image.GetSize()[::-1]


def test_the_check_of_the_packages_really_imports_them(clinic):
    """And Install… has nothing to do where all is there."""
    clinic.ui.installButton.click()
    clinic.bench.wait_until(lambda: clinic.window.status.readiness is not None)
    found = clinic.window.status.readiness
    assert found.ready and found.missing == () and found.broken is None and found.replace == ()
    assert found.torch == importlib.import_module("torch").__version__
    assert __version__ in found.details and str(Path(__file__).parents[2] / "mass_core") in found.details
    assert clinic.ui.statusLabel.text.startswith("PyTorch ")
    assert clinic.bench.shown[-1] == ("info", "All required packages are installed.")


def test_weights_are_downloaded_after_consent_only(clinic, tmp_path):
    """The file comes while the question is open, so that nothing is fetched: the command finds it there."""
    clinic.bench.answer("question", False)
    clinic.ui.downloadButton.click()
    kind, text = clinic.bench.shown[-1]
    assert kind == "question" and "huggingface.co" in text and "Licence: MIT" in text
    assert clinic.ui.weightsCombo.count == 1

    def put_there(text):
        file = tmp_path / "home é/weights/mass_base.pth"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x" * 1000)
        return True

    clinic.bench.answer("question", put_there)
    clinic.ui.downloadButton.click()
    clinic.bench.wait_until(lambda: clinic.parameters.weights == "mass_base")
    assert clinic.ui.weightsCombo.currentText.startswith("mass_base")
    assert not clinic.ui.downloadButton.enabled, "nothing else is for download here: SAM2 makes masks"
    clinic.bench.answer("question", lambda text: "mass_base.pth (1 MB)" in text)
    clinic.ui.removeWeightsButton.click()
    assert not (tmp_path / "home é/weights/mass_base.pth").exists() and clinic.parameters.weights == "small"


def test_the_tutorials_script(clinic, tmp_path):
    """Of docs/slicer.md: a volume of the scene and a file as targets, without the window."""
    from MASSSlicerLib.runs.order import Reference, Settings
    from MASSSlicerLib.scene import exchange as scene

    from MASSSlicer import MASSSlicerLogic

    clinic.admit("target")
    scene.write_volume(clinic.targets[0], tmp_path / "third.nrrd")
    logic = MASSSlicerLogic()
    run = logic.segment(
        [Reference(clinic.reference, clinic.segmentation)],
        [clinic.targets[0], str(tmp_path / "third.nrrd")],
        settings=Settings(device="cpu"),
    )
    logic.wait(run)
    logic.close()
    (one, volumes), (two, same) = ((case.name, case.volumes_ml) for case in run.cases)
    assert (one, two) == ("target", "third") and volumes == same and volumes["liver"] > 0
