"""Image files and DICOM folders, read and written through SimpleITK, with a specific message for each defect."""

import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError, InputError, OutputError, listing
from ..outputs import all_or_none, check_image_name
from . import dicom_frames, dicom_series, nifti, text_headers

_MOST_EDGE_MM, _MOST_LENGTH_MM, _LEAST_LENGTH_MM = 100.0, 5000.0, 0.5
"""Longest voxel edge, longest and shortest scan of a patient."""
_SAME_PLACE = 0.01
"""Of a voxel edge: how far a place read by ITK may be off the one the header states."""

_RIGHT_ANGLE = 1e-9
"""Dot product of two axes up to which they are left as they are."""

_KNOWN = (
    ((".mrb", ".mrml"), "a scene of 3D Slicer", "Open it there, and save its volumes as .nrrd and its segmentations as .seg.nrrd."),
    ((".stl", ".vtk", ".vtp", ".obj", ".ply", ".vtm"), "a surface", "Turn it into a label map first, with 3D Slicer, say."),
    ((".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar"), "an archive", "Unpack it first."),
)
"""Files that people have and that are no images: endings, what they are, and the way out."""
_OVERLAP_CURE = (
    "Its segments overlap: as the mask of a reference they may; else export them as a label map, or choose a layer with --frame (frame)."
)


def read_image(path: Path, frame: int | None = None) -> tuple[sitk.Image, tuple[str, ...]]:
    """Read one volume: a scalar image of three dimensions, with notes for the user.

    Args:
        path: Image file, folder with one DICOM series, or one slice of a series.
        frame: Which volume of a 4D file, or component of a vector image, counted from 0.

    Raises:
        InputError: when it is missing, no image, damaged, or not one volume.
        GeometryError: when the voxels do not lie on a regular straight grid.
    """
    dicom_series.check_name(path)
    if not path.exists():
        raise InputError(f"There is no file {path}.", "Check the spelling and the folder.")
    with _quiet():
        image, notes = _read(path, frame)
    _check_size(path, image)
    return image, notes


def several_values(path: Path) -> int:
    """Number of volumes, values a voxel or layers in a file; 1 for a folder, and for files that cannot be read."""
    dicom_series.check_name(path)
    if not path.is_file():
        return 1
    with _quiet(), _as_itk_reads_it(path) as file:
        if dicom_frames.kind(path) == "segmentation":
            return len(dicom_frames.read_layers(path))
        try:
            reader = dicom_series.image_reader(file)
        except RuntimeError:
            return 1
        size = reader.GetSize()
        return int(size[3]) if len(size) > 3 else int(reader.GetNumberOfComponents())


def _check_size(path: Path, image: sitk.Image) -> None:
    """Refuse voxel sizes that no scan of a patient has."""
    spacing, size = image.GetSpacing(), image.GetSize()
    longest = max(edge * count for edge, count in zip(spacing, size, strict=True))
    if max(spacing) > _MOST_EDGE_MM or not _LEAST_LENGTH_MM <= longest <= _MOST_LENGTH_MM:
        edges = " x ".join(f"{edge:.4g}" for edge in spacing)
        raise GeometryError(
            f"The voxels of {path} are {edges} mm and the scan is {longest / 1000:.3g} m long, so the header probably uses another unit "
            "than mm.",
            "Correct the voxel size in the header, in mm.",
        )


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image so that `path` is either complete or as it was before.

    Raises:
        OutputError: for an unknown format, a missing or read-only folder, a full disk.
    """
    check_image_name(path)
    if not path.parent.is_dir():
        raise OutputError(f"The folder {path.parent} does not exist.", "Create it or choose another.")
    try:
        with all_or_none([path]) as place:
            sitk.WriteImage(image, str(place[path]), useCompression=path.suffix.lower() != ".mhd")
            if _is_cut_off(place[path]):
                raise OSError("the disk is full.")
    except (RuntimeError, OSError) as error:
        reason = getattr(error, "strerror", None) or _reason(error).rstrip(".")
        raise OutputError(f"Cannot write {path}: {reason}.", "Check the free space and the rights of the folder.") from error


def _is_cut_off(path: Path) -> bool:
    """True if a NIfTI file ends too early; ITK notices it neither in reading (voxels become 0) nor in writing to a full disk."""
    if not path.name.lower().endswith(nifti.ENDINGS):
        return False
    voxels = nifti.voxel_file(path)
    try:
        with nifti.opened(voxels) as stream, voxels.open("rb") as stored:
            head = nifti.Header.of(stream.read(540)) if voxels == nifti.header_file(path) else nifti.header(path)
            if head is None:
                return False  # not a NIfTI file: reading it reports that
            stored.seek(-4, os.SEEK_END)
            # The last four bytes of a compressed file hold the length, if one piece was compressed; else it has to be counted.
            if nifti.is_gzip(voxels) and int.from_bytes(stored.read(4), "little") == head.length % (1 << 32):
                return False
            stream.seek(head.length - 1)
            return not stream.read(1)
    except nifti.DAMAGE:
        return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ITK's warnings off the terminal; what matters is checked here."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _read(path: Path, frame: int | None) -> tuple[sitk.Image, tuple[str, ...]]:
    folder, files = (path, dicom_series.files_of(path)) if path.is_dir() else (path.parent, dicom_series.series_of(path))
    if len(files) == 1:
        return _read_file(files[0], frame)
    try:
        return _straightened(dicom_series.read_slices(folder, files, frame)), _left_out(folder, files)
    except RuntimeError as error:
        raise _unreadable(folder, error) from error


def _left_out(folder: Path, files: Sequence[Path]) -> tuple[str, ...]:
    """A note about files of a folder that may be slices, but cannot be read."""
    unread = dicom_series.unread(folder, files)
    return (f"DICOM files that cannot be read were left out; slices may be missing: {listing(unread, 5)}.",) if unread else ()


def _read_file(path: Path, frame: int | None) -> tuple[sitk.Image, tuple[str, ...]]:
    if (many := _read_many_frames(path, frame)) is not None:
        return _straightened(many), ()
    _check_partner(path)
    matrix, note = nifti.place(path)
    scale, own_note = text_headers.place(path)
    image = _read_voxels(path, frame)
    if (rescaling := text_headers.rescaling(path)) != (1.0, 0.0):
        image = sitk.Cast(image, sitk.sitkFloat32) * rescaling[0] + rescaling[1]
    if image.GetNumberOfComponentsPerPixel() > 1:
        image = sitk.VectorIndexSelectionCast(image, frame or 0)
    _put(image, _matrix(path, image, scale) if matrix is None else matrix)
    return image, tuple(filter(None, [note, own_note]))


def _read_voxels(path: Path, frame: int | None) -> sitk.Image:
    """The image of a file as ITK reads it."""
    with _as_itk_reads_it(path) as file:
        try:
            reader = dicom_series.image_reader(file)
            if nifti.is_complex(path) or "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
                raise InputError(f"{path} holds complex numbers.", "Save the magnitude image and use that.")
            size = reader.GetSize()
            _check_one_volume(path, size, reader.GetNumberOfComponents(), frame)
            if len(size) == 4:
                reader.SetExtractSize([*size[:3], 0])
                reader.SetExtractIndex([0, 0, 0, frame or 0])
            if _is_cut_off(path):
                raise _damaged(path, "it ends too early")
            if text_headers.is_damaged(path):
                raise _damaged(path, "its voxels cannot be decompressed")
            count, first = nifti.not_numbers(path)
            if count:
                raise not_numbers_error(f"{count} voxels of {path}", first)
            return reader.Execute()
        except RuntimeError as error:
            raise _unreadable(path, error) from error


def _check_partner(path: Path) -> None:
    """Refuse one file of a pair .hdr and .img without the other."""
    if (missing := nifti.missing_partner(path)) is not None:
        raise InputError(f"{path.name} belongs to {missing.name}, which is not beside it.", "Give both files, in one folder.")


def _matrix(path: Path, image: sitk.Image, scale: float) -> np.ndarray:
    """The 4x4 matrix from voxel index to LPS mm of an image in units of so many mm, whose axes must be at right angles."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = scale * np.array(image.GetOrigin())
    if not nifti.is_straight(matrix):
        raise _sheared(path)
    return matrix


def _read_many_frames(path: Path, frame: int | None) -> sitk.Image | None:
    """The volume of a DICOM file that is more than a slice; None: it is a slice, or no DICOM file."""
    kind = dicom_frames.kind(path)
    if kind == "segmentation":
        layers = dicom_frames.read_layers(path)
        overlap = f"The segments of {path} overlap, and a label map holds one label per voxel."
        _check_frame(path, len(layers), frame, overlap, _OVERLAP_CURE)
        return layers[frame or 0]
    if kind == "frames":
        return dicom_frames.read_frames([path], frame, f"the file {path}")
    if kind == "frames without place":
        raise GeometryError(f"The frames of {path} have no position.", "Export the original series.")
    if kind == "no image":
        raise InputError(f"{path} is a DICOM file without an image.", "Give the series of slices, or a segmentation.")
    dicom_series.refuse_contours([path])
    return None


@contextmanager
def _as_itk_reads_it(path: Path) -> Iterator[Path]:
    """The file itself, or a temporary copy of what ITK cannot read as it is: NIfTI-2, and compressed files named .nii."""
    head = nifti.header(path)
    misnamed = head is not None and path.suffix.lower() == ".nii" and nifti.is_gzip(path)
    if head is None or (head.version == 1 and not misnamed):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mass-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / ("copy.nii.gz" if head.version == 1 else "copy.nii")
        try:
            shutil.copyfile(path, copy) if head.version == 1 else nifti.write_as_version_1(path, copy)
        except (EOFError, zlib.error, ValueError) as error:
            raise _damaged(path, str(error)) from error
        yield copy


def _put(image: sitk.Image, matrix: np.ndarray) -> None:
    """Set the geometry of an image from a 4x4 matrix from voxel index to LPS mm, unless it matches already."""
    edges = np.linalg.norm(matrix[:3, :3], axis=0)
    known = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    reach = np.abs(known - matrix[:3, :3]) @ np.array(image.GetSize()) + np.abs(matrix[:3, 3] - image.GetOrigin())
    if reach.max() <= _SAME_PLACE * edges.min() and np.allclose(image.GetSpacing(), edges, rtol=_SAME_PLACE):
        return
    image.SetSpacing(edges.tolist())
    image.SetDirection((matrix[:3, :3] / edges).ravel().tolist())
    image.SetOrigin(matrix[:3, 3].tolist())
    _straightened(image)


def _straightened(image: sitk.Image) -> sitk.Image:
    """The same image, its axes exactly at right angles: those of a header are rounded, and files written with them could not be read."""
    direction = np.reshape(image.GetDirection(), (3, 3))
    if np.abs(direction.T @ direction - np.eye(3)).max() > _RIGHT_ANGLE:
        left, _, right = np.linalg.svd(direction)
        image.SetDirection((left @ right).ravel().tolist())
    return image


def not_numbers_error(which: str, first: tuple[int, ...]) -> InputError:
    """The error for voxels that are NaN or infinite; `first` is the index x, y, z of one of them."""
    return InputError(
        f"{which} are not numbers (NaN or infinite), the first at index x, y, z {first}.",
        "Replace them in the file, for instance by the lowest value of the image.",
    )


def _check_frame(path: Path, count: int, frame: int | None, several: str, cure: str) -> None:
    """Refuse several volumes of which none is chosen, and a choice that does not fit."""
    if frame is None and count > 1:
        raise InputError(several, cure)
    if frame is not None and not 0 <= frame < count:
        raise InputError(f"Frame {frame} is requested, but {path} has {count}.", f"Choose a frame from 0 to {count - 1}.")


def _check_one_volume(path: Path, size: tuple[int, ...], components: int, frame: int | None) -> None:
    """Refuse what is not one volume, and a frame choice that does not fit."""
    if len(size) < 3 or min(size[:3]) < 2:
        raise InputError(
            f"{path} is flat ({' x '.join(map(str, size))}), a volume is needed.",
            "Give a 3D file; for DICOM slices give the folder that holds the series.",
        )
    if len(size) > 4 or (len(size) == 4 and components > 1):
        raise InputError(f"{path} has {len(size)} dimensions and {components} values per voxel.", "Save one 3D volume of it.")
    count, what = (size[3], "volumes") if len(size) == 4 else (components, "values per voxel")
    cure = f"Choose one of them with --frame 0 to {count - 1} (frame), or save it as a 3D file; 3D Slicer loads 4D files as sequences."
    _check_frame(path, count, frame, f"{path} holds {count} {what}.", _OVERLAP_CURE if path.name.endswith(".seg.nrrd") else cure)


def _unreadable(path: Path, error: RuntimeError) -> InputError | GeometryError:
    """The error for a failure of SimpleITK."""
    text = str(error)
    if "rthonormal" in text:
        return _sheared(path)
    known = next(((what, cure) for endings, what, cure in _KNOWN if path.name.lower().endswith(endings)), None)
    if known is not None:
        return InputError(f"{path} is {known[0]}, not an image.", known[1])
    if "Unable to determine ImageIO" in text:
        if path.name.lower().endswith(nifti.ENDINGS) and nifti.is_gzip(path):
            return _damaged(path, "what is compressed is no NIfTI image")
        what = "is empty" if path.stat().st_size == 0 else "is not an image in a known format"
        return InputError(f"{path} {what}.", "Give NIfTI, NRRD or MetaImage, or a folder of DICOM slices.")
    return _damaged(path, _reason(error))


def _sheared(path: Path) -> GeometryError:
    return GeometryError(
        f"The axes of {path} are not at right angles (sheared affine), so its voxels do not form a rectangular grid.",
        "Resample it to a rectangular grid first, for instance with 3D Slicer's Resample modules or with `mri_convert`.",
    )


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path} cannot be read, it seems to be damaged or truncated: {reason.rstrip('.')}.", "Copy or export it again.")


def _reason(error: Exception) -> str:
    """The last, most specific line of an error of SimpleITK, which may go on with numbers or with an older error of the system."""
    lines = [line.strip() for line in str(error).splitlines() if re.search("[a-zA-Z]{3}", line) and "Reason:" not in line]
    return re.sub(r"^ITK ERROR: \w+\(0x\w+\): ", "", lines[-1]) if lines else type(error).__name__
