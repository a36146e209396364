"""Results back into the scene and into files: a mask in the wrong place is worse than none, so every answer is known beforehand."""

import numpy as np
import pytest

from mass_core import Volume
from mass_core.errors import GeometryError, InputError, OutputError
from Testing.slicer.scene_nodes import GRIDS, SHAPE, TRANSFORMS, answer, block

RIGID = ("none", "shift", "turn", "mirror", "stretch")


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("grid", GRIDS)
def test_a_result_returns_to_its_voxels(nodes, tmp_path, grid, transform):
    from MASSSlicerLib.scene import exchange as scene

    from mass_core.colors import LabelStyle

    volume = nodes.volume(GRIDS[grid], TRANSFORMS[transform])
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    sent = Volume.read(tmp_path / "sent.nrrd")
    np.testing.assert_array_equal(sent.array, nodes.slicer.util.arrayFromVolume(volume))
    labels = answer(tmp_path / "sent.nrrd", tmp_path, block())
    placed = scene.place_result(volume, labels, {1: LabelStyle("liver", (0.8, 0.2, 0.1))})
    np.testing.assert_array_equal(nodes.mask(placed.segmentation, placed.segment_ids[0], volume), block())
    assert placed.segmentation.GetTransformNodeID() == volume.GetTransformNodeID()


@pytest.mark.parametrize("transform", RIGID)
@pytest.mark.parametrize("grid", GRIDS)
def test_files_say_where_voxels_lie_in_the_world(nodes, tmp_path, grid, transform):
    """The network is told which way is up by the file. What keeps axes at right angles is told exactly."""
    from MASSSlicerLib.scene import exchange as scene

    if transform == "stretch" and grid == "oblique":
        pytest.skip("stretched obliquely, axes are no longer at right angles")
    volume = nodes.volume(GRIDS[grid], TRANSFORMS[transform])
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    geometry = Volume.read(tmp_path / "sent.nrrd").geometry
    direction = np.array(geometry.direction).reshape(3, 3)
    for ijk in ((0, 0, 0), (10, 0, 0), (0, 8, 0), (3, 4, 5)):
        lps = np.array(geometry.origin_xyz) + direction @ (np.array(geometry.spacing_xyz) * ijk)
        np.testing.assert_allclose(lps * [-1, -1, 1], nodes.world(volume, ijk), atol=1e-4)


def test_a_shear_keeps_voxel_sizes_and_the_nearest_turn(nodes, tmp_path):
    from MASSSlicerLib.scene import exchange as scene

    volume = nodes.volume(GRIDS["thick slices"], TRANSFORMS["shear"])
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    geometry = Volume.read(tmp_path / "sent.nrrd").geometry
    edges = [np.linalg.norm(nodes.world(volume, unit) - nodes.world(volume, (0, 0, 0))) for unit in np.eye(3)]
    np.testing.assert_allclose(geometry.spacing_xyz, edges, rtol=1e-5)
    direction = np.array(geometry.direction).reshape(3, 3)
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-6)


def test_segments_that_exist_are_not_touched(nodes, tmp_path):
    from MASSSlicerLib.scene import exchange as scene

    from mass_core.colors import LabelStyle

    volume = nodes.volume()
    existing = nodes.segmentation(volume, block())
    before = existing.GetSegmentation().GetSegment("liver").GetMTime()
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    labels = answer(tmp_path / "sent.nrrd", tmp_path, np.ones(SHAPE))
    placed = scene.place_result(volume, labels, {1: LabelStyle("liver", (0, 0, 1), "code")}, into=existing)
    assert placed.segmentation is existing
    inner = existing.GetSegmentation()
    assert [inner.GetNthSegment(n).GetName() for n in range(2)] == ["liver", "liver (2)"]
    np.testing.assert_array_equal(nodes.mask(existing, "liver", volume), block())
    assert inner.GetSegment("liver").GetMTime() == before
    assert nodes.mask(existing, placed.segment_ids[0], volume).all()
    assert inner.GetSegment(placed.segment_ids[0]).GetTerminology() == "code"


def test_a_segmentation_under_another_transform_gets_the_result_in_the_same_place(nodes, tmp_path):
    from MASSSlicerLib.scene import exchange as scene

    from mass_core.colors import LabelStyle

    volume = nodes.volume(GRIDS["oblique"], TRANSFORMS["turn"])
    other = nodes.volume(GRIDS["thick slices"], TRANSFORMS["shift"])
    existing = nodes.segmentation(other, block())
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    placed = scene.place_result(volume, answer(tmp_path / "sent.nrrd", tmp_path, block()), {1: LabelStyle("spleen")}, into=existing)
    np.testing.assert_array_equal(nodes.mask(existing, placed.segment_ids[0], volume), block())


def test_a_new_segmentation_lies_beside_its_volume(nodes, tmp_path):
    from MASSSlicerLib.scene import exchange as scene

    from mass_core.colors import LabelStyle

    volume = nodes.volume()
    hierarchy = nodes.slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(nodes.scene)
    study = hierarchy.CreateStudyItem(hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "patient"), "study")
    hierarchy.CreateItem(study, volume)
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    placed = scene.place_result(
        volume,
        answer(tmp_path / "sent.nrrd", tmp_path, block()),
        {1: LabelStyle("liver"), 2: LabelStyle("nowhere")},
        name="found",
        surface=True,
    )
    node = placed.segmentation
    assert node.GetName() == "found"
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is volume
    assert node.GetDisplayNode() is not None
    assert len(placed.segment_ids) == 1, "a label without a voxel gives no segment"
    assert node.GetClosedSurfaceInternalRepresentation(placed.segment_ids[0]).GetNumberOfPoints() > 0
    logic = nodes.slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.GetSegmentStatus(node.GetSegmentation().GetSegment(placed.segment_ids[0])) == logic.InProgress


def test_a_volume_that_was_moved_meanwhile_gets_nothing(nodes, tmp_path):
    from MASSSlicerLib.scene import exchange as scene

    from mass_core.colors import LabelStyle

    volume = nodes.volume()
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    labels = answer(tmp_path / "sent.nrrd", tmp_path, block())
    volume.SetOrigin(1, 0, 0)
    with pytest.raises(GeometryError, match="changed or moved"):
        scene.place_result(volume, labels, {1: LabelStyle("liver")})
    assert nodes.slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("grid", GRIDS)
def test_a_part_of_the_result_returns_to_its_voxels(nodes, tmp_path, grid, transform):
    from MASSSlicerLib.scene import exchange as scene

    from mass_core.colors import LabelStyle

    volume = nodes.volume(GRIDS[grid], TRANSFORMS[transform])
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    whole = Volume.read(answer(tmp_path / "sent.nrrd", tmp_path, block()))
    whole.cropped(((1, 2, 3), (4, 6, 9))).write(tmp_path / "part.nrrd")
    placed = scene.place_result(volume, tmp_path / "part.nrrd", {1: LabelStyle("liver")})
    np.testing.assert_array_equal(nodes.mask(placed.segmentation, placed.segment_ids[0], volume), block())


def test_where_nothing_was_found_there_is_no_segment(nodes, tmp_path):
    from MASSSlicerLib.scene import exchange as scene

    from mass_core.colors import LabelStyle

    volume = nodes.volume(GRIDS["oblique"])
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    whole = Volume.read(answer(tmp_path / "sent.nrrd", tmp_path, np.zeros(SHAPE)))
    whole.cropped(((0, 0, 0), (1, 1, 1))).write(tmp_path / "part.nrrd")
    placed = scene.place_result(volume, tmp_path / "part.nrrd", {1: LabelStyle("liver")})
    assert placed.segment_ids == () and placed.segmentation.GetSegmentation().GetNumberOfSegments() == 0


@pytest.mark.parametrize("grid", GRIDS)
def test_a_volume_tells_where_its_own_file_lies(nodes, tmp_path, grid):
    """Without its parent transforms: whoever loads the scan's file and the result sees them on top of each other."""
    from MASSSlicerLib.scene import exchange as scene
    from MASSSlicerLib.scene import grids

    volume = nodes.volume(GRIDS[grid], TRANSFORMS["turn"])
    told = grids.own(volume)
    volume.SetAndObserveTransformNodeID(None)
    scene.write_volume(volume, tmp_path / "own.nrrd")
    geometry = Volume.read(tmp_path / "own.nrrd").geometry
    for name, values in told.items():
        np.testing.assert_allclose(getattr(geometry, name), values, atol=1e-6)


@pytest.mark.parametrize("ending", [".seg.nrrd", ".nii.gz", ".nrrd"])
def test_segments_are_saved_where_the_volume_file_lies(nodes, tmp_path, ending):
    from MASSSlicerLib.scene import exchange as scene

    volume = nodes.volume(GRIDS["oblique"], TRANSFORMS["turn"])
    drawn = nodes.segmentation(volume, block())
    drawn.GetSegmentation().GetSegment("liver").SetName("Leber é")
    drawn.GetSegmentation().GetSegment("liver").SetColor(0.25, 0.5, 0.75)
    path = tmp_path / f"saved{ending}"
    scene.save_segments(drawn, ("liver",), volume, path)
    assert [p.name for p in tmp_path.iterdir()] == [f"saved{ending}"]
    volume.SetAndObserveTransformNodeID(None)
    if ending == ".seg.nrrd":
        loaded = nodes.slicer.util.loadSegmentation(str(path))
        segment = loaded.GetSegmentation().GetNthSegment(0)
        assert segment.GetName() == "Leber é"
        np.testing.assert_allclose(segment.GetColor(), (0.25, 0.5, 0.75), atol=1e-3)
        np.testing.assert_array_equal(nodes.mask(loaded, loaded.GetSegmentation().GetNthSegmentID(0), volume), block())
    else:
        scene.write_volume(volume, tmp_path / "own.nrrd")
        own, saved = Volume.read(tmp_path / "own.nrrd"), Volume.read(path)
        np.testing.assert_array_equal(saved.array, block())
        np.testing.assert_allclose(saved.geometry.origin_xyz, own.geometry.origin_xyz, atol=1e-4)
        np.testing.assert_allclose(saved.geometry.direction, own.geometry.direction, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_slicer_reads_the_segmentation_files_the_worker_writes(nodes, tmp_path, grid):
    from mass_core.colors import LabelStyle
    from mass_core.volumes.appearance import write_labels

    volume = nodes.volume(GRIDS[grid])
    nodes.slicer.util.saveNode(volume, str(tmp_path / "own.nrrd"))
    labels = np.where(block(), 7, 0).astype(np.uint8)
    labels[6, 8, 10] = 3
    looks = {
        3: LabelStyle(name="Leber é", color=(0.25, 0.5, 0.75), terminology="code~meaning"),
        7: LabelStyle(name="x"),
        9: LabelStyle(name="no"),
    }
    write_labels(Volume(labels, Volume.read(tmp_path / "own.nrrd").geometry), looks, tmp_path / "found.seg.nrrd")
    loaded = nodes.slicer.util.loadSegmentation(str(tmp_path / "found.seg.nrrd"))
    inner = loaded.GetSegmentation()
    first, second = (inner.GetNthSegment(number) for number in range(inner.GetNumberOfSegments()))
    assert (first.GetName(), second.GetName()) == ("Leber é", "x") and first.GetTerminology() == "code~meaning"
    np.testing.assert_allclose(first.GetColor(), (0.25, 0.5, 0.75), atol=1e-3)
    logic = nodes.slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.GetSegmentStatus(second) == logic.InProgress
    np.testing.assert_array_equal(nodes.mask(loaded, inner.GetNthSegmentID(0), volume), labels == 3)
    np.testing.assert_array_equal(nodes.mask(loaded, inner.GetNthSegmentID(1), volume), labels == 7)


def test_corrections_are_saved_too(nodes, tmp_path):
    from MASSSlicerLib.scene import exchange as scene

    volume = nodes.volume(GRIDS["left-handed"])
    segmentation = nodes.segmentation(volume, block(), ~block())
    scene.save_segments(segmentation, ("spleen", "gone"), volume, tmp_path / "kept.nii.gz")
    np.testing.assert_array_equal(Volume.read(tmp_path / "kept.nii.gz").array, ~block())
    with pytest.raises(InputError, match="no segments to export"):
        scene.save_segments(segmentation, ("gone",), volume, tmp_path / "none.nii.gz")


def test_a_folder_that_cannot_be_written_to_is_told(nodes, tmp_path):
    from MASSSlicerLib.scene import exchange as scene

    (tmp_path / "taken.nrrd").mkdir()
    with pytest.raises(OutputError, match="could not be written"):
        scene.write_volume(nodes.volume(), tmp_path / "taken.nrrd")


def test_what_is_no_scan_is_refused(nodes):
    from MASSSlicerLib.scene import exchange as scene

    with pytest.raises(InputError, match="No volume"):
        scene.check_volume(None)
    empty = nodes.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    with pytest.raises(InputError, match="no image data"):
        scene.check_volume(empty)
    labels = nodes.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    nodes.slicer.util.updateVolumeFromArray(labels, np.zeros(SHAPE, np.int16))
    with pytest.raises(InputError, match="label map"):
        scene.check_volume(labels)
    vector = nodes.scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colour")
    nodes.slicer.util.updateVolumeFromArray(vector, np.zeros((*SHAPE, 3), np.uint8))
    with pytest.raises(InputError, match="3 values per voxel"):
        scene.check_volume(vector)
    with pytest.raises(InputError, match="single slice"):
        scene.check_volume(nodes.volume(array=np.zeros((1, 9, 11), np.int16)))
    bent = nodes.volume(name="bent scan")
    nodes.bend(bent)
    with pytest.raises(GeometryError, match="bent scan.*non-linear.*bend"):
        scene.check_volume(bent)


def test_state_changes_with_voxels_and_place(nodes):
    from MASSSlicerLib.scene import exchange as scene

    volume = nodes.volume()
    states = [scene.state(volume)]
    assert scene.state(volume) == states[0]
    nodes.slicer.util.arrayFromVolume(volume)[0, 0, 0] = 77
    nodes.slicer.util.arrayFromVolumeModified(volume)
    states.append(scene.state(volume))
    volume.SetSpacing(1, 1, 2)
    states.append(scene.state(volume))
    nodes.put_under(volume, TRANSFORMS["shift"])
    states.append(scene.state(volume))
    assert len(set(states)) == len(states)


def test_exports_write_again_only_after_a_change(nodes, monkeypatch):
    from MASSSlicerLib.scene import exports as module

    exports = module.Exports()
    volume, other = nodes.volume(), nodes.volume()
    path = exports.volume(volume)
    written = path.stat().st_mtime_ns
    assert exports.volume(volume) == path and path.stat().st_mtime_ns == written
    volume.SetSpacing(1, 1, 2)
    changed = exports.volume(volume)
    assert changed != path and not path.exists()
    exports.discard(volume.GetID())
    assert not changed.exists()
    monkeypatch.setattr(module, "KEPT_BYTES", 1)
    small = module.Exports()
    first, second = small.volume(volume), small.volume(other)
    assert not first.exists() and second.exists()
    folder = exports.folder
    exports.close()
    small.close()
    assert not folder.exists()
