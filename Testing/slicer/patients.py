"""Phantoms in Slicer's scene: scans as volume nodes, structures as drawn segments."""

import functools

import numpy as np
import slicer

from mass_core import Volume
from mass_core.data.phantoms import subject

LIVER, SPLEEN = 1, 2
SHAPE_ZYX, SPACING_ZYX = (38, 48, 56), (8.0, 6.4, 6.4)
"""Coarse, so that a run takes seconds."""
FINER_ZYX = (8, 10, 9)
"""Voxels of a large scan for each of these."""


@functools.cache
def people(count):
    """Scan and label map of some people; not to be changed."""
    return [subject(seed, "ct", shape_zyx=SHAPE_ZYX, spacing_zyx=SPACING_ZYX) for seed in range(count)]


def scan(image: Volume, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """A volume node with the voxels and the place of an image."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, np.rint(image.array).astype(np.int16))
    lps_to_ras = np.diag([-1.0, -1, 1, 1])
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(lps_to_ras @ image.geometry.affine))
    return node


def large(number, name, finer=FINER_ZYX):
    """A person in smaller voxels: volume node, and segmentation with the liver; by default 304 x 480 x 504, as scanners make them."""
    from MASSSlicerLib.scene import segments

    image, labels = people(number + 1)[number]
    fine, liver = image.array.astype(np.int16), labels.array == LIVER
    for axis, times in enumerate(finer):
        fine, liver = (np.repeat(array, times, axis) for array in (fine, liver))
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(volume, fine)
    grid = slicer.util.vtkMatrixFromArray(np.diag([-1.0, -1, 1, 1]) @ image.geometry.affine @ np.diag([*(1 / np.array(finer[::-1])), 1]))
    volume.SetIJKToRASMatrix(grid)
    drawn, box = drawing(volume), segments.tight(liver)
    part = segments.mask_image(liver[box], tuple(side.start for side in box), grid)
    drawn.AddSegmentFromBinaryLabelmapRepresentation(part, "liver", (1, 0, 0))
    return volume, drawn


def drawing(volume, name="drawn"):
    """An empty segmentation of a volume."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    return node


def draw(segmentation, volume, mask, name, color=None):
    """Add a segment; returns its ID, which is its name."""
    inner = segmentation.GetSegmentation()
    segment_id = inner.AddEmptySegment(name, name, color) if color else inner.AddEmptySegment(name, name)
    redraw(segmentation, volume, mask, segment_id)
    return segment_id


def redraw(segmentation, volume, mask, segment_id):
    """Replace what a segment shows."""
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.asarray(mask).astype(np.uint8), segmentation, segment_id, volume)


def mask_of(segmentation, segment_id, volume):
    """A segment on the grid of a volume under the same transform, bool [z,y,x]."""
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment_id, volume) > 0


def dice(found, truth):
    """Overlap of two masks."""
    return 2 * np.count_nonzero(found & truth) / (np.count_nonzero(found) + np.count_nonzero(truth))
