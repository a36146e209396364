"""Nodes to files and back: a mask in the wrong place is worse than none, so every answer here is known beforehand."""

import numpy as np
import pytest

from mass_core import Volume
from mass_core.errors import GeometryError, InputError, OutputError

SHAPE = (7, 9, 11)
MARKER = (slice(1, 4), slice(2, 6), slice(3, 9))
"""A block that is different from each of its mirror images."""


def rotation(degrees, axis):
    a = np.radians(degrees)
    matrix = np.eye(3)
    i, j = [(1, 2), (0, 2), (0, 1)][axis]
    matrix[i, i] = matrix[j, j] = np.cos(a)
    matrix[i, j], matrix[j, i] = -np.sin(a), np.sin(a)
    return matrix


def affine(linear, origin=(0, 0, 0)):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, origin
    return matrix


GRIDS = {
    "plain": affine(np.eye(3)),
    "thick slices": affine(np.diag([0.7, 0.7, 5.0]), (10, -20, 300)),
    "oblique": affine(rotation(20, 0) @ rotation(-35, 2) @ np.diag([0.9, 1.1, 2.5]), (-50, 12, 7)),
    "left-handed": affine(np.diag([-0.8, 1.2, 3.0]), (90, 0, -4)),
    "sagittal storage": affine(np.array([[0, 0, 3.0], [0.9, 0, 0], [0, 0.9, 0]]), (1, 2, 3)),
}
TRANSFORMS = {
    "none": None,
    "shift": affine(np.eye(3), (5, -7, 11)),
    "turn": affine(rotation(30, 1) @ rotation(10, 0), (1, 2, 3)),
    "mirror": affine(np.diag([-1, 1, 1])),
    "stretch": affine(np.diag([1.5, 0.8, 1.0])),
    "shear": affine(np.array([[1, 0.3, 0], [0, 1, 0], [0, 0.1, 1.0]])),
}
RIGID = ("none", "shift", "turn", "mirror", "stretch")


@pytest.fixture
def nodes(host):
    return Nodes()


class Nodes:
    """Makes nodes of the scene."""

    def __init__(self):
        import slicer

        self.slicer, self.scene = slicer, slicer.mrmlScene

    def volume(self, grid=None, transform=None, array=None, name="scan"):
        node = self.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        array = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.int16) if array is None else array
        self.slicer.util.updateVolumeFromArray(node, array)
        node.SetIJKToRASMatrix(self.slicer.util.vtkMatrixFromArray(GRIDS["plain"] if grid is None else grid))
        self.put_under(node, transform)
        return node

    def put_under(self, node, transform):
        if transform is not None:
            parent = self.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
            parent.SetMatrixTransformToParent(self.slicer.util.vtkMatrixFromArray(transform))
            node.SetAndObserveTransformNodeID(parent.GetID())

    def bend(self, node):
        """Put a node under a transform that is not linear."""
        import vtk

        points = [vtk.vtkPoints(), vtk.vtkPoints()]
        for x, y, z in np.ndindex(2, 2, 2):
            points[0].InsertNextPoint(20 * x, 20 * y, 20 * z)
            points[1].InsertNextPoint(20 * x + 3 * x * y * z, 20 * y, 20 * z)
        spline = vtk.vtkThinPlateSplineTransform()
        spline.SetSourceLandmarks(points[0])
        spline.SetTargetLandmarks(points[1])
        spline.SetBasisToR()
        parent = self.scene.AddNewNodeByClass("vtkMRMLTransformNode", "bend")
        parent.SetAndObserveTransformToParent(spline)
        node.SetAndObserveTransformNodeID(parent.GetID())

    def segmentation(self, volume, *masks, names=("liver", "spleen", "kidney")):
        node = self.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        for mask, name in zip(masks, names, strict=False):
            segment_id = node.GetSegmentation().AddEmptySegment(name, name)
            self.slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, segment_id, volume)
        return node

    def world(self, volume, ijk):
        """Where a voxel lies in the world, RAS."""
        import vtk

        matrix, up = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(matrix)
        self.slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(volume.GetParentTransformNode(), None, up)
        array = self.slicer.util.arrayFromVTKMatrix
        return (array(up) @ array(matrix) @ [*ijk, 1])[:3]

    def mask(self, segmentation, segment_id, volume):
        """The segment at the volume's voxels, looked up voxel by voxel by way of the world."""
        import vtk
        from vtk.util.numpy_support import vtk_to_numpy

        array, matrices = self.slicer.util.arrayFromVTKMatrix, [vtk.vtkMatrix4x4() for _ in range(4)]
        volume.GetIJKToRASMatrix(matrices[0])
        self.slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(volume.GetParentTransformNode(), None, matrices[1])
        self.slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(None, segmentation.GetParentTransformNode(), matrices[2])
        image = segmentation.GetBinaryLabelmapInternalRepresentation(segment_id)
        image.GetWorldToImageMatrix(matrices[3])
        ijk_to_ras, up, down, to_image = (array(matrix) for matrix in matrices)
        kji = np.indices(self.slicer.util.arrayFromVolume(volume).shape).reshape(3, -1)
        points = to_image @ down @ up @ ijk_to_ras @ np.vstack([kji[::-1], np.ones(kji.shape[1])])
        x0, x1, y0, y1, z0, z1 = image.GetExtent()
        values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1)
        z, y, x = np.rint(points[:3]).astype(int)[::-1] - np.array([[z0], [y0], [x0]])
        inside = (z >= 0) & (y >= 0) & (x >= 0) & (z <= z1 - z0) & (y <= y1 - y0) & (x <= x1 - x0)
        found = np.zeros(kji.shape[1], bool)
        label = segmentation.GetSegmentation().GetSegment(segment_id).GetLabelValue()
        found[inside] = values[z[inside], y[inside], x[inside]] == label
        return found.reshape(self.slicer.util.arrayFromVolume(volume).shape)


def block():
    mask = np.zeros(SHAPE, bool)
    mask[MARKER] = True
    return mask


def answer(path, tmp_path, labels):
    """What the worker would write for the volume in a file."""
    sent = Volume.read(path)
    result = tmp_path / "result.nrrd"
    Volume(labels.astype(np.uint8), sent.geometry).write(result)
    return result


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("grid", GRIDS)
def test_a_result_returns_to_its_voxels(nodes, tmp_path, grid, transform):
    from MASSSlicerLib import scene
    from MASSSlicerLib.scene import Look

    volume = nodes.volume(GRIDS[grid], TRANSFORMS[transform])
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    sent = Volume.read(tmp_path / "sent.nrrd")
    np.testing.assert_array_equal(sent.array, nodes.slicer.util.arrayFromVolume(volume))
    labels = answer(tmp_path / "sent.nrrd", tmp_path, block())
    placed = scene.place_result(volume, labels, {1: Look("liver", (0.8, 0.2, 0.1))})
    np.testing.assert_array_equal(nodes.mask(placed.segmentation, placed.segment_ids[0], volume), block())
    assert placed.segmentation.GetTransformNodeID() == volume.GetTransformNodeID()


@pytest.mark.parametrize("transform", RIGID)
@pytest.mark.parametrize("grid", GRIDS)
def test_files_say_where_voxels_lie_in_the_world(nodes, tmp_path, grid, transform):
    """The network is told which way is up by the file. What keeps axes at right angles is told exactly."""
    from MASSSlicerLib import scene

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
    from MASSSlicerLib import scene

    volume = nodes.volume(GRIDS["thick slices"], TRANSFORMS["shear"])
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    geometry = Volume.read(tmp_path / "sent.nrrd").geometry
    edges = [np.linalg.norm(nodes.world(volume, unit) - nodes.world(volume, (0, 0, 0))) for unit in np.eye(3)]
    np.testing.assert_allclose(geometry.spacing_xyz, edges, rtol=1e-5)
    direction = np.array(geometry.direction).reshape(3, 3)
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-6)


def test_masks_follow_the_segmentation_whatever_its_grid(nodes, tmp_path):
    """Drawn on a finer scan that shows a part only, and under another transform than the volume."""
    from MASSSlicerLib import scene

    coarse = nodes.volume(affine(np.diag([2.0, 2, 2]), (100, 0, 0)), affine(np.eye(3), (-100, 0, 0)), np.zeros((6, 6, 6), np.int16))
    fine = nodes.volume(affine(np.eye(3) * 0.5, (1.75, 1.75, 1.75)), None, np.zeros((16, 16, 16), np.int16))
    drawn = np.zeros((16, 16, 16), bool)
    drawn[2:14, 2:14, 6:10] = True
    # 0.5 mm voxels: x from 1.75 + 0.5*(6-0.5) = 4.5 to 6.5, y and z from 2.5 to 8.5; centres of 2 mm voxels inside: x 6, y and z 4, 6, 8.
    (path,), warnings = scene.write_masks(coarse, nodes.segmentation(fine, drawn), {"liver": 3}, tmp_path / "mask.nrrd")
    labels = Volume.read(path).array
    expected = np.zeros((6, 6, 6), int)
    expected[2:5, 2:5, 3] = 3
    np.testing.assert_array_equal(labels, expected)
    assert warnings == []


@pytest.mark.parametrize("own", TRANSFORMS)
@pytest.mark.parametrize("other", TRANSFORMS)
def test_masks_lie_where_they_are_seen_whatever_transforms_there_are(nodes, tmp_path, own, other):
    from MASSSlicerLib import scene

    drawn_on = nodes.volume(affine(np.diag([-0.8, 1.2, 3.0])), TRANSFORMS[other])
    segmentation = nodes.segmentation(drawn_on, block())
    volume = nodes.volume(
        affine(rotation(25, 2) @ np.diag([0.45, 0.4, 0.8]), (-12, -9, -6)), TRANSFORMS[own], np.zeros((40, 60, 50), np.int16)
    )
    expected = nodes.mask(segmentation, "liver", volume)
    (path,), _ = scene.write_masks(volume, segmentation, {"liver": 1}, tmp_path / "mask.nrrd")
    found = Volume.read(path).array > 0
    assert expected.sum() > 100
    # Voxels whose centre lies on the border of two voxels may go either way.
    assert np.count_nonzero(found != expected) <= 0.005 * expected.sum()


def test_overlapping_segments_go_to_files_of_their_own(nodes, tmp_path):
    from MASSSlicerLib import scene

    volume = nodes.volume()
    whole, part, beside = block(), np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    part[2, 3, 4:7] = True
    beside[6, 8, 10] = True
    paths, _ = scene.write_masks(
        volume, nodes.segmentation(volume, whole, part, beside), {"liver": 1, "spleen": 2, "kidney": 3}, tmp_path / "mask.nrrd"
    )
    first, second = (Volume.read(path).array for path in paths)
    np.testing.assert_array_equal(first == 1, whole)
    np.testing.assert_array_equal(first == 3, beside)
    np.testing.assert_array_equal(second == 2, part)


def test_what_lies_outside_the_volume_is_told(nodes, tmp_path):
    from MASSSlicerLib import scene

    volume = nodes.volume()
    wide = nodes.volume(affine(np.eye(3), (0, 0, -7)), None, np.zeros((14, 9, 11), np.int16))
    half = np.zeros((14, 9, 11), bool)
    half[4:10, 2:6, 3:9] = True
    _, warnings = scene.write_masks(volume, nodes.segmentation(wide, half), {"liver": 1}, tmp_path / "mask.nrrd")
    assert len(warnings) == 1 and "50%" in warnings[0]
    outside = np.zeros((14, 9, 11), bool)
    outside[0:3] = True
    with pytest.raises(InputError, match="outside"):
        scene.write_masks(volume, nodes.segmentation(wide, outside), {"liver": 1}, tmp_path / "mask.nrrd")


def test_empty_and_missing_segments_are_refused(nodes, tmp_path):
    from MASSSlicerLib import scene

    volume = nodes.volume()
    segmentation = nodes.segmentation(volume, block())
    segmentation.GetSegmentation().AddEmptySegment("nothing", "nothing")
    with pytest.raises(InputError, match="empty"):
        scene.write_masks(volume, segmentation, {"nothing": 1}, tmp_path / "mask.nrrd")
    with pytest.raises(InputError, match="does not exist"):
        scene.write_masks(volume, segmentation, {"gone": 1}, tmp_path / "mask.nrrd")
    assert list(tmp_path.iterdir()) == []


def test_a_segment_that_is_only_a_surface_serves_too(nodes, tmp_path):
    from MASSSlicerLib import scene

    volume = nodes.volume(array=np.zeros((24, 24, 24), np.int16))
    mask = np.zeros((24, 24, 24), bool)
    mask[6:18, 6:18, 6:18] = True
    drawn = nodes.segmentation(volume, mask)
    assert drawn.CreateClosedSurfaceRepresentation()
    drawn.SetSourceRepresentationToClosedSurface()
    drawn.GetSegmentation().RemoveRepresentation("Binary labelmap")
    (path,), _ = scene.write_masks(volume, drawn, {"liver": 1}, tmp_path / "mask.nrrd")
    found = Volume.read(path).array > 0
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.9


def test_segments_that_exist_are_not_touched(nodes, tmp_path):
    from MASSSlicerLib import scene
    from MASSSlicerLib.scene import Look

    volume = nodes.volume()
    existing = nodes.segmentation(volume, block())
    before = existing.GetSegmentation().GetSegment("liver").GetMTime()
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    labels = answer(tmp_path / "sent.nrrd", tmp_path, np.ones(SHAPE))
    placed = scene.place_result(volume, labels, {1: Look("liver", (0, 0, 1), "code")}, into=existing)
    assert placed.segmentation is existing
    inner = existing.GetSegmentation()
    assert [inner.GetNthSegment(n).GetName() for n in range(2)] == ["liver", "liver (2)"]
    np.testing.assert_array_equal(nodes.mask(existing, "liver", volume), block())
    assert inner.GetSegment("liver").GetMTime() == before
    assert nodes.mask(existing, placed.segment_ids[0], volume).all()
    assert inner.GetSegment(placed.segment_ids[0]).GetTerminology() == "code"


def test_a_segmentation_under_another_transform_gets_the_result_in_the_same_place(nodes, tmp_path):
    from MASSSlicerLib import scene
    from MASSSlicerLib.scene import Look

    volume = nodes.volume(GRIDS["oblique"], TRANSFORMS["turn"])
    other = nodes.volume(GRIDS["thick slices"], TRANSFORMS["shift"])
    existing = nodes.segmentation(other, block())
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    placed = scene.place_result(volume, answer(tmp_path / "sent.nrrd", tmp_path, block()), {1: Look("spleen")}, into=existing)
    np.testing.assert_array_equal(nodes.mask(existing, placed.segment_ids[0], volume), block())


def test_a_new_segmentation_lies_beside_its_volume(nodes, tmp_path):
    from MASSSlicerLib import scene
    from MASSSlicerLib.scene import Look

    volume = nodes.volume()
    hierarchy = nodes.slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(nodes.scene)
    study = hierarchy.CreateStudyItem(hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "patient"), "study")
    hierarchy.CreateItem(study, volume)
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    placed = scene.place_result(
        volume, answer(tmp_path / "sent.nrrd", tmp_path, block()), {1: Look("liver"), 2: Look("nowhere")}, name="found", surface=True
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
    from MASSSlicerLib import scene
    from MASSSlicerLib.scene import Look

    volume = nodes.volume()
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    labels = answer(tmp_path / "sent.nrrd", tmp_path, block())
    volume.SetOrigin(1, 0, 0)
    with pytest.raises(GeometryError, match="changed or moved"):
        scene.place_result(volume, labels, {1: Look("liver")})
    assert nodes.slicer.util.getNodesByClass("vtkMRMLSegmentationNode") == []


@pytest.mark.parametrize("ending", [".seg.nrrd", ".nii.gz", ".nrrd"])
def test_saved_results_lie_where_the_volume_file_lies(nodes, tmp_path, ending):
    """In the coordinates of the volume itself: whoever loads both files sees them on top of each other."""
    from MASSSlicerLib import scene
    from MASSSlicerLib.scene import Look

    volume = nodes.volume(GRIDS["oblique"], TRANSFORMS["turn"])
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    labels = answer(tmp_path / "sent.nrrd", tmp_path, block())
    path = tmp_path / f"saved{ending}"
    scene.save_result(labels, {1: Look("Leber é", (0.25, 0.5, 0.75), "code")}, path, volume)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["result.nrrd", f"saved{ending}", "sent.nrrd"])
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


def test_corrections_are_saved_too(nodes, tmp_path):
    from MASSSlicerLib import scene

    volume = nodes.volume(GRIDS["left-handed"])
    segmentation = nodes.segmentation(volume, block(), ~block())
    scene.save_segments(segmentation, ("spleen", "gone"), volume, tmp_path / "kept.nii.gz")
    np.testing.assert_array_equal(Volume.read(tmp_path / "kept.nii.gz").array, ~block())
    with pytest.raises(InputError, match="nothing to write"):
        scene.save_segments(segmentation, ("gone",), volume, tmp_path / "none.nii.gz")


def test_a_folder_that_cannot_be_written_to_is_told(nodes, tmp_path):
    from MASSSlicerLib import scene

    (tmp_path / "taken.nrrd").mkdir()
    with pytest.raises(OutputError, match="could not be written"):
        scene.write_volume(nodes.volume(), tmp_path / "taken.nrrd")


def test_what_is_no_scan_is_refused(nodes):
    from MASSSlicerLib import scene

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
    with pytest.raises(InputError, match="3 values a voxel"):
        scene.check_volume(vector)
    with pytest.raises(InputError, match="single slice"):
        scene.check_volume(nodes.volume(array=np.zeros((1, 9, 11), np.int16)))
    bent = nodes.volume(name="bent scan")
    nodes.bend(bent)
    with pytest.raises(GeometryError, match="bent scan.*non-linear.*bend"):
        scene.check_volume(bent)


def test_state_changes_with_voxels_and_place(nodes):
    from MASSSlicerLib import scene

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


def test_exports_write_again_only_after_a_change(nodes):
    from MASSSlicerLib.exports import Exports

    exports = Exports()
    volume, other = nodes.volume(), nodes.volume()
    path = exports.volume(volume)
    written = path.stat().st_mtime_ns
    assert exports.volume(volume) == path and path.stat().st_mtime_ns == written
    volume.SetSpacing(1, 1, 2)
    changed = exports.volume(volume)
    assert changed != path and not path.exists()
    exports.forget(volume.GetID())
    assert not changed.exists()
    small = Exports(kept_bytes=1)
    first, second = small.volume(volume), small.volume(other)
    assert not first.exists() and second.exists()
    folder = exports.folder
    exports.close()
    small.close()
    assert not folder.exists()
