"""Finetuning for real: the worker trains for some steps on phantoms, its model then segments without a reference."""

import os
import signal

import pytest

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")
from Testing.slicer.clinic import alive


def begin(clinic):
    """Start on two people, liver and spleen drawn, with the recipe that only proves that everything connects."""
    for number in range(2):
        drawn = clinic.drawn(clinic.volume(number, f"person {number}"), number, ("liver", "spleen"))
        drawn.SetName(f"person {number} drawn")
    clinic.bench.process_events()
    clinic.ui.allAnnotatedButton.click()
    clinic.ui.tuneNameEdit.text = "torso"
    clinic.ui.tuneAmountSpin.value = 1
    clinic.window.finetune.recipe = "smoke"
    clinic.ui.tuneStartButton.click()
    assert clinic.widget.logic.busy, clinic.bench.shown


@pytest.mark.usefixtures("own_worker")
def test_the_whole_way(clinic):
    """Annotate, train, segment; Slicer stays usable meanwhile: it gets its turn after each scan that is written."""
    told, turns = [], set()
    on_progress = clinic.window.finetune._on_progress
    clinic.window.finetune._on_progress = lambda one: (told.append(one), on_progress(one))
    begin(clinic)
    clinic.bench.wait_until(lambda: turns.add(len(told)) or not clinic.widget.logic.busy)
    assert {1, 2} <= turns, "both scans were written in one go"
    assert [shown for shown in clinic.bench.shown if shown[0] == "error"] == []
    text = clinic.ui.tuneLabel.text
    assert "“torso” is ready" in text and "Validation Dice" in text, text
    stages = list(dict.fromkeys(one.stage for one in told))
    assert stages == ["write", "prepare", "labels", "encode", "validate", "train"], stages
    assert any(one.eta_s for one in told if one.stage == "train") and not clinic.window.finetune.curves.empty
    clinic.slicer.mrmlScene.Clear(0)
    clinic.admit("target")
    clinic.tick("target")
    assert clinic.parameters.weights == "small", "another scene has its own choice"
    clinic.ui.modelsTable.setCurrentCell(0, 0)
    clinic.ui.useModelButton.click()
    clinic.press(clinic.ui.segmentButton)
    assert clinic.results()[0][1] == "done" and "liver" in clinic.results()[0][3], clinic.results()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
@pytest.mark.usefixtures("own_worker")
def test_a_worker_that_is_killed_leaves_the_scene_and_can_be_started_again(clinic):
    begin(clinic)
    clinic.bench.wait_until(lambda: "Training" in clinic.ui.tuneBar.format or "Validating" in clinic.ui.tuneBar.format)
    nodes = clinic.slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    pid = clinic.worker_pid()
    os.kill(pid, signal.SIGKILL)
    clinic.bench.wait_until(lambda: not clinic.widget.logic.busy)
    assert clinic.bench.shown[-1][0] == "error" and "worker ended" in clinic.bench.shown[-1][1] and not alive(pid)
    assert clinic.slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == nodes
    clinic.ui.tuneNameEdit.text = "torso again"
    assert clinic.ui.tuneStartButton.enabled, clinic.ui.tuneStartButton.toolTip
    clinic.ui.tuneStartButton.click()
    clinic.bench.wait_until(lambda: "Encoding" in clinic.ui.tuneBar.format)
    clinic.ui.tuneStopButton.click()
    clinic.bench.wait_until(lambda: not clinic.widget.logic.busy)
    assert "Stopped before there was a model" in clinic.ui.tuneLabel.text
