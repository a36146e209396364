"""The button “Show features”: the colours lie where the scan does, and nothing else in the scene changes."""

import numpy as np
import pytest

pytest.importorskip("slicer", reason="the package slicer-core is not installed: pip install '.[slicer]'")


def ids(clinic):
    scene = clinic.slicer.mrmlScene
    return {scene.GetNthNode(number).GetID() for number in range(scene.GetNumberOfNodes())}


PART = np.s_[12:26, 2:26, 2:26]
"""Of a person: a corner of the trunk, and air. So much takes seconds."""


def admit(clinic, *names):
    """Loaded volumes that show a part of a person."""
    import slicer
    from MASSSlicerLib.scene import grids

    volumes = [clinic.volume(1, name) for name in names]
    for volume in volumes:
        matrix = grids.moved(slicer.util.vtkMatrixFromArray(grids.ijk_to_ras(volume)), [part.start for part in PART])
        slicer.util.updateVolumeFromArray(volume, slicer.util.arrayFromVolume(volume)[PART].copy())
        volume.SetIJKToRASMatrix(matrix)
        volume.CreateDefaultDisplayNodes()
    clinic.bench.process_events()
    return volumes


def colours_of(clinic):
    return clinic.slicer.util.getNodesByClass("vtkMRMLVectorVolumeNode")


def lay(clinic, volume, matrix):
    """Put a volume under a linear transform."""
    transform = clinic.slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "turned")
    transform.SetMatrixTransformToParent(clinic.slicer.util.vtkMatrixFromArray(matrix))
    volume.SetAndObserveTransformNodeID(transform.GetID())
    return transform


@pytest.fixture
def turned():
    """A turn by 20 degrees about the patient's long axis, and a shift."""
    matrix = np.eye(4)
    angle = np.deg2rad(20)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    matrix[:3, 3] = 12, -7, 30
    return matrix


def test_the_button_says_what_is_missing(clinic):
    assert not clinic.ui.featuresButton.enabled and "Select a loaded volume" in clinic.ui.featuresButton.toolTip
    admit(clinic, "target")
    clinic.tick("target")
    assert clinic.ui.featuresButton.enabled and "target" in clinic.ui.featuresButton.toolTip


def test_the_selected_line_goes_before_ticks(clinic):
    volumes = admit(clinic, "one", "two")
    clinic.tick("one")
    assert clinic.window.targets.current() is volumes[0]
    table = clinic.ui.targetsTable
    row = next(number for number in range(table.rowCount) if table.item(number, 0).text() == "two")
    table.setCurrentCell(row, 0)
    assert clinic.window.targets.current() is volumes[1] and "two" in clinic.ui.featuresButton.toolTip


def test_colours_lie_over_the_scan_under_its_transform(clinic, turned):
    """An oblique, left-handed, moved volume: voxel for voxel the colours of the same scan in a file."""
    from MASSSlicerLib.scene import exchange as scene
    from MASSSlicerLib.scene import grids

    from mass_core import Segmenter, Volume, load_model
    from mass_core.inference.features import look
    from mass_core.progress import Steps

    (volume,) = admit(clinic, "target")
    matrix = grids.ijk_to_ras(volume)
    matrix[:3, 2] *= -1  # left-handed
    matrix[:3, 3] += [3, 4, 200]
    volume.SetIJKToRASMatrix(clinic.slicer.util.vtkMatrixFromArray(turned @ matrix))
    lay(clinic, volume, turned)
    clinic.tick("target")
    before, array = ids(clinic), clinic.slicer.util.arrayFromVolume(volume).copy()
    clinic.press(clinic.ui.featuresButton)
    (node,) = colours_of(clinic)
    assert clinic.bench.shown == [] and node.GetName() == "target features"
    new = {clinic.slicer.mrmlScene.GetNodeByID(node_id).GetClassName() for node_id in ids(clinic) - before}
    assert new == {"vtkMRMLVectorVolumeNode", "vtkMRMLVectorVolumeDisplayNode"}
    np.testing.assert_array_equal(clinic.slicer.util.arrayFromVolume(volume), array)
    np.testing.assert_allclose(grids.ijk_to_ras(node), grids.ijk_to_ras(volume))
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()
    file = clinic.bench.folder / "target.nrrd"
    scene.write_volume(volume, file)
    model = load_model("small", "cpu")
    expected = look(Segmenter(model), Volume.read(file), Steps())
    np.testing.assert_array_equal(clinic.slicer.util.arrayFromVolume(node), expected.rgb)
    assert "red, green and blue show" in clinic.ui.messageLabel.text and f"{expected.explained[0]:.0%}" in clinic.ui.messageLabel.text
    assert not any(path.name.endswith(".nrrd") and path.stat().st_size == 0 for path in clinic.widget.logic.exports.folder.iterdir())


def test_they_are_shown_half_transparent_over_the_scan(clinic):
    views = pytest.importorskip("Testing.slicer.testbench.views")
    if views.why_not():
        pytest.skip(views.why_not())
    (volume,) = admit(clinic, "target")
    clinic.tick("target")
    volume.GetDisplayNode().AutoWindowLevelOff()
    volume.GetDisplayNode().SetWindowLevel(400, 40)
    view = views.SliceView(clinic.bench, "Red", (200, 200))
    view.show(volume)
    bounds = np.zeros(6)
    volume.GetRASBounds(bounds)
    view.jump(*bounds.reshape(3, 2).mean(1))
    grey = view.picture().astype(int)
    assert np.ptp(grey, axis=-1).max() == 0
    clinic.press(clinic.ui.featuresButton)
    (node,) = colours_of(clinic)
    composite = view.logic.GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == volume.GetID() and composite.GetForegroundVolumeID() == node.GetID()
    assert composite.GetForegroundOpacity() == pytest.approx(0.5)
    coloured = view.picture().astype(int)
    assert (np.ptp(coloured, axis=-1) > 20).sum() > 2000, "colours are drawn"
    air = coloured.max(axis=-1) <= grey.max(axis=-1) // 2 + 1
    assert air.sum() > 2000 and grey[air].max() < 20, "black outside the body, which is air"


@pytest.mark.usefixtures("quick")
def test_cancel_leaves_the_scene_as_it_was(clinic):
    clinic.ready("target")
    before = ids(clinic)
    clinic.ui.featuresButton.click()
    assert clinic.widget.logic.busy and clinic.ui.cancelButton.enabled
    assert not clinic.ui.segmentButton.enabled and not clinic.ui.featuresButton.enabled
    clinic.bench.wait_until(lambda: clinic.ui.progressBar.value > 0)
    clinic.ui.cancelButton.click()
    assert not clinic.widget.logic.busy and ids(clinic) == before
    clinic.bench.wait_until(lambda: not clinic.widget.logic.engine.client.busy)
    assert clinic.ui.featuresButton.enabled and clinic.ui.progressBar.value == 0 and clinic.bench.shown == []
    clinic.press(clinic.ui.segmentButton)
    assert clinic.results()[0][1] == "done"


def test_what_goes_wrong_is_told(clinic):
    clinic.ready("target")
    clinic.parameters.weights = "nowhere.safetensors"
    before = ids(clinic)
    clinic.press(clinic.ui.featuresButton)
    kind, text = clinic.bench.shown[-1]
    assert kind == "error" and "nowhere" in text and ids(clinic) == before
    clinic.parameters.weights = "small"
    empty = clinic.slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    clinic.bench.process_events()
    table = clinic.ui.targetsTable
    table.setCurrentCell(next(row for row in range(table.rowCount) if table.item(row, 0).text() == "empty"), 0)
    clinic.ui.featuresButton.click()
    assert "no image data" in clinic.bench.shown[-1][1] and not clinic.widget.logic.busy
    assert empty.GetScene() is not None


def test_a_volume_that_is_moved_or_removed_meanwhile_is_told(clinic, turned):
    one, two = admit(clinic, "one", "two")
    clinic.tick("one", "two")
    clinic.ui.featuresButton.click()
    lay(clinic, one, turned)
    clinic.bench.wait_until(lambda: not clinic.widget.logic.busy)
    assert "changed or moved" in clinic.bench.shown[-1][1] and colours_of(clinic) == []
    clinic.slicer.mrmlScene.RemoveNode(one)
    clinic.bench.process_events()
    clinic.ui.featuresButton.click()
    assert clinic.widget.logic.busy
    clinic.slicer.mrmlScene.RemoveNode(two)
    clinic.bench.wait_until(lambda: not clinic.widget.logic.busy)
    assert "removed" in clinic.bench.shown[-1][1] and colours_of(clinic) == []


def test_from_a_script(clinic):
    from MASSSlicerLib.runs.order import Settings

    from MASSSlicer import MASSSlicerLogic

    (volume,) = admit(clinic, "target")
    logic = MASSSlicerLogic()
    run = logic.show_features(volume, settings=Settings(device="cpu"))
    logic.wait(run)
    logic.close()
    assert run.node.GetImageData().GetNumberOfScalarComponents() == 3 and sum(run.explained) < 1
