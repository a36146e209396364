"""Nodes outside the scene as files, and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from mass_core.errors import InputError, OutputError


def write(node: slicer.vtkMRMLScalarVolumeNode, path: Path, *, compressed: bool = False) -> None:
    """Write the voxels of a node.

    Raises:
        OutputError: if that is not possible; nothing is left behind then.
    """
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(compressed)
    if not storage.WriteData(node):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise unwritable(path)


def unwritable(path: Path) -> OutputError:
    """The error for a file that cannot be written."""
    return OutputError(
        _("The file {path} could not be written.").format(path=path), _("Check the free space and the rights of the folder.")
    )


def own_files(nodes: Iterable[slicer.vtkMRMLStorableNode | None]) -> list[Path]:
    """The files that nodes were loaded from or saved to last."""
    stores = [store for node in nodes if node is not None and (store := node.GetStorageNode()) is not None]
    names = [store.GetFullNameFromFileName() for store in stores]
    names += [store.GetFullNameFromNthFileName(number) for store in stores for number in range(store.GetNumberOfFileNames())]
    return [Path(name) for name in dict.fromkeys(names) if name]


def label_node(labels: np.ndarray, geometry: vtk.vtkMatrix4x4) -> slicer.vtkMRMLLabelMapVolumeNode:
    """A label map outside the scene, uint8 if the values allow."""
    narrow = labels.astype(np.uint8) if labels.dtype != np.uint8 and labels.max() < 256 else labels
    image = vtk.vtkImageData()
    image.SetDimensions(narrow.shape[::-1])
    kind = vtk.VTK_UNSIGNED_CHAR if narrow.dtype == np.uint8 else vtk.VTK_UNSIGNED_SHORT
    image.GetPointData().SetScalars(numpy_to_vtk(narrow.reshape(-1), deep=True, array_type=kind))
    node = slicer.vtkMRMLLabelMapVolumeNode()
    node.SetAndObserveImageData(image)
    node.SetIJKToRASMatrix(geometry)
    return node


def read(path: Path, node: slicer.vtkMRMLVolumeNode) -> slicer.vtkMRMLVolumeNode:
    """Read a result of the worker into a node.

    Raises:
        InputError: if it cannot be read.
    """
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    # Voxels must stay in the order they were sent out in, whatever hand the grid is of.
    storage.SetForceRightHandedIJKCoordinateSystem(False)
    storage.SetSingleFile(True)  # else the numbered files beside a flat one are taken for further slices of it
    if not storage.ReadData(node) or node.GetImageData() is None:
        raise InputError(_("The result {path} could not be read.").format(path=path), _("Run it again."))
    return node
