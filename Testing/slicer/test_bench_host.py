"""The testbench without windows: scene, files, messages, views."""

import sys
from pathlib import Path

import numpy as np
import pytest


def test_volume_and_mask_survive_the_round_trip(host, tmp_path):
    import slicer

    voxels = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    volume = slicer.util.addVolumeFromArray(voxels, ijkToRAS=np.diag([2.0, 3.0, 4.0, 1.0]), name="scan")
    path = tmp_path / "scan.nrrd"
    assert slicer.util.saveNode(volume, str(path))
    again = slicer.util.loadVolume(str(path))
    assert np.array_equal(slicer.util.arrayFromVolume(again), voxels)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = segmentation.GetSegmentation().AddEmptySegment("liver")
    slicer.util.updateSegmentBinaryLabelmapFromArray((voxels > 5).astype(np.uint8), segmentation, segment, volume)
    assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, volume), voxels > 5)
    assert slicer.util.saveNode(segmentation, str(tmp_path / "liver.seg.nrrd"))
    assert slicer.util.loadSegmentation(str(tmp_path / "liver.seg.nrrd")).GetSegmentation().GetNumberOfSegments() == 1
    assert not host.vtk_errors


def test_what_cannot_be_read_is_an_error(host, tmp_path):
    import slicer

    with pytest.raises(RuntimeError, match="nothing.nrrd"):
        slicer.util.loadVolume(str(tmp_path / "nothing.nrrd"))
    assert any("nothing.nrrd" in error for error in host.vtk_errors)


def test_messages_are_written_down_and_questions_answered(host):
    import slicer

    slicer.util.errorDisplay("no disk", windowTitle="MASS", detailedText="traceback")
    host.answer("question", True, lambda text: "repair" in text)
    assert slicer.util.confirmYesNoDisplay("install?") is True
    assert slicer.util.confirmOkCancelDisplay("repair?") is True
    assert host.shown == [("error", "no disk"), ("question", "install?"), ("question", "repair?")]
    assert host.dialogs.details[0] == "traceback"
    with pytest.raises(AssertionError, match="without an answer"):
        slicer.util.confirmYesNoDisplay("again?")
    with pytest.raises(TypeError):
        slicer.util.errorDisplay()


@pytest.mark.parametrize("number", [1, 2])
def test_every_test_has_a_fresh_scene(host, number):
    import slicer

    assert slicer.mrmlScene.GetFirstNodeByName("left over") is None
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "left over")


def test_a_closed_host_leaves_nothing_behind(tmp_path):
    pytest.importorskip("slicer_core", exc_type=ImportError)
    import slicer

    from Testing.slicer.testbench.host import Host

    before, path = set(vars(slicer)), list(sys.path)
    host = Host(tmp_path)
    import MASSSlicerLib.runs.cases

    assert Path(MASSSlicerLib.runs.cases.__file__).parent.name == "runs"
    host.close()
    assert set(vars(slicer)) == before
    assert sys.path == path
    assert not [name for name in sys.modules if name.startswith("MASSSlicer")]


def test_what_fails_in_an_observer_fails_the_test(tmp_path):
    pytest.importorskip("slicer_core", exc_type=ImportError)
    from Testing.slicer.testbench.host import Host

    host = Host(tmp_path)
    host.scene.AddObserver(host.scene.NodeAddedEvent, lambda caller, event: 1 / 0)
    host.scene.AddNewNodeByClass("vtkMRMLTextNode")
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        host.close()


def test_signals_of_the_application_must_exist(host):
    import slicer

    called = []
    slicer.app.connect("startupCompleted()", called.append)
    assert slicer.app.disconnect("startupCompleted()", called.append)
    host.application.send("startupCompleted()")
    assert called == []
    with pytest.raises(ValueError, match="startupComplete"):
        slicer.app.connect("startupComplete()", called.append)


def test_dicom_database_answers_as_ctk(host):
    import slicer

    from Testing.slicer.testbench.dicom import Series

    assert not hasattr(slicer, "dicomDatabase"), "before the module DICOM was opened"
    host.open_dicom().content = {"Ann": {"1.2": {"1.2.3": Series(["/a", "/b"], "thorax", "CT")}}}
    database = slicer.dicomDatabase
    assert (database.patients(), database.studiesForPatient("Ann"), database.seriesForStudy("1.2")) == (["Ann"], ["1.2"], ["1.2.3"])
    assert (database.filesForSeries("1.2.3", 1), database.descriptionForSeries("1.2.3")) == (["/a"], "thorax")
    assert database.fileValue("/a", "0008,0060") == "CT"
    assert database.filesForSeries("9") == []


def test_views_draw_slices_and_surfaces(host, ball):
    from Testing.slicer.testbench import views

    if views.why_not():
        pytest.skip(views.why_not())
    volume, segmentation, _ = ball
    view = views.SliceView(host, "Red")
    view.show(volume)
    with_ball = view.picture()
    assert 20 < with_ball.mean() < 235
    segmentation.GetDisplayNode().SetVisibility(False)
    assert (view.picture() != with_ball).any(axis=2).sum() > 1000
    segmentation.GetDisplayNode().SetVisibility(True)
    segmentation.CreateClosedSurfaceRepresentation()
    picture = views.ThreeDView(host).picture().astype(int)
    red = (picture[..., 0] > 150) & (picture[..., 1:].max(axis=2) < 80)
    assert red.sum() > 300
