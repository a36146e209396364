"""Segments as masks at a volume's voxels."""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from mass_core.errors import InputError

from . import grids

_OUTSIDE_TOLD = 0.02
"""Share of a segment outside its volume from which the user is told."""


def mask(volume: slicer.vtkMRMLScalarVolumeNode, segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str) -> np.ndarray:
    """The segment on the volume's grid, bool [z,y,x]; transforms of both are honoured.

    Raises:
        InputError: if it is missing, empty or lies outside the volume.
        GeometryError: if a non-linear transform lies between them.
    """
    segment = None if segmentation is None else segmentation.GetSegmentation().GetSegment(segment_id)
    if segment is None:
        raise InputError(_("A reference segment does not exist any more."), _("Choose the segments of the reference again."))
    if _own_mm3(segmentation, segment_id) == 0:
        raise InputError(_("The segment “{name}” is empty.").format(name=segment.GetName()), _("Draw it first, or choose another segment."))
    found = _resampled(volume, segmentation, segment_id)
    if not found.any():
        raise InputError(
            _("The segment “{name}” lies outside the volume “{volume}”.").format(name=segment.GetName(), volume=volume.GetName()),
            _("Choose the volume it was drawn on."),
        )
    return found


def _resampled(volume: slicer.vtkMRMLScalarVolumeNode, segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str) -> np.ndarray:
    """The segment at the volume's voxels, bool [z,y,x].

    Not by Slicer's export: with segmentation and volume under two different transforms it was seen to put segments in the wrong place
    (5.12), and it leaves display nodes behind. Here the segment's grid is expressed in the volume's coordinates, then resampled.

    Raises:
        GeometryError: if a non-linear transform lies between them.
    """
    moved, value = _drawn(segmentation, segment_id)
    own = vtk.vtkMatrix4x4()
    moved.GetImageToWorldMatrix(own)
    place = grids.between(segmentation, volume) @ slicer.util.arrayFromVTKMatrix(own)
    moved.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(place))
    grid, found = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData()
    grid.SetDimensions(volume.GetImageData().GetDimensions())
    grid.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(grids.ijk_to_ras(volume)))
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(moved, grid, found)
    return vtk_to_numpy(found.GetPointData().GetScalars()).reshape(found.GetDimensions()[::-1]) == value


def _drawn(segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str) -> tuple[slicer.vtkOrientedImageData, int]:
    """The image a segment is drawn in, sharing the node's voxels, and the value that means it; a surface is turned into voxels first."""
    inner = segmentation.GetSegmentation()
    if segmentation.GetBinaryLabelmapInternalRepresentation(segment_id) is None:
        converted = slicer.vtkSegmentation()
        converted.DeepCopy(inner)
        converted.CreateRepresentation("Binary labelmap")
        inner = converted
    image = slicer.vtkOrientedImageData()
    image.ShallowCopy(inner.GetSegmentRepresentation(segment_id, "Binary labelmap"))
    return image, inner.GetSegment(segment_id).GetLabelValue()


def cut_off(
    volume: slicer.vtkMRMLScalarVolumeNode, segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str, found: np.ndarray
) -> list[str]:
    """A warning if part of a segment lies outside the volume.

    Compared in volume, for the segment's own grid may be finer or coarser. Where the two do not share a transform, volumes may differ
    and nothing is said.
    """
    own = _own_mm3(segmentation, segment_id)
    if not own or volume.GetParentTransformNode() is not segmentation.GetParentTransformNode():
        return []
    voxel = float(np.prod(volume.GetSpacing()))
    outside = 1 - np.count_nonzero(found) * voxel / own
    if outside < max(_OUTSIDE_TOLD, 2 * voxel / own):
        return []
    name = segmentation.GetSegmentation().GetSegment(segment_id).GetName()
    return [
        _("{share:.0%} of the segment “{name}” lies outside the volume “{volume}” and is not used.").format(
            share=outside, name=name, volume=volume.GetName()
        )
    ]


def _own_mm3(segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str) -> float | None:
    """Volume of a segment as it was drawn, whatever lies around; None: it was not drawn in voxels."""
    image = segmentation.GetBinaryLabelmapInternalRepresentation(segment_id)
    if image is None:
        return None if segmentation.GetClosedSurfaceInternalRepresentation(segment_id) is not None else 0.0
    scalars = image.GetPointData().GetScalars()
    if scalars is None:
        return 0.0
    # Segments that do not overlap share an image, each with a value of its own.
    value = segmentation.GetSegmentation().GetSegment(segment_id).GetLabelValue()
    return np.count_nonzero(vtk_to_numpy(scalars) == value) * float(np.prod(image.GetSpacing()))
