"""Colour volumes of the worker in the scene and in the slice views."""

from __future__ import annotations

from pathlib import Path

import slicer
from slicer.i18n import tr as _

from . import exchange, grids, node_files

_OPACITY = 0.5


def add_colours(volume: slicer.vtkMRMLScalarVolumeNode, path: Path) -> slicer.vtkMRMLVectorVolumeNode:
    """Add a colour volume of the worker to the scene, voxel for voxel in the place of the scan it was made from, transform included.

    Raises:
        InputError: if the file cannot be read.
        GeometryError: if it is not of the scan's grid: the volume was changed meanwhile.
    """
    read = node_files.read(path, slicer.vtkMRMLVectorVolumeNode())
    exchange.start_in(volume, read)
    name = slicer.mrmlScene.GenerateUniqueName(_("{name} features").format(name=volume.GetName()))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", name)
    node.SetAndObserveImageData(read.GetImageData())
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(grids.ijk_to_ras(volume)))
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    exchange.put_beside(node, volume)
    return node


def show_over(volume: slicer.vtkMRMLScalarVolumeNode, colours: slicer.vtkMRMLVectorVolumeNode) -> None:
    """Show a colour volume over its scan in all slice views, half transparent."""
    slicer.util.setSliceViewerLayers(background=volume, foreground=colours, foregroundOpacity=_OPACITY, fit=True)
