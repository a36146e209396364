"""Segments as masks at a volume's voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from mass_core.errors import InputError

from . import grids

_OUTSIDE_REPORTED = 0.02
"""Share of a segment outside its volume from which the user is warned."""


@dataclass(frozen=True)
class Cut:
    """A segment on a volume's grid, cropped to its box."""

    start_zyx: tuple[int, int, int]
    """First voxel of the part."""
    mask: np.ndarray
    """bool [z,y,x] of the part."""

    def part(self, origin_zyx: Sequence[int] = (0, 0, 0)) -> tuple[slice, slice, slice]:
        """Its slices in an array of the grid that begins at a voxel."""
        z, y, x = (slice(a - o, a - o + n) for a, o, n in zip(self.start_zyx, origin_zyx, self.mask.shape, strict=True))
        return z, y, x

    def overlaps(self, other: Cut) -> bool:
        """True if both share a voxel."""
        low = np.maximum(self.start_zyx, other.start_zyx)
        high = np.minimum(np.add(self.start_zyx, self.mask.shape), np.add(other.start_zyx, other.mask.shape))
        if (low >= high).any():
            return False
        mine, theirs = (
            cut.mask[tuple(slice(a - s, b - s) for a, b, s in zip(low, high, cut.start_zyx, strict=True))] for cut in (self, other)
        )
        return bool((mine & theirs).any())


def cut_out(volume: slicer.vtkMRMLScalarVolumeNode, segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str) -> tuple[Cut, list[str]]:
    """Resample a segment onto the volume's grid, with the transforms of both; also returns a warning if part of it lies outside.

    Raises:
        InputError: if it is missing, empty or lies outside the volume.
        GeometryError: if a non-linear transform lies between them.
    """
    segment = None if segmentation is None else segmentation.GetSegmentation().GetSegment(segment_id)
    if segment is None:
        raise InputError(_("A reference segment no longer exists."), _("Choose the segments of the reference again."))
    drawn = _drawn(segmentation, segment_id)
    if drawn is None:
        raise InputError(_("The segment “{name}” is empty.").format(name=segment.GetName()), _("Draw it first, or choose another segment."))
    found = _resampled(volume, segmentation, drawn)
    if found is None:
        raise InputError(
            _("The segment “{name}” lies outside the volume “{volume}”.").format(name=segment.GetName(), volume=volume.GetName()),
            _("Choose the volume it was drawn on."),
        )
    return found, _outside(volume, segmentation, segment.GetName(), np.count_nonzero(found.mask), drawn)


def is_empty(segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str) -> bool:
    """True if a segment exists but nothing is drawn in it."""
    return segmentation.GetSegmentation().GetSegment(segment_id) is not None and _drawn(segmentation, segment_id) is None


@dataclass(frozen=True)
class _Drawn:
    """A segment as it was drawn."""

    image: slicer.vtkOrientedImageData
    """Its voxels, cropped to its box; 1 inside."""
    mm3: float | None
    """Its volume; None: it was drawn as a surface."""


def _drawn(segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str) -> _Drawn | None:
    """The voxels of a segment on its own grid; a surface is converted first. None if it is empty."""
    inner = segmentation.GetSegmentation()
    surface = segmentation.GetBinaryLabelmapInternalRepresentation(segment_id) is None
    if surface:
        if segmentation.GetClosedSurfaceInternalRepresentation(segment_id) is None:
            return None
        converted = slicer.vtkSegmentation()
        converted.DeepCopy(inner)
        converted.CreateRepresentation("Binary labelmap")
        inner = converted
    shared = inner.GetSegmentRepresentation(segment_id, "Binary labelmap")
    scalars = shared.GetPointData().GetScalars()
    if scalars is None:
        return None
    # Segments that do not overlap share an image, each with a value of its own.
    mask = vtk_to_numpy(scalars).reshape(shared.GetDimensions()[::-1]) == inner.GetSegment(segment_id).GetLabelValue()
    box = tight(mask)
    if box is None:
        return None
    geometry = vtk.vtkMatrix4x4()
    shared.GetImageToWorldMatrix(geometry)
    x0, _x1, y0, _y1, z0, _z1 = shared.GetExtent()
    start = tuple(first + part.start for first, part in zip((z0, y0, x0), box, strict=True))
    image = mask_image(mask[box], start, geometry)
    return _Drawn(image, None if surface else np.count_nonzero(mask[box]) * float(np.prod(shared.GetSpacing())))


def tight(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    """The smallest box around a mask [z,y,x]; None: it has no voxel."""
    planes = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not planes[0].size:
        return None
    z, y, x = (slice(int(where[0]), int(where[-1]) + 1) for where in planes)
    return z, y, x


def mask_image(mask: np.ndarray, start_zyx: tuple[int, int, int], geometry: vtk.vtkMatrix4x4) -> slicer.vtkOrientedImageData:
    """A mask as an image of the grid it is part of.

    Args:
        mask: [z,y,x].
        start_zyx: its first voxel in the grid.
        geometry: of the whole grid, from voxels to coordinates.
    """
    # With a margin: resampled onto another grid, voxels at the very edge of an image are lost to rounding.
    padded = np.pad(mask.astype(np.uint8), 1)
    depth, height, width = padded.shape
    z, y, x = (first - 1 for first in start_zyx)
    image = slicer.vtkOrientedImageData()
    image.SetExtent(x, x + width - 1, y, y + height - 1, z, z + depth - 1)
    image.GetPointData().SetScalars(numpy_to_vtk(padded.reshape(-1), deep=True, array_type=vtk.VTK_UNSIGNED_CHAR))
    image.SetGeometryFromImageToWorldMatrix(geometry)
    return image


def _resampled(volume: slicer.vtkMRMLScalarVolumeNode, segmentation: slicer.vtkMRMLSegmentationNode, drawn: _Drawn) -> Cut | None:
    """The segment at the volume's voxels; None: it has none of them.

    Not by Slicer's export: with segmentation and volume under two different transforms it was seen to put segments in the wrong place
    (5.12), and it leaves display nodes behind. Here the segment's grid is expressed in the volume's coordinates, then resampled, and
    only where the segment is.

    Raises:
        GeometryError: if a non-linear transform lies between them.
    """
    moved = drawn.image
    own = vtk.vtkMatrix4x4()
    moved.GetImageToWorldMatrix(own)
    place = grids.between(segmentation, volume) @ slicer.util.arrayFromVTKMatrix(own)
    moved.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(place))
    reach = _reach(volume, moved, place)
    if reach is None:
        return None
    grid, found = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData()
    grid.SetExtent(*reach)
    grid.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(grids.ijk_to_ras(volume)))
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(moved, grid, found)
    mask = vtk_to_numpy(found.GetPointData().GetScalars()).reshape(found.GetDimensions()[::-1]) > 0
    box = tight(mask)
    if box is None:
        return None
    z, y, x = (first + part.start for first, part in zip(reach[4::-2], box, strict=True))
    return Cut((z, y, x), mask[box])


def _reach(volume: slicer.vtkMRMLScalarVolumeNode, image: slicer.vtkOrientedImageData, place: np.ndarray) -> list[int] | None:
    """The volume's voxels an image reaches, as an extent of VTK (x, y, z, first and last); None: none.

    Args:
        volume: the grid.
        image: anywhere.
        place: from the image's voxels to the volume's coordinates, 4x4.
    """
    low, high = np.reshape(image.GetExtent(), (3, 2)).T.astype(float)
    ends = np.stack([low - 0.5, high + 0.5])
    corners = np.stack(np.meshgrid(*ends.T, [1.0], indexing="ij"), axis=-1).reshape(-1, 4)
    voxels = (corners @ (np.linalg.inv(grids.ijk_to_ras(volume)) @ place).T)[:, :3]
    first = np.maximum(np.floor(voxels.min(axis=0)), 0).astype(int)
    last = np.minimum(np.ceil(voxels.max(axis=0)), np.subtract(volume.GetImageData().GetDimensions(), 1)).astype(int)
    return None if (first > last).any() else np.stack([first, last], axis=1).ravel().tolist()


def _outside(
    volume: slicer.vtkMRMLScalarVolumeNode, segmentation: slicer.vtkMRMLSegmentationNode, name: str, voxels: int, drawn: _Drawn
) -> list[str]:
    """A warning if part of a segment lies outside the volume.

    Compared in volume, for the segment's own grid may be finer or coarser. Where the two do not share a transform, volumes may differ
    and nothing is said.
    """
    if drawn.mm3 is None or volume.GetParentTransformNode() is not segmentation.GetParentTransformNode():
        return []
    voxel = float(np.prod(volume.GetSpacing()))
    share = 1 - voxels * voxel / drawn.mm3
    if share < max(_OUTSIDE_REPORTED, 2 * voxel / drawn.mm3):
        return []
    return [
        _("{share:.0%} of the segment “{name}” lies outside the volume “{volume}” and is not used.").format(
            share=share, name=name, volume=volume.GetName()
        )
    ]
