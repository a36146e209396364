"""Matrices between a volume's voxels, the nodes' own coordinates and the world (RAS, mm)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from mass_core.errors import GeometryError

_FLAT = 1e-6
"""Volume that three unit vectors span, up to which they count as lying in a plane."""


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
            _("A non-linear transform lies between “{one}” and “{other}”.").format(
                one=volume.GetName(), other=other.GetName() if other else _("the world")
            ),
            _("Harden the transform (Data module, right click, Harden transform), or choose another segmentation."),
        )
    return slicer.util.arrayFromVTKMatrix(matrix)


def is_solid(matrix: np.ndarray) -> bool:
    """True if a grid, 4x4, has voxels that fill space."""
    edges = np.linalg.norm(matrix[:3, :3], axis=0)
    return bool(np.isfinite(matrix).all() and edges.min() > 0 and abs(np.linalg.det(matrix[:3, :3] / edges)) > _FLAT)


def for_file(volume: slicer.vtkMRMLScalarVolumeNode) -> vtk.vtkMatrix4x4:
    """From voxels to the world, with axes at right angles, as image files demand; 4x4.

    A sheared grid gets the nearest rotation and keeps its voxel sizes; the way back does not need it.
    """
    return slicer.util.vtkMatrixFromArray(_right_angled(between(volume, None) @ ijk_to_ras(volume)))


def moved(geometry: vtk.vtkMatrix4x4, start_zyx: Sequence[int]) -> vtk.vtkMatrix4x4:
    """The same grid counted from another voxel."""
    matrix = slicer.util.arrayFromVTKMatrix(geometry)
    matrix[:3, 3] += matrix[:3, :3] @ np.asarray(start_zyx)[::-1]
    return slicer.util.vtkMatrixFromArray(matrix)


def own(volume: slicer.vtkMRMLScalarVolumeNode) -> dict[str, list[float]]:
    """Geometry of the volume's own file for the worker, without parent transforms: LPS, mm."""
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ _right_angled(ijk_to_ras(volume))
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    return {
        "spacing_xyz": spacing.tolist(),
        "origin_xyz": matrix[:3, 3].tolist(),
        "direction": (matrix[:3, :3] / spacing).ravel().tolist(),
    }


def _right_angled(matrix: np.ndarray) -> np.ndarray:
    """The grid of the nearest rotation (polar decomposition) with the same voxel sizes, 4x4."""
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    u, _scale, vt = np.linalg.svd(matrix[:3, :3] / spacing)
    result = matrix.copy()
    result[:3, :3] = (u @ vt) * spacing
    return result
