"""Where voxels lie: matrices between a volume's voxels, the nodes' own coordinates and the world (RAS, mm)."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from mass_core.errors import GeometryError


def ijk_to_ras(volume: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """From a volume's voxels to its own coordinates, 4x4; parent transforms are not in it."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def between(volume: slicer.vtkMRMLTransformableNode, other: slicer.vtkMRMLTransformableNode | None) -> np.ndarray:
    """From a node's coordinates to those of another (None: the world), 4x4.

    Raises:
        GeometryError: if a non-linear transform lies between them.
    """
    matrix = vtk.vtkMatrix4x4()
    end = None if other is None else other.GetParentTransformNode()
    if not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(volume.GetParentTransformNode(), end, matrix):
        raise GeometryError(
            _("Between “{one}” and “{other}” lies a non-linear transform.").format(
                one=volume.GetName(), other=other.GetName() if other else _("the world")
            ),
            _("Choose a new segmentation for the result, or harden the transform."),
        )
    return slicer.util.arrayFromVTKMatrix(matrix)


def within(target: slicer.vtkMRMLScalarVolumeNode, segmentation: slicer.vtkMRMLSegmentationNode) -> np.ndarray:
    """Where the target's voxels lie in the segmentation's coordinates, 4x4."""
    return between(target, segmentation) @ ijk_to_ras(target)


def for_file(volume: slicer.vtkMRMLScalarVolumeNode) -> vtk.vtkMatrix4x4:
    """Where voxels lie in the world, with axes at right angles, which image files demand.

    A sheared grid gets the nearest rotation (polar decomposition) and keeps its voxel sizes; the way back does not need it.
    """
    world = between(volume, None) @ ijk_to_ras(volume)
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    u, _scale, vt = np.linalg.svd(world[:3, :3] / spacing)
    world[:3, :3] = (u @ vt) * spacing
    return slicer.util.vtkMatrixFromArray(world)
