"""Display of results in the slice views and as a surface, by Slicer's own drawing."""

import numpy as np
import pytest

from mass_core import Volume


@pytest.fixture
def drawn(host):
    views = pytest.importorskip("Testing.slicer.testbench.views")
    if views.why_not():
        pytest.skip(views.why_not())
    return host, views


def result(folder, *, surface):
    """A volume with a block of one half found in it."""
    import slicer
    from MASSSlicerLib.scene import exchange as scene

    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
    slicer.util.updateVolumeFromArray(volume, np.full((20, 20, 20), 40, np.int16))
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.diag([-3.0, -3, 3, 1])))
    volume.CreateDefaultDisplayNodes()
    sent, found = folder / "sent.nrrd", folder / "found.nrrd"
    scene.write_volume(volume, sent)
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5:15, 5:15, 2:8] = 1
    Volume(labels, Volume.read(sent).geometry).write(found)
    placed = scene.place_result(volume, found, {1: scene.LabelStyle("block", (0.1, 0.9, 0.1))}, surface=surface)
    return volume, placed.segmentation


def green(picture):
    return (picture[..., 1].astype(int) - picture[..., 0] > 20) & (picture[..., 1].astype(int) - picture[..., 2] > 20)


def test_the_overlay_lies_on_the_patients_right(drawn, tmp_path):
    host, views = drawn
    volume, segmentation = result(tmp_path, surface=False)
    view = views.SliceView(host, "Red", (200, 200))
    view.show(volume)
    view.jump(-30, -30, 30)
    shown = green(view.picture())
    rows, columns = shown.nonzero()
    assert shown.sum() > 500
    left, right = shown[:, :100].sum(), shown[:, 100:].sum()
    # RAS = -3 * IJK: voxels 2 to 7 lie at R -6 to -21, right of the middle at -30, and Slicer draws the patient's right on the left.
    assert left > 5 * max(right, 1)
    segmentation.GetDisplayNode().SetVisibility(False)
    assert green(view.picture()).sum() == 0


def test_the_surface_is_drawn(drawn, tmp_path):
    host, views = drawn
    _, segmentation = result(tmp_path, surface=True)
    view = views.ThreeDView(host, (200, 200))
    assert green(view.picture()).sum() > 500
    segmentation.GetDisplayNode().SetVisibility(False)
    assert green(view.picture()).sum() == 0
