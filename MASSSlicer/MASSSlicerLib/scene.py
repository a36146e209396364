"""Between nodes and files: the only place where images and masks cross the border between Slicer and the worker.

The worker answers voxel by voxel on the grid it was given, so a result is put back by index onto the volume's own grid: exact for oblique,
left-handed, anisotropic and transformed volumes alike. What a file says about spacing and orientation is the volume's place in the world,
its linear parent transforms included, because that is what the network must know: which way is up, and how large a voxel is.
"""

from __future__ import annotations

import colorsys
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

from mass_core.errors import GeometryError, InputError, OutputError

from . import grids, segments


@dataclass(frozen=True)
class Look:
    """How a segment is called and shown."""

    name: str
    color: tuple[float, float, float] | None = None
    """Red, green, blue from 0 to 1."""
    terminology: str = ""
    """Coded meaning, as Slicer serialises it."""


@dataclass(frozen=True)
class Placed:
    """Where a result went."""

    segmentation: slicer.vtkMRMLSegmentationNode
    segment_ids: tuple[str, ...]


def check_volume(volume: slicer.vtkMRMLScalarVolumeNode | None) -> None:
    """Refuse what is not a scan of one value a voxel in a place that can be told.

    Raises:
        InputError: if there is no volume, or it has no image, is a label map or has several values a voxel.
        GeometryError: if it lies under a transform that bends space.
    """
    if volume is None or volume.GetScene() is None and volume.GetImageData() is None:
        raise InputError(_("No volume is chosen."), _("Choose a scan that is loaded in Slicer."))
    name = volume.GetName()
    image = volume.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0 or image.GetPointData().GetScalars() is None:
        raise InputError(_("The volume “{name}” has no image data.").format(name=name), _("Load it again, or choose another volume."))
    if volume.IsA("vtkMRMLLabelMapVolumeNode"):
        raise InputError(_("“{name}” is a label map, not a scan.").format(name=name), _("Choose the scan it belongs to."))
    if image.GetNumberOfScalarComponents() != 1:
        raise InputError(
            _("The volume “{name}” has {count} values a voxel.").format(name=name, count=image.GetNumberOfScalarComponents()),
            _("Choose a scalar volume; the module “Vector to Scalar Volume” makes one."),
        )
    if min(image.GetDimensions()) < 2:
        raise InputError(_("“{name}” is a single slice.").format(name=name), _("Choose a volume of several slices."))
    transform = volume.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        raise GeometryError(
            _("The volume “{name}” lies under the non-linear transform “{transform}”.").format(name=name, transform=transform.GetName()),
            _("Harden the transform (Data module, right click, Harden transform) or take the volume out of it."),
        )


def state(volume: slicer.vtkMRMLScalarVolumeNode) -> tuple:
    """Changes whenever the voxels of a volume or their place change."""
    image = volume.GetImageData()
    return (
        volume.GetID(),
        image.GetMTime(),
        image.GetPointData().GetScalars().GetMTime(),
        grids.between(volume, None).tobytes(),
        grids.ijk_to_ras(volume).tobytes(),
    )


def write_volume(volume: slicer.vtkMRMLScalarVolumeNode, path: Path) -> None:
    """Write a scan as an uncompressed NRRD file.

    Args:
        volume: in the scene or not; its node is not changed.
        path: ends in .nrrd.

    Raises:
        MassError: if `check_volume` refuses it, or the file cannot be written.
    """
    check_volume(volume)
    file_node = slicer.vtkMRMLScalarVolumeNode()
    file_node.SetAndObserveImageData(volume.GetImageData())
    file_node.SetIJKToRASMatrix(grids.for_file(volume))
    _write(file_node, path)


def write_masks(
    volume: slicer.vtkMRMLScalarVolumeNode, segmentation: slicer.vtkMRMLSegmentationNode, values: Mapping[str, int], path: Path
) -> tuple[list[Path], list[str]]:
    """Write segments as label maps on the grid of a volume.

    Args:
        volume: the scan they were drawn on.
        segmentation: any geometry, any parent transform.
        values: label by segment ID.
        path: of the first file, ends in .nrrd. Segments that overlap go to further files, numbered.

    Returns:
        The files, and warnings, a sentence each.

    Raises:
        InputError: if a segment is missing, empty or lies outside the volume.
        OutputError: if a file cannot be written.
    """
    check_volume(volume)
    maps: list[np.ndarray] = []
    warnings = []
    for segment_id, value in values.items():
        mask = segments.mask(volume, segmentation, segment_id)
        warnings += segments.cut_off(volume, segmentation, segment_id, mask)
        free = next((labels for labels in maps if not labels[mask].any()), None)
        if free is None:
            free = np.zeros(mask.shape, np.uint16)
            maps.append(free)
        free[mask] = value
    paths = [path.with_name(f"{path.stem}{number or ''}{path.suffix}") for number in range(len(maps))]
    for labels, place in zip(maps, paths, strict=True):
        _write(_label_node(labels, grids.for_file(volume)), place)
    return paths, warnings


def looks(segmentation: slicer.vtkMRMLSegmentationNode, ids: Sequence[str]) -> dict[str, Look]:
    """Names, colours and terminology of segments by their ID."""
    known = {segment_id: segmentation.GetSegmentation().GetSegment(segment_id) for segment_id in ids}
    return {i: Look(segment.GetName(), tuple(segment.GetColor()), segment.GetTerminology() or "") for i, segment in known.items()}


def segment_ids(segmentation: slicer.vtkMRMLSegmentationNode) -> list[str]:
    """IDs of all segments, in their order."""
    inner = segmentation.GetSegmentation()
    return [inner.GetNthSegmentID(number) for number in range(inner.GetNumberOfSegments())]


def place_result(
    target: slicer.vtkMRMLScalarVolumeNode,
    label_file: Path,
    found: Mapping[int, Look],
    *,
    into: slicer.vtkMRMLSegmentationNode | None = None,
    name: str = "",
    surface: bool = False,
) -> Placed:
    """Add what was found in a volume to the scene, as new segments; segments that exist are not touched.

    Args:
        target: the volume that was segmented.
        label_file: the worker's result, voxel for voxel on the target's grid.
        found: look by label; a label without voxels gives no segment.
        into: existing segmentation that gets the segments; None: a new one, in the target's place.
        name: of a new segmentation.
        surface: also give a new segmentation its surface for 3D views.

    Raises:
        GeometryError: if the file is not of the target's grid, or `into` lies under a non-linear transform.
    """
    labels = slicer.util.arrayFromVolume(_read_label_node(label_file, target))
    with slicer.util.RenderBlocker():
        segmentation = into or _new_segmentation(target, name)
        geometry = grids.within(target, segmentation)
        ids = []
        for value, look in found.items():
            image = _cropped_mask(labels, value, geometry)
            if image is not None:
                ids.append(_add_segment(segmentation, image, look))
        if surface and into is None and ids:
            segmentation.CreateClosedSurfaceRepresentation()
    return Placed(segmentation, tuple(ids))


def save_result(label_file: Path, found: Mapping[int, Look], path: Path, target: slicer.vtkMRMLScalarVolumeNode | None = None) -> None:
    """Turn the worker's label map into a file of its own.

    Args:
        label_file: on any grid.
        found: look by label.
        path: .seg.nrrd also carries names, colours and terminology; other endings give a compressed label map.
        target: volume of the scene that was segmented; the file then lies where that volume's own file does, without its parent transforms.

    Raises:
        GeometryError: if the result is not of the target's grid.
        OutputError: if it cannot be written.
    """
    node = _read_label_node(label_file, target)
    if target is not None:
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(grids.ijk_to_ras(target)))
    _write_complete(node, found, path)


def save_segments(
    segmentation: slicer.vtkMRMLSegmentationNode, ids: Sequence[str], volume: slicer.vtkMRMLScalarVolumeNode, path: Path
) -> None:
    """Write segments, corrections included, as a file on the volume's grid; endings as in `save_result`.

    Raises:
        InputError: if there is nothing to write.
        OutputError: if it cannot be written.
    """
    present = [] if segmentation is None else segment_ids(segmentation)
    shown = looks(segmentation, [i for i in ids if i in present])
    if not shown:
        raise InputError(_("There is nothing to write."), _("The segments of this result were removed."))
    labels = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint16)
    for value, segment_id in enumerate(shown, 1):
        labels[segments.mask(volume, segmentation, segment_id)] = value
    node = _label_node(labels, slicer.util.vtkMatrixFromArray(grids.ijk_to_ras(volume)))
    _write_complete(node, dict(enumerate(shown.values(), 1)), path)


def load_volume(path: Path) -> slicer.vtkMRMLScalarVolumeNode:
    """Load an image file into the scene.

    Raises:
        InputError: if Slicer cannot.
    """
    try:
        return slicer.util.loadVolume(str(path))
    except RuntimeError as error:
        raise InputError(_("Slicer could not load {path}.").format(path=path), _("Have results written as files.")) from error


def _write_complete(labels: slicer.vtkMRMLLabelMapVolumeNode, found: Mapping[int, Look], path: Path) -> None:
    """Under a temporary name, then renamed."""
    temporary = path.with_name(f".mass-{path.name}")
    try:
        if path.name.endswith(".seg.nrrd"):
            _write_segmentation(labels, found, temporary)
        else:
            _write(labels, temporary, compressed=True)
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_segmentation(labels: slicer.vtkMRMLLabelMapVolumeNode, found: Mapping[int, Look], path: Path) -> None:
    """Write a .seg.nrrd by way of a scene of its own, so that the user's is not touched."""
    array, geometry = slicer.util.arrayFromVolume(labels), grids.ijk_to_ras(labels)
    private = slicer.vtkMRMLScene()
    segmentation = private.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(labels)
    for value, look in found.items():
        image = _cropped_mask(array, value, geometry)
        if image is not None:
            _add_segment(segmentation, image, look)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    private.AddNode(storage)
    storage.SetFileName(str(path))
    if not storage.WriteData(segmentation):
        raise _unwritable(path)


def _write(node: slicer.vtkMRMLScalarVolumeNode, path: Path, *, compressed: bool = False) -> None:
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(compressed)
    if not storage.WriteData(node):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise _unwritable(path)


def _unwritable(path: Path) -> OutputError:
    return OutputError(
        _("The file {path} could not be written.").format(path=path), _("Check the free space and the rights of the folder.")
    )


def _label_node(labels: np.ndarray, geometry: vtk.vtkMatrix4x4) -> slicer.vtkMRMLLabelMapVolumeNode:
    narrow = labels.astype(np.uint8) if labels.max() < 256 else labels
    node = slicer.vtkMRMLLabelMapVolumeNode()
    node.SetAndObserveImageData(_image(narrow, vtk.vtkImageData()))
    node.SetIJKToRASMatrix(geometry)
    return node


def _image(array: np.ndarray, image: vtk.vtkImageData) -> vtk.vtkImageData:
    """An image that holds a copy of an array [z,y,x]."""
    depth, height, width = array.shape
    image.SetExtent(0, width - 1, 0, height - 1, 0, depth - 1)
    kind = vtk.VTK_UNSIGNED_CHAR if array.dtype == np.uint8 else vtk.VTK_UNSIGNED_SHORT
    image.GetPointData().SetScalars(numpy_to_vtk(array.reshape(-1), deep=True, array_type=kind))
    return image


def _read_label_node(path: Path, target: slicer.vtkMRMLScalarVolumeNode | None) -> slicer.vtkMRMLLabelMapVolumeNode:
    """The worker's label map.

    Raises:
        InputError: if it cannot be read.
        GeometryError: if it does not lie on the grid that was sent out: the volume was changed meanwhile.
    """
    node = slicer.vtkMRMLLabelMapVolumeNode()
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    # Voxels must stay in the order they were sent out in, whatever hand the grid is of.
    storage.SetForceRightHandedIJKCoordinateSystem(False)
    if not storage.ReadData(node) or node.GetImageData() is None:
        raise InputError(_("The result {path} could not be read.").format(path=path), _("Run it again."))
    if target is not None and not _on_grid(node, target):
        raise GeometryError(
            _("The volume “{name}” was changed or moved while it was being segmented.").format(name=target.GetName()),
            _("Segment it again."),
        )
    return node


def _on_grid(labels: slicer.vtkMRMLLabelMapVolumeNode, target: slicer.vtkMRMLScalarVolumeNode) -> bool:
    if labels.GetImageData().GetDimensions() != target.GetImageData().GetDimensions():
        return False
    sent = slicer.util.arrayFromVTKMatrix(grids.for_file(target))
    return np.allclose(grids.ijk_to_ras(labels), sent, rtol=0, atol=1e-3 * min(target.GetSpacing()))


def _cropped_mask(labels: np.ndarray, value: int, geometry: np.ndarray) -> slicer.vtkOrientedImageData | None:
    """One label as an image of its bounding box only; None: it has no voxel."""
    mask = labels == value
    planes = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not planes[0].size:
        return None
    (z0, z1), (y0, y1), (x0, x1) = ((int(where[0]), int(where[-1])) for where in planes)
    # With a margin: resampled onto another grid, voxels at the very edge of an image are lost to rounding.
    inner = np.pad(mask[z0 : z1 + 1, y0 : y1 + 1, x0 : x1 + 1].astype(np.uint8), 1)
    image = slicer.vtkOrientedImageData()
    _image(inner, image)
    image.SetExtent(x0 - 1, x1 + 1, y0 - 1, y1 + 1, z0 - 1, z1 + 1)
    image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(geometry))
    return image


def _new_segmentation(target: slicer.vtkMRMLScalarVolumeNode, name: str) -> slicer.vtkMRMLSegmentationNode:
    """An empty segmentation in the volume's place: same transform, same folder, geometry and role as Slicer wants them for export."""
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", slicer.mrmlScene.GenerateUniqueName(name or _("MASS")))
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(target)
    segmentation.SetAndObserveTransformNodeID(target.GetTransformNodeID())
    _put_beside(segmentation, target)
    return segmentation


def _put_beside(segmentation: slicer.vtkMRMLSegmentationNode, target: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Into the folder, study or patient of the volume."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    beside = 0 if hierarchy is None else hierarchy.GetItemByDataNode(target)
    if beside:
        item, folder = hierarchy.GetItemByDataNode(segmentation), hierarchy.GetItemParent(beside)
        hierarchy.SetItemParent(item, folder) if item else hierarchy.CreateItem(folder, segmentation)


def _add_segment(segmentation: slicer.vtkMRMLSegmentationNode, image: slicer.vtkOrientedImageData, look: Look) -> str:
    """A new segment with a name of its own; returns its ID."""
    inner = segmentation.GetSegmentation()
    taken = {inner.GetNthSegment(number).GetName() for number in range(inner.GetNumberOfSegments())}
    names = (look.name, *(f"{look.name} ({number})" for number in range(2, len(taken) + 3)))
    name = next(candidate for candidate in names if candidate not in taken)
    color = look.color or _next_color(segmentation)
    segment_id = segmentation.AddSegmentFromBinaryLabelmapRepresentation(image, name, color)
    segment = inner.GetSegment(segment_id)
    if look.terminology:
        segment.SetTerminology(look.terminology)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(segment, logic.InProgress)
    return segment_id


def _next_color(segmentation: slicer.vtkMRMLSegmentationNode) -> tuple[float, float, float]:
    """Distinct hues one after the other, a golden-ratio step apart."""
    hue = (0.11 + 0.618034 * segmentation.GetSegmentation().GetNumberOfSegments()) % 1
    return colorsys.hsv_to_rgb(hue, 0.6, 0.9)
