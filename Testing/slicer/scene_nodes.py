"""Volumes, transforms and segments whose places are known beforehand."""

import numpy as np

from mass_core import Volume

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
        """Position of a voxel in the world, RAS."""
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
    """Stand-in for the worker's result for the volume in a file."""
    sent = Volume.read(path)
    result = tmp_path / "result.nrrd"
    Volume(labels.astype(np.uint8), sent.geometry).write(result)
    return result


def on_grid(mask, scan):
    """A mask's file, a part of its scan's grid, on all of it."""
    part, whole = Volume.read(mask), Volume.read(scan).geometry
    assert whole.contains(part.geometry)
    start = np.rint((np.linalg.inv(whole.affine) @ part.geometry.affine)[:3, 3]).astype(int)[::-1]
    labels = np.zeros(whole.shape_zyx, part.array.dtype)
    labels[tuple(slice(a, a + n) for a, n in zip(start, part.array.shape, strict=True))] = part.array
    return labels
