"""Finetuning in the window: cases, classes, budget, start, stop, curves, the model at the end. The test plays the worker's part."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mass_core.errors import HostError, InputError
from mass_core.remote.reasons import ENOUGH

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")
from Testing.slicer import patients
from Testing.slicer.patients import LIVER, SPLEEN
from Testing.slicer.trainer import begin, cases_of, lines, ready, tick


def test_start_says_what_is_missing(clinic, trainer):
    tip = lambda: clinic.ui.tuneStartButton.toolTip  # noqa: E731
    assert "Tick at least one segmentation" in tip() and not clinic.ui.tuneStartButton.enabled
    cases_of(clinic, ("liver", "spleen"))
    tick(clinic.ui.annotatedTable, "person 0 drawn")
    assert "name" in tip()
    clinic.ui.tuneNameEdit.text = "a/b"
    assert "cannot be the name" in tip()
    clinic.ui.tuneNameEdit.text = "mass_base"
    assert "already" in tip()
    clinic.ui.tuneNameEdit.text = "torso"
    assert clinic.ui.tuneStartButton.enabled
    tick(clinic.ui.classesTable, "liver", "spleen")
    assert "structure" in tip()
    assert "estimated in the first seconds" in clinic.ui.tuneLabel.text, "nothing is promised before it was measured"


def test_structures_of_one_name_are_one_class(clinic, trainer):
    ready(clinic, ("liver", "spleen"), ("spleen",), ("liver",))
    assert lines(clinic.ui.classesTable) == [["liver", "2 of 3"], ["spleen", "2 of 3"]]
    assert "count as not containing it" in clinic.ui.classesTable.item(0, 1).toolTip()
    tick(clinic.ui.classesTable, "spleen")
    begin(clinic, trainer)
    assert trainer.params["labels"] == [1] and trainer.params["appearance"]["1"]["name"] == "liver"
    assert len(trainer.params["cases"]) == 2, "scans that show none of it are left out"


def test_two_segments_of_one_name_are_an_error_with_its_cure(clinic, trainer):
    ((_, drawn),) = ready(clinic, ("liver", "spleen"))
    drawn.GetSegmentation().GetSegment("spleen").SetName("liver")
    clinic.window.finetune.refresh()
    clinic.window.update()
    tip = clinic.ui.tuneStartButton.toolTip
    assert not clinic.ui.tuneStartButton.enabled and "the name “liver”" in tip and "Rename" in tip


def test_scans_and_label_maps_reach_the_worker_by_class_number(clinic, trainer):
    """The same number for a name in all of them, whatever its place in its segmentation."""
    ready(clinic, ("liver",), ("pancreas", "liver"))
    clinic.ui.tuneUnitCombo.currentText = "minutes"
    clinic.ui.tuneAmountSpin.value = 7
    begin(clinic, trainer)
    params = trainer.params
    assert (params["minutes"], params["epochs"], params["weights"], params["device"]) == (7.0, None, "small", "auto")
    assert {value: look["name"] for value, look in params["appearance"].items()} == {"1": "liver", "2": "pancreas"}
    assert [case["labels"] for case in params["cases"]] == [[1], [1, 2]]
    assert Path(params["output"]).name == "my torso.safetensors"
    for (image, mask), person, drawn in zip(trainer.seen, (0, 1), ({1: LIVER}, {2: LIVER, 1: SPLEEN}), strict=True):
        scan, truth = clinic.people[person]
        np.testing.assert_allclose(image.array, np.rint(scan.array), atol=0.5)
        first = np.rint(np.linalg.inv(image.geometry.affine) @ mask.geometry.affine)[:3, 3].astype(int)[::-1]
        whole = np.zeros(image.array.shape, int)
        whole[tuple(slice(a, a + n) for a, n in zip(first, mask.array.shape, strict=True))] = mask.array
        for value, original in drawn.items():
            np.testing.assert_array_equal(whole == value, truth.array == original)


def test_where_structures_overlap_the_smaller_one_counts(clinic, trainer):
    ((volume, drawn),) = ready(clinic, ("liver",))
    whole = clinic.people[0][1].array == LIVER
    part = whole & (np.arange(whole.shape[2]) < np.median(whole.nonzero()[2]))
    patients.draw(drawn, volume, part, "lesion")
    patients.draw(drawn, volume, np.zeros_like(part), "empty")
    clinic.window.finetune.refresh()
    begin(clinic, trainer)
    (case,), numbers = trainer.seen, {look["name"]: int(value) for value, look in trainer.params["appearance"].items()}
    assert np.count_nonzero(case[1].array == numbers["lesion"]) == np.count_nonzero(part)
    assert np.count_nonzero(case[1].array == numbers["liver"]) == np.count_nonzero(whole & ~part)
    trainer.finish()
    assert "liver and lesion overlap" in clinic.ui.tuneLabel.text


def test_the_estimate_comes_from_what_was_measured(clinic, trainer):
    ready(clinic, ("liver",), ("liver",))
    clinic.ui.tuneAmountSpin.value = 50
    begin(clinic, trainer)
    assert "Writing" in clinic.ui.tuneBar.format or clinic.ui.tuneBar.value <= 50
    trainer.tell("prepare")
    trainer.tell("train", 0.02, None, epoch=0, step=2, loss=1.5)
    assert "estimated in the first seconds" in clinic.ui.tuneLabel.text
    trainer.tell("train", 0.05, 700.0, epoch=0, step=4, loss=1.4)
    assert clinic.ui.tuneLabel.text.startswith("About 12 min for 50 epochs on auto, 12 min left")
    assert clinic.ui.tuneBar.format == "Training, epoch 0"
    trainer.tell("validate", 1.0, 0.0, epoch=1, step=100, val_dice=0.4, dice_1=0.4)
    assert clinic.ui.tuneBar.format == "Validating, epoch 1"


@pytest.mark.usefixtures("own_worker")
def test_the_model_is_used_at_once(clinic, trainer):
    """And files are gone, and the next one needs another name."""
    clinic.admit("target")
    clinic.tick("target")
    ready(clinic, ("liver", "spleen"), ("liver",))
    begin(clinic, trainer)
    assert not clinic.ui.segmentButton.enabled and "trained" in clinic.ui.segmentButton.toolTip
    assert not clinic.ui.cancelButton.enabled and clinic.ui.tuneStopButton.enabled
    folder = Path(trainer.params["folder"]).parent
    assert folder.is_dir()
    trainer.finish()
    text = clinic.ui.tuneLabel.text
    assert "“my torso” is ready" in text and "0.83 (liver 0.91, spleen 0.75), best after epoch 3 of 4" in text and "one scan only" in text
    assert not folder.exists() and not clinic.widget.logic.busy
    assert clinic.parameters.weights == "my torso" and clinic.ui.modelsTable.item(0, 0).text() == "my torso"
    assert not clinic.ui.tuneStartButton.enabled and "already" in clinic.ui.tuneStartButton.toolTip
    clinic.press(clinic.ui.segmentButton)
    assert clinic.results()[0][1] == "done", clinic.results()


def test_stop_keeps_the_best(clinic, trainer):
    ready(clinic, ("liver",))
    begin(clinic, trainer)
    trainer.tell("train", 0.5, 60.0, epoch=2, step=20, loss=0.7)
    clinic.ui.tuneStopButton.click()
    assert trainer.cancelled and clinic.widget.logic.busy and not clinic.ui.tuneStopButton.enabled
    assert "best model so far" in clinic.ui.tuneLabel.text
    trainer.finish(stopped="cancelled")
    assert "Stopped by the user." in clinic.ui.tuneLabel.text and clinic.parameters.weights == "my torso"


def test_stop_before_there_is_a_model(clinic, trainer):
    ready(clinic, ("liver",))
    begin(clinic, trainer)
    clinic.ui.tuneStopButton.click()
    trainer.callbacks["cancelled"]()
    assert "before there was a model" in clinic.ui.tuneLabel.text
    assert clinic.parameters.weights == "small" and clinic.ui.tuneStartButton.enabled


def test_a_worker_that_dies_leaves_the_best_so_far(clinic, trainer, made):
    from mass_core.worker.client import WorkerDied

    ready(clinic, ("liver",))
    nodes = clinic.slicer.mrmlScene.GetNumberOfNodes()
    begin(clinic, trainer)
    trainer.callbacks["failed"](WorkerDied("The worker ended unexpectedly.", "Try again."))
    assert clinic.bench.shown[-1][0] == "error" and "can start it again" in clinic.ui.tuneLabel.text
    assert clinic.slicer.mrmlScene.GetNumberOfNodes() == nodes and clinic.ui.tuneStartButton.enabled
    clinic.bench.dialogs.shown.clear()
    trainer.params = None
    begin(clinic, trainer)
    run = Path(trainer.params["folder"])
    run.mkdir()
    shutil.copy(made, run / "best.safetensors")
    trainer.callbacks["failed"](WorkerDied("The worker ended unexpectedly.", "Try again."))
    assert "best model so far is kept as “my torso”" in clinic.ui.tuneLabel.text and clinic.parameters.weights == "my torso"
    assert not run.exists()


def test_a_line_that_breaks_is_taken_up_again(clinic, trainer):
    """Over a new line the run on another computer goes on by itself, until the line breaks again and again without a step between."""
    ready(clinic, ("liver", "spleen"))
    begin(clinic, trainer)
    folder = Path(trainer.params["folder"])
    broken = HostError("The connection to gpu01 was lost.", "Try again.")
    (folder / "state").mkdir(parents=True)
    (folder / "state" / "step_00000001.pt").write_bytes(b"came back")
    for _ in range(ENOUGH + 1):
        trainer.callbacks["failed"](broken)
        assert trainer.params["resume"] is True and trainer.params["folder"] == str(folder) and clinic.widget.logic.busy
        trainer.tell("train")
    for _ in range(ENOUGH):
        trainer.callbacks["failed"](broken)
        assert clinic.widget.logic.busy and clinic.bench.shown == []
    trainer.callbacks["failed"](broken)
    assert not clinic.widget.logic.busy and "connection to gpu01 was lost" in clinic.bench.shown[-1][1] and not folder.exists()


def test_the_scene_may_be_closed_once_the_files_are_written(clinic, trainer):
    ready(clinic, ("liver",), ("liver",))
    begin(clinic, trainer)
    trainer.tell("train", 0.1, 60.0, epoch=0, step=1, loss=1.2)
    clinic.slicer.mrmlScene.Clear(0)
    clinic.bench.process_events()
    assert clinic.widget.logic.busy and Path(trainer.params["cases"][0]["image"]).exists()
    trainer.tell("train", 0.2, 50.0, epoch=1, step=2, loss=1.0)
    trainer.finish()
    assert clinic.parameters.weights == "my torso"


def test_closing_it_while_files_are_written_stops(clinic, trainer):
    ready(clinic, ("liver",), ("liver",))
    clinic.ui.tuneStartButton.click()
    clinic.slicer.mrmlScene.Clear(0)
    clinic.bench.process_events()
    assert not clinic.widget.logic.busy and trainer.params is None


def test_slicer_ends_in_mid_run_and_nothing_stays(clinic, trainer):
    ready(clinic, ("liver",))
    begin(clinic, trainer)
    clinic.bench.application.send("aboutToQuit()")
    assert trainer.cancelled and not Path(trainer.params["folder"]).parent.exists()


def test_a_case_that_was_deleted_is_told(clinic, trainer):
    (_, (volume, _)) = ready(clinic, ("liver",), ("liver",))
    clinic.ui.tuneStartButton.click()
    clinic.slicer.mrmlScene.RemoveNode(volume)
    clinic.bench.wait_until(lambda: not clinic.widget.logic.busy)
    kind, text = clinic.bench.shown[-1]
    assert kind == "error" and "person 1 drawn" in text and "removed" in text and trainer.params is None


def test_files_are_written_piece_by_piece(clinic, trainer, monkeypatch):
    """Slicer handles its events after each segment, label map and scan."""
    from MASSSlicerLib.runs.finetuning import Finetuning
    from MASSSlicerLib.scene import node_files, segments

    turns, turn = [], Finetuning._write_next
    noted(monkeypatch, segments, "cut_out", lambda *_: turns[-1].append("segment"))
    noted(monkeypatch, node_files, "write", lambda node, path: turns[-1].append("labels" if "labels" in path.name else "scan"))
    monkeypatch.setattr(Finetuning, "_write_next", lambda self: turns.append([]) or turn(self))
    ready(clinic, ("liver", "spleen"), ("liver",))
    begin(clinic, trainer)
    pieces = ["segment", "segment", "labels", "scan", "segment", "labels", "scan"]
    assert [work for work in turns if work] == [[piece] for piece in pieces]


@pytest.mark.parametrize("change, told", [("voxels", "was changed while it was being written"), ("segmentation", "was removed")])
def test_what_changes_while_it_is_written_is_told(clinic, trainer, monkeypatch, change, told):
    """Half of the files would belong to another scan."""
    from MASSSlicerLib.scene import segments

    ((volume, drawn),) = ready(clinic, ("liver", "spleen"))
    slicer = clinic.slicer
    act = {"voxels": lambda *_: slicer.util.arrayFromVolumeModified(volume), "segmentation": lambda *_: slicer.mrmlScene.RemoveNode(drawn)}
    noted(monkeypatch, segments, "cut_out", act[change])
    clinic.ui.tuneStartButton.click()
    clinic.bench.wait_until(lambda: not clinic.widget.logic.busy)
    kind, text = clinic.bench.shown[-1]
    assert kind == "error" and "person 0 drawn" in text and told in text and trainer.params is None


@pytest.mark.parametrize("defect", [MemoryError(), ValueError("a defect"), PermissionError(13, "Permission denied")])
def test_whatever_fails_while_files_are_written_ends_the_run(clinic, trainer, monkeypatch, defect):
    """Else the window would be busy until Slicer ends."""
    from MASSSlicerLib.scene import segments

    ready(clinic, ("liver",))

    def fail(*_):
        raise defect

    monkeypatch.setattr(segments, "cut_out", fail)
    clinic.ui.tuneStartButton.click()
    clinic.bench.wait_until(lambda: not clinic.widget.logic.busy)
    assert clinic.bench.shown[-1][0] == "error" and trainer.params is None


def noted(monkeypatch, module, name, note):
    """Let a function also do something else, afterwards."""
    original = getattr(module, name)

    def function(*arguments):
        result = original(*arguments)
        note(*arguments)
        return result

    monkeypatch.setattr(module, name, function)


def test_curves_are_shown_on_demand_and_the_layout_comes_back(clinic, trainer):
    slicer = clinic.slicer
    layouts = slicer.vtkMRMLLayoutLogic()
    layouts.SetMRMLScene(slicer.mrmlScene)
    layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    layout.SetViewArrangement(layout.SlicerLayoutFourUpView)
    ready(clinic, ("liver",))
    begin(clinic, trainer)
    assert not clinic.ui.tuneCurvesButton.enabled, "nothing to show yet"
    trainer.tell("validate", 1.0, 0.0, epoch=0, step=0, val_dice=0.25)
    for step, loss in ((1, 1.5), (2, 1.3), (3, 1.0), (4, 0.8)):
        trainer.tell("train", step / 10, 9.0, epoch=(step + 1) // 2, step=step, loss=loss)
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpView, "not before it is asked for"
    clinic.ui.tuneCurvesButton.click()
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpPlotView
    (chart,) = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    (view,) = slicer.util.getNodesByClass("vtkMRMLPlotViewNode")
    assert view.GetPlotChartNodeID() == chart.GetID() and chart.GetTitle() == "my torso"
    series = {chart.GetNthPlotSeriesNode(n).GetYColumnName(): chart.GetNthPlotSeriesNode(n) for n in range(2)}
    points = lambda kind: slicer.util.arrayFromTableColumn(series[kind].GetTableNode(), kind).tolist()  # noqa: E731
    assert points("loss") == pytest.approx([1.4, 0.9]) and points("validation Dice") == [0.25]
    trainer.tell("validate", 1.0, 0.0, epoch=2, step=4, val_dice=0.5)
    assert points("validation Dice") == [0.25, 0.5], "live"
    clinic.ui.tuneCurvesButton.click()
    assert layout.GetViewArrangement() == layout.SlicerLayoutFourUpView
    clinic.ui.tuneCurvesButton.click()
    layout.SetViewArrangement(layout.SlicerLayoutOneUpRedSliceView)
    clinic.ui.tuneCurvesButton.click()
    assert layout.GetViewArrangement() == layout.SlicerLayoutOneUpRedSliceView, "what the user chose meanwhile stays"


def test_what_was_drawn_elsewhere_is_seen(clinic, trainer, tmp_path):
    """Segments drawn in the Segment Editor, weights that were downloaded."""
    ((volume, drawn),) = ready(clinic, ("liver",))
    clinic.bench.exit("MASSSlicer")
    patients.draw(drawn, volume, clinic.people[0][1].array == SPLEEN, "spleen")
    clinic.bench.enter("MASSSlicer")
    assert lines(clinic.ui.classesTable) == [["liver", "1 of 1"], ["spleen", "1 of 1"]]
    assert clinic.ui.annotatedTable.item(0, 2).text() == "liver, spleen"
    (tmp_path / "home é/weights").mkdir(parents=True)
    (tmp_path / "home é/weights/mass_base.pth").touch()
    clinic.window.update()
    combo = clinic.ui.tuneWeightsCombo
    assert [combo.itemText(row) for row in range(combo.count)] == ["small", "mass_base"] and combo.currentText == "small"
    combo.setCurrentIndex(1)
    patients.draw(drawn, volume, clinic.people[0][1].array == 3, "kidney")
    begin(clinic, trainer)
    assert len(trainer.params["labels"]) == 3 and trainer.params["weights"] == "mass_base"


def test_the_scan_is_guessed_or_chosen(clinic, trainer):
    """Files say nothing about it: then the name does, or the user."""
    ((volume, drawn), (other, unknown)) = cases_of(clinic, ("liver",), ("liver",))
    for node in (drawn, unknown):
        node.SetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole(), None)
    unknown.SetName("somebody")
    clinic.window.finetune.show(clinic.parameters)
    table = clinic.ui.annotatedTable
    assert table.cellWidget(0, 1).currentNode() is volume and table.cellWidget(1, 1).currentNode() is None
    clinic.ui.allAnnotatedButton.click()
    assert [node.GetName() for node in clinic.parameters.tuneSegmentations] == ["person 0 drawn"]
    assert "choose the scan" in table.item(1, 0).toolTip()
    table.cellWidget(1, 1).setCurrentNode(other)
    tick(table, "somebody")
    assert [node.GetName() for node in clinic.parameters.tuneVolumes] == ["person 0", "person 1"]


def test_choices_are_saved_with_the_scene(clinic, trainer, tmp_path):
    ready(clinic, ("liver", "spleen"))
    tick(clinic.ui.classesTable, "spleen")
    clinic.ui.tuneUnitCombo.currentText = "minutes"
    clinic.ui.tuneAmountSpin.value = 45
    assert clinic.slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    clinic.slicer.mrmlScene.Clear(0)
    clinic.bench.process_events()
    assert clinic.ui.annotatedTable.rowCount == 0 and clinic.ui.classesTable.rowCount == 0
    clinic.slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    clinic.bench.process_events()
    assert lines(clinic.ui.classesTable) == [["liver", "1 of 1"], ["spleen", "1 of 1"]]
    assert clinic.window.finetune._ticked() == ["liver"]
    assert (clinic.ui.tuneUnitCombo.currentText, clinic.ui.tuneAmountSpin.value, clinic.ui.tuneNameEdit.text) == ("minutes", 45, "my torso")
    assert clinic.ui.tuneStartButton.enabled


def test_the_tutorials_script(clinic, trainer):
    """Of docs/slicer.md: without the window."""
    from MASSSlicerLib.runs.annotated import of_scene
    from MASSSlicerLib.runs.finetuning import Order
    from MASSSlicerLib.runs.order import Reference

    from MASSSlicer import MASSSlicerLogic

    cases = tuple(of_scene(Reference(volume, drawn)) for volume, drawn in cases_of(clinic, ("liver",), ("liver",)))
    logic, outcomes = MASSSlicerLogic(), []
    training = logic.finetune(Order(cases=cases, classes=("liver",), name="our liver", epochs=20), finished=outcomes.append)
    with pytest.raises(InputError, match="Another run is in progress"):
        logic.segment(None, [cases[0].reference.volume])
    clinic.bench.wait_until(lambda: trainer.params is not None)
    trainer.finish()
    logic.wait(training)
    logic.close()
    assert [outcome.model for outcome in outcomes] == ["our liver"]
    for change, reason in (
        ({"classes": ()}, "No structure"),
        ({"classes": ("heart",)}, "No annotated scan"),
        ({"name": ""}, "cannot be the name"),
    ):
        with pytest.raises(InputError, match=reason):
            logic.finetune(Order(**{"cases": cases, "classes": ("liver",), "name": "another", **change}))
    assert not logic.busy
