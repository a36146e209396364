"""Nodes to files and back: the only place where images and masks pass between Slicer and the worker.

A result has exactly the grid that was sent, so it is put back by index onto the volume's own grid: exact for oblique,
left-handed, anisotropic and transformed volumes alike. Spacing and orientation in a file are those of the volume in the world, with its
linear parent transforms, because the network depends on orientation and voxel size.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from mass_core.colors import LabelStyle, distinct
from mass_core.errors import GeometryError, InputError, OutputError
from mass_core.outputs import all_or_none, check_no_input

from . import grids, node_files, segments

_LOADED = ("vtkMRMLVolumeNode", "vtkMRMLSegmentationNode")
"""Kinds of nodes whose files hold what the user has: scans, label maps, drawings."""


@dataclass(frozen=True)
class Placed:
    """A result in the scene."""

    segmentation: slicer.vtkMRMLSegmentationNode
    segment_ids: tuple[str, ...]


def check_volume(volume: slicer.vtkMRMLScalarVolumeNode | None) -> None:
    """Check that a volume is a scan with one value per voxel and a known position.

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
            _("The volume “{name}” has {count} values per voxel.").format(name=name, count=image.GetNumberOfScalarComponents()),
            _("Choose a scalar volume, or convert it with the module “Vector to Scalar Volume”."),
        )
    if min(image.GetDimensions()) < 2:
        raise InputError(_("“{name}” is a single slice.").format(name=name), _("Choose a volume of several slices."))
    transform = volume.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        raise GeometryError(
            _("The volume “{name}” is under the non-linear transform “{transform}”.").format(name=name, transform=transform.GetName()),
            _("Harden the transform (Data module, right click, Harden transform) or remove the volume from it."),
        )


def volume_by_id(node_id: str, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """A volume of the scene; its name is for the error.

    Raises:
        InputError: if it was removed.
    """
    volume = slicer.mrmlScene.GetNodeByID(node_id)
    if volume is None:
        raise InputError(_("The volume “{name}” was removed.").format(name=name), _("Load it again, then try again."))
    return volume


def state(volume: slicer.vtkMRMLScalarVolumeNode) -> tuple:
    """Fingerprint of a volume; changes with its voxels and their position."""
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
    node_files.write(file_node, path)


def write_masks(
    volume: slicer.vtkMRMLScalarVolumeNode, segmentation: slicer.vtkMRMLSegmentationNode, values: Mapping[str, int], path: Path
) -> tuple[list[Path], list[str]]:
    """Write segments as label maps on the grid of a volume, cropped to their box.

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
    groups: list[dict[int, segments.Cut]] = []
    warnings = []
    for segment_id, value in values.items():
        cut, notes = segments.cut_out(volume, segmentation, segment_id)
        warnings += notes
        free = next((group for group in groups if not any(cut.overlaps(other) for other in group.values())), None)
        if free is None:
            groups.append(free := {})
        free[value] = cut
    paths = [path.with_name(f"{path.stem}{number or ''}{path.suffix}") for number in range(len(groups))]
    for group, place in zip(groups, paths, strict=True):
        _write_joined(group, volume, place)
    return paths, warnings


def write_labels(
    volume: slicer.vtkMRMLScalarVolumeNode, segmentation: slicer.vtkMRMLSegmentationNode, values: Mapping[str, int], path: Path
) -> Generator[None, None, list[str]]:
    """Write segments as one label map on the volume's grid, cropped to their box. Where they overlap, the smallest is used.

    It pauses after each segment, so that Slicer can handle its events; the nodes must stay as they are until the end.

    Args:
        volume: the scan they were drawn on.
        segmentation: any geometry, any parent transform.
        values: label by segment ID, each one different. Empty segments are left out: the scan shows nothing of them.
        path: ends in .nrrd.

    Returns:
        Warnings, a sentence each.

    Raises:
        InputError: if a segment is missing or lies outside the volume, or all are empty.
        OutputError: if the file cannot be written.
    """
    check_volume(volume)
    names = {i: style.name for i, style in label_styles(segmentation, list(values)).items()}
    cuts, warnings = {}, []
    for segment_id in (i for i in values if not segments.is_empty(segmentation, i)):
        cuts[segment_id], notes = segments.cut_out(volume, segmentation, segment_id)
        warnings += notes
        yield
    if not cuts:
        raise InputError(
            _("Nothing is drawn in the segmentation “{name}”.").format(name=segmentation.GetName()), _("Draw it first, or untick it.")
        )
    smallest_last = sorted(cuts, key=lambda i: -np.count_nonzero(cuts[i].mask))
    shared = [(a, b) for n, a in enumerate(smallest_last) for b in smallest_last[n + 1 :] if cuts[a].overlaps(cuts[b])]
    text = _("In “{volume}”, {large} and {small} overlap; the overlap counts as {small}.")
    warnings += [text.format(volume=volume.GetName(), large=names[a], small=names[b]) for a, b in shared]
    _write_joined({values[i]: cuts[i] for i in smallest_last}, volume, path)
    return warnings


def label_styles(segmentation: slicer.vtkMRMLSegmentationNode, ids: Sequence[str]) -> dict[str, LabelStyle]:
    """Names, colours and terminology of segments by their ID."""
    known = {segment_id: segmentation.GetSegmentation().GetSegment(segment_id) for segment_id in ids}
    return {i: LabelStyle(segment.GetName(), tuple(segment.GetColor()), segment.GetTerminology() or "") for i, segment in known.items()}


def drawn_at(segmentation: slicer.vtkMRMLSegmentationNode, segment_id: str) -> int:
    """Modification time of a segment's shape; 0 for an empty one."""
    image = segmentation.GetBinaryLabelmapInternalRepresentation(segment_id)
    drawn = image or segmentation.GetClosedSurfaceInternalRepresentation(segment_id)
    return 0 if drawn is None else drawn.GetMTime()


def segment_ids(segmentation: slicer.vtkMRMLSegmentationNode) -> list[str]:
    """IDs of all segments, in their order."""
    return list(segmentation.GetSegmentation().GetSegmentIDs())


def place_result(
    target: slicer.vtkMRMLScalarVolumeNode,
    label_file: Path,
    found: Mapping[int, LabelStyle],
    *,
    into: slicer.vtkMRMLSegmentationNode | None = None,
    name: str = "",
    surface: bool = False,
) -> Placed:
    """Add a result to the scene as new segments; existing segments are not changed.

    Args:
        target: the volume that was segmented.
        label_file: the worker's result, voxel for voxel on the target's grid, or a part of it.
        found: name and colour by label; a label without voxels gives no segment.
        into: existing segmentation that gets the segments; None: a new one, in the target's place.
        name: of a new segmentation.
        surface: also give a new segmentation its surface for 3D views.

    Raises:
        InputError: if the file cannot be read.
        GeometryError: if it is not of the target's grid, or `into` lies under a non-linear transform.
    """
    node = node_files.read(label_file, slicer.vtkMRMLLabelMapVolumeNode())
    start = start_in(target, node)
    with slicer.util.RenderBlocker():
        segmentation = into
        if into is None:
            segmentation = new_segmentation(target, name)
            put_beside(segmentation, target)
        geometry = slicer.util.vtkMatrixFromArray(grids.between(target, segmentation) @ grids.ijk_to_ras(target))
        ids = _add_labels(segmentation, slicer.util.arrayFromVolume(node), start, geometry, found)
        if surface and into is None and ids:
            segmentation.CreateClosedSurfaceRepresentation()
    return Placed(segmentation, ids)


def save_segments(
    segmentation: slicer.vtkMRMLSegmentationNode, ids: Sequence[str], volume: slicer.vtkMRMLScalarVolumeNode, path: Path
) -> None:
    """Write segments, with corrections, to a file on the volume's grid, in the geometry of the volume's own file.

    Args:
        segmentation: any geometry, any parent transform.
        ids: of the segments; those that were removed are left out.
        volume: the scan they belong to.
        path: .seg.nrrd also carries names, colours and terminology; other endings give a compressed label map.

    Raises:
        InputError: if there is nothing to write.
        OutputError: if it cannot be written, or the file is that of a scan or of another segmentation of the scene.
    """
    scene = slicer.mrmlScene
    loaded = [scene.GetNthNodeByClass(n, kind) for kind in _LOADED for n in range(scene.GetNumberOfNodesByClass(kind))]
    check_no_input([path], node_files.own_files(node for node in loaded if node is not segmentation))
    present = [] if segmentation is None else segment_ids(segmentation)
    shown = label_styles(segmentation, [i for i in ids if i in present])
    if not shown:
        raise InputError(_("This result has no segments to export."), _("They were removed; segment the scan again."))
    labels = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint16)
    for value, segment_id in enumerate(shown, 1):
        cut, _notes = segments.cut_out(volume, segmentation, segment_id)
        labels[cut.part()][cut.mask] = value
    node = node_files.label_node(labels, slicer.util.vtkMatrixFromArray(grids.ijk_to_ras(volume)))
    try:
        with all_or_none([path]) as places:
            if path.name.endswith(".seg.nrrd"):
                _write_segmentation(node, dict(enumerate(shown.values(), 1)), places[path])
            else:
                node_files.write(node, places[path], compressed=True)
    except (OSError, OutputError) as error:
        raise node_files.unwritable(path) from error


def load_volume(path: Path) -> slicer.vtkMRMLScalarVolumeNode:
    """Load an image file into the scene.

    Raises:
        InputError: if Slicer cannot.
    """
    try:
        return slicer.util.loadVolume(str(path), {"singleFile": True})
    except RuntimeError as error:
        raise InputError(_("Slicer could not load {path}.").format(path=path), _("Write results to files instead.")) from error


def _write_segmentation(labels: slicer.vtkMRMLLabelMapVolumeNode, found: Mapping[int, LabelStyle], path: Path) -> None:
    """Write a .seg.nrrd by way of a scene of its own, so that the user's is not touched."""
    array, geometry = slicer.util.arrayFromVolume(labels), slicer.util.vtkMatrixFromArray(grids.ijk_to_ras(labels))
    private = slicer.vtkMRMLScene()
    segmentation = private.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(labels)
    _add_labels(segmentation, array, (0, 0, 0), geometry, found)
    storage = slicer.vtkMRMLSegmentationStorageNode()
    private.AddNode(storage)
    storage.SetFileName(str(path))
    if not storage.WriteData(segmentation):
        raise node_files.unwritable(path)


def _write_joined(group: Mapping[int, segments.Cut], volume: slicer.vtkMRMLScalarVolumeNode, path: Path) -> None:
    """Write segments as one label map of the box around them, later ones over earlier ones."""
    # A file of a single slice would not be taken for a volume, hence two at least.
    whole = np.array(volume.GetImageData().GetDimensions()[::-1])
    start = np.minimum(np.min([cut.start_zyx for cut in group.values()], axis=0), whole - 2)
    stop = np.maximum(np.max([np.add(cut.start_zyx, cut.mask.shape) for cut in group.values()], axis=0), start + 2)
    labels = np.zeros(stop - start, np.uint8 if max(group) < 256 else np.uint16)
    for value, cut in group.items():
        labels[cut.part(start)][cut.mask] = value
    node_files.write(node_files.label_node(labels, grids.moved(grids.for_file(volume), start)), path)


def start_in(target: slicer.vtkMRMLScalarVolumeNode, result: slicer.vtkMRMLVolumeNode) -> tuple[int, int, int]:
    """The target's voxel z, y, x at which a result begins.

    Raises:
        GeometryError: if it does not lie on the grid that was sent out: the volume was changed meanwhile.
    """
    sent, found = slicer.util.arrayFromVTKMatrix(grids.for_file(target)), grids.ijk_to_ras(result)
    first = np.rint((np.linalg.inv(sent) @ found)[:3, 3]).astype(int)
    expected = slicer.util.arrayFromVTKMatrix(grids.moved(slicer.util.vtkMatrixFromArray(sent), first[::-1]))
    room = np.subtract(target.GetImageData().GetDimensions(), first + result.GetImageData().GetDimensions())
    if first.min() < 0 or room.min() < 0 or not np.allclose(found, expected, rtol=0, atol=1e-3 * min(target.GetSpacing())):
        raise GeometryError(
            _("The volume “{name}” was changed or moved during the run.").format(name=target.GetName()),
            _("Try again."),
        )
    x, y, z = first.tolist()
    return z, y, x


def _add_labels(
    segmentation: slicer.vtkMRMLSegmentationNode,
    labels: np.ndarray,
    start_zyx: tuple[int, int, int],
    geometry: vtk.vtkMatrix4x4,
    found: Mapping[int, LabelStyle],
) -> tuple[str, ...]:
    """Add each label that has voxels as a segment, cropped to its box; returns the IDs."""
    ids = []
    for value, style in found.items():
        mask = labels == value
        box = segments.tight(mask)
        if box is not None:
            start = tuple(first + part.start for first, part in zip(start_zyx, box, strict=True))
            ids.append(_add_segment(segmentation, segments.mask_image(mask[box], start, geometry), style))
    return tuple(ids)


def new_segmentation(target: slicer.vtkMRMLScalarVolumeNode, name: str) -> slicer.vtkMRMLSegmentationNode:
    """An empty segmentation of a unique name in the volume's place: same transform, geometry and role as Slicer wants them for export."""
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", slicer.mrmlScene.GenerateUniqueName(name or _("MASS")))
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(target)
    segmentation.SetAndObserveTransformNodeID(target.GetTransformNodeID())
    return segmentation


def put_beside(node: slicer.vtkMRMLNode, target: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Put a node into the folder, study or patient of the volume."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    beside = 0 if hierarchy is None else hierarchy.GetItemByDataNode(target)
    if beside:
        item, folder = hierarchy.GetItemByDataNode(node), hierarchy.GetItemParent(beside)
        hierarchy.SetItemParent(item, folder) if item else hierarchy.CreateItem(folder, node)


def _add_segment(segmentation: slicer.vtkMRMLSegmentationNode, image: slicer.vtkOrientedImageData, style: LabelStyle) -> str:
    """Add a segment under a unique name; returns its ID."""
    inner = segmentation.GetSegmentation()
    taken = {inner.GetNthSegment(number).GetName() for number in range(inner.GetNumberOfSegments())}
    names = (style.name, *(f"{style.name} ({number})" for number in range(2, len(taken) + 3)))
    name = next(candidate for candidate in names if candidate not in taken)
    color = style.color or distinct(inner.GetNumberOfSegments())
    segment_id = segmentation.AddSegmentFromBinaryLabelmapRepresentation(image, name, color)
    segment = inner.GetSegment(segment_id)
    if style.terminology:
        segment.SetTerminology(style.terminology)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(segment, logic.InProgress)
    return segment_id
