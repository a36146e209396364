"""Finetuned models in the window: chosen, they need no reference; shared, renamed, deleted."""

import shutil

import pytest

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")
from Testing.slicer import patients
from Testing.slicer.patients import LIVER, SPLEEN
from Testing.slicer.teaching import Helped, make_model


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A model that finds liver and spleen."""
    return make_model(tmp_path_factory.mktemp("model") / "torso.safetensors", patients.people(1), (LIVER, SPLEEN), ("liver", "spleen"))


@pytest.fixture
def model(made, clinic, tmp_path):
    """The same, in the user's folder of weights and in the window."""
    place = tmp_path / "home é/weights/torso.safetensors"
    place.parent.mkdir(parents=True)
    shutil.copy(made, place)
    clinic.window.models.refresh()
    return place


def names(clinic):
    table = clinic.ui.modelsTable
    return [table.item(row, 0).text() for row in range(table.rowCount)]


@pytest.mark.usefixtures("own_worker")
def test_a_chosen_model_segments_without_references(clinic, model, monkeypatch):
    helped = Helped(monkeypatch)
    assert names(clinic) == ["torso"]
    assert "■" in clinic.ui.modelsTable.cellWidget(0, 1).text and "spleen" in clinic.ui.modelsTable.cellWidget(0, 1).text
    clinic.admit("target")
    clinic.tick("target")
    assert "reference" in clinic.ui.segmentButton.toolTip
    clinic.ui.modelsTable.setCurrentCell(0, 0)
    clinic.ui.useModelButton.click()
    assert clinic.ui.segmentButton.enabled and clinic.parameters.weights == "torso"
    assert "torso" in clinic.ui.taskLabel.text and "liver" in clinic.ui.taskLabel.text
    assert clinic.ui.weightsCombo.currentText == "torso (finetuned)"
    assert not clinic.ui.adaptButton.enabled and "Use references instead" in clinic.ui.adaptButton.toolTip
    clinic.press(clinic.ui.segmentButton)
    assert clinic.results()[0][1] == "done", clinic.results()
    assert helped.methods() == ["segment"] and not {"task", "references"} & set(helped.params("segment"))
    segmentation = clinic.slicer.util.getNode("target MASS").GetSegmentation()
    segments = [segmentation.GetNthSegment(number) for number in range(segmentation.GetNumberOfSegments())]
    assert [segment.GetName() for segment in segments] == ["liver", "spleen"]
    assert segments[0].GetColor() == pytest.approx((0.9, 0.5, 0.4))
    assert not clinic.ui.saveTaskButton.enabled, "there is no task to save"


@pytest.mark.usefixtures("own_worker")
def test_back_to_the_references_with_the_weights_used_before(clinic, model):
    clinic.ready("target")
    clinic.ui.modelsTable.setCurrentCell(0, 0)
    clinic.ui.useModelButton.click()
    clinic.ui.useReferencesButton.click()
    assert clinic.parameters.weights == "small" and clinic.ui.weightsCombo.currentText == "small (bundled)"
    assert clinic.ui.taskLabel.text == ""
    clinic.ui.weightsCombo.setCurrentIndex(clinic.ui.weightsCombo.findData("torso"))
    assert "torso" in clinic.ui.taskLabel.text, "chosen under Advanced it is the same"
    clinic.window.choice.use_task(model.with_suffix(".masstask"))
    assert clinic.parameters.weights == "small", "a saved task needs weights that take one"


def test_models_are_shared_renamed_and_deleted(clinic, model, tmp_path):
    ui, bench, table = clinic.ui, clinic.bench, clinic.ui.modelsTable
    assert not ui.exportModelButton.enabled
    table.setCurrentCell(0, 0)
    ui.useModelButton.click()
    shared = tmp_path / "for a colleague.safetensors"
    bench.answer("save file", str(shared))
    ui.exportModelButton.click()
    assert shared.read_bytes() == model.read_bytes()
    bench.answer("text", "liver & spleen")
    ui.renameModelButton.click()
    assert names(clinic) == ["liver & spleen"] and clinic.parameters.weights == "liver & spleen", "still in use"
    for name, reason in (("mass_base", "already"), ("a/b", "cannot be the name")):
        bench.answer("text", name)
        ui.renameModelButton.click()
        assert bench.shown[-1][0] == "error" and reason in bench.shown[-1][1]
    bench.answer("open file", str(shared))
    ui.importModelButton.click()
    assert names(clinic) == ["for a colleague", "liver & spleen"]
    bench.answer("open file", str(shared))
    ui.importModelButton.click()
    assert "already" in bench.shown[-1][1]
    table.setCurrentCell(1, 0)
    bench.answer("question", False)
    ui.deleteModelButton.click()
    assert len(names(clinic)) == 2
    bench.answer("question", True)
    ui.deleteModelButton.click()
    assert names(clinic) == ["for a colleague"] and clinic.parameters.weights == "small", "what is gone is not in use"


def test_what_is_no_model_is_not_imported(clinic, tmp_path):
    from mass_core.weights.store import BUNDLED

    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for path, reason in ((BUNDLED / "small.safetensors", "is not a finetuned model"), (tmp_path / "broken.safetensors", "damaged")):
        clinic.bench.answer("open file", str(path))
        clinic.ui.importModelButton.click()
        assert clinic.bench.shown[-1][0] == "error" and reason in clinic.bench.shown[-1][1]
    assert names(clinic) == []
