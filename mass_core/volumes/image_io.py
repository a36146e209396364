"""Image files and DICOM folders, read and written through SimpleITK; every way they can be wrong has a message of its own."""

import gzip
import math
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError, InputError, OutputError
from .nifti import not_numbers

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
"""Formats that can be written."""

_TILT_TOLERANCE = 0.02
"""Sideways step from slice to slice, in slice distances, from which a series counts as tilted (about 1 degree)."""
_GAP_TOLERANCE = 0.1
"""Deviation of one slice distance from the usual one that is still read as an even spacing."""


def read_image(path: Path, frame: int | None = None) -> sitk.Image:
    """Read one volume: a scalar image of three dimensions.

    Args:
        path: Image file, or folder with one DICOM series.
        frame: Which volume of a 4D file, or component of a vector image, counted from 0.

    Raises:
        InputError: when it is missing, no image, damaged, or not one volume.
        GeometryError: when the voxels do not lie on a regular straight grid.
    """
    if not path.exists():
        raise InputError(f"There is no file {path}.", "Check the spelling and the folder.")
    with _quiet():
        return _read_series(path, frame) if path.is_dir() else _read_file(path, frame)


def write_image(image: sitk.Image, path: Path) -> None:
    """Write an image so that `path` is either complete or as it was before.

    Raises:
        OutputError: for an unknown format, a missing or read-only folder, a full disk.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise OutputError(f"{path.name} has no ending that names an image format.", f"Use one of {', '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise OutputError(f"The folder {path.parent} does not exist.", "Create it or choose another.")
    try:
        workplace = Path(tempfile.mkdtemp(prefix=".mass-", dir=path.parent))
    except OSError as error:
        raise OutputError(f"Cannot write into {path.parent}: {error.strerror}.", "Choose a folder you may write to.") from error
    try:
        # .mhd names its data file inside, so both are written under their final names in a folder of their own.
        sitk.WriteImage(image, str(workplace / path.name), useCompression=path.suffix.lower() != ".mhd")
        if _is_cut_off(workplace / path.name):
            raise OSError("the disk is full.")
        for part in sorted(workplace.iterdir(), key=lambda p: p.name == path.name):
            os.replace(part, path.parent / part.name)
    except (RuntimeError, OSError) as error:
        reason = _reason(error).rstrip(".")
        raise OutputError(f"Cannot write {path}: {reason}.", "Check the free space and the rights of the folder.") from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)


def _is_cut_off(path: Path) -> bool:
    """Whether a NIfTI file ends too early; ITK neither notices it in reading (voxels become 0) nor in writing to a full disk."""
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return False
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if compressed else path.open("rb") as stream:
            wanted = _nifti_length(stream.read(352))
        if not compressed:
            return path.stat().st_size < wanted
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            (claimed,) = struct.unpack("<I", file.read(4))
        # The last four bytes hold the length, if one piece was compressed; else it has to be counted.
        return claimed != wanted % (1 << 32) and _uncompressed_length(path) < wanted
    except (EOFError, OSError, zlib.error, struct.error):
        return True


def _nifti_length(header: bytes) -> int:
    """Bytes a NIfTI-1 or NIfTI-2 file has at least, by its header (https://nifti.nimh.nih.gov)."""
    order = "<" if header[:4] in (b"\x5c\x01\x00\x00", b"\x1c\x02\x00\x00") else ">"
    (version,) = struct.unpack(order + "i", header[:4])
    if version == 540:
        (bits,), dims, (offset,) = (struct.unpack_from(order + form, header, at) for form, at in (("h", 14), ("8q", 16), ("q", 168)))
    else:
        dims, (bits,), (offset,) = (struct.unpack_from(order + form, header, at) for form, at in (("8h", 40), ("h", 72), ("f", 108)))
    return int(offset) + math.prod(max(1, n) for n in dims[1 : 1 + dims[0]]) * bits // 8


def _uncompressed_length(path: Path) -> int:
    length = 0
    with gzip.open(path) as file:
        while chunk := file.read(1 << 20):
            length += len(chunk)
    return length


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ITK's warnings off the terminal; what matters is checked here."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _read_file(path: Path, frame: int | None) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        _check_one_volume(path, size, reader.GetNumberOfComponents(), frame)
        if len(size) == 4:
            reader.SetExtractSize([*size[:3], 0])
            reader.SetExtractIndex([0, 0, 0, frame or 0])
        if _is_cut_off(path):
            raise _damaged(path, "it ends too early")
        if (found := not_numbers(path)) is not None:
            raise _not_numbers(path, *found)
        image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        image = sitk.VectorIndexSelectionCast(image, frame or 0)
    if "complex" in image.GetPixelIDTypeAsString():
        raise InputError(f"{path} holds complex numbers.", "Save the magnitude image and use that.")
    return image


def _not_numbers(path: Path, count: int, first: tuple[int, ...]) -> InputError:
    return InputError(
        f"{count} voxels of {path} are not numbers (NaN or infinite), the first at index x, y, z {first}.",
        "Replace them in the file, for instance by the lowest value of the image.",
    )


def _check_one_volume(path: Path, size: tuple[int, ...], components: int, frame: int | None) -> None:
    """Refuse what is not one volume, and a frame choice that does not fit."""
    if len(size) < 3 or min(size[:3]) < 2:
        raise InputError(
            f"{path} is flat ({' x '.join(map(str, size))}), a volume is needed.",
            "Give a 3D file; for DICOM slices give the folder that holds the series.",
        )
    if len(size) > 4 or (len(size) == 4 and components > 1):
        raise InputError(f"{path} has {len(size)} dimensions and {components} values a voxel.", "Save one 3D volume of it.")
    count, what = (size[3], "volumes") if len(size) == 4 else (components, "values a voxel")
    if frame is None and count > 1:
        cure = f"Choose one of them with frame 0 to {count - 1}, or save it as a 3D file."
        if path.name.endswith(".seg.nrrd"):
            cure = "Its segments overlap; export them as a label map, or choose a layer with frame."
        raise InputError(f"{path} holds {count} {what}.", cure)
    if frame is not None and not 0 <= frame < count:
        raise InputError(f"Frame {frame} is asked for, {path} has {count}.", f"Choose a frame from 0 to {count - 1}.")


def _unreadable(path: Path, error: RuntimeError) -> InputError | GeometryError:
    """What a failure of SimpleITK means for the user."""
    text = str(error)
    if "rthonormal" in text:
        return GeometryError(
            f"The axes of {path} are not at right angles (sheared affine), so its voxels are no straight grid.",
            "Resample it onto a straight grid first, for instance with 3D Slicer's Resample modules or with `mri_convert`.",
        )
    if "Unable to determine ImageIO" in text:
        what = "is empty" if path.stat().st_size == 0 else "is not an image in a known format"
        return InputError(f"{path} {what}.", "Give NIfTI, NRRD or MetaImage, or a folder of DICOM slices.")
    return _damaged(path, _reason(error))


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path} cannot be read, it seems to be damaged or cut off: {reason.rstrip('.')}.", "Fetch or export it once more.")


def _reason(error: Exception) -> str:
    """The last, most specific line of an error of SimpleITK."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _read_series(folder: Path, frame: int | None) -> sitk.Image:
    names = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not names:
        raise InputError(f"The folder {folder} holds no DICOM series.", "Give the folder that contains the slices themselves, or a file.")
    if len(names) > 1:
        listing = "; ".join(_series_title(folder, name) for name in names)
        raise InputError(f"The folder {folder} holds {len(names)} DICOM series: {listing}.", "Put the one to use into a folder of its own.")
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), names[0])
    if len(files) == 1:
        return _read_file(Path(files[0]), frame)
    if frame:
        raise InputError(f"Frame {frame} is asked for, the series in {folder} is one volume.", "Leave the frame out.")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    reader.MetaDataDictionaryArrayUpdateOn()
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(folder, error) from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(f"The DICOM series in {folder} is a colour picture.", "Give the original series, not a screenshot.")
    positions = [reader.GetMetaData(i, "0020|0032") for i in range(len(files)) if reader.HasMetaDataKey(i, "0020|0032")]
    if len(positions) == len(files):
        _check_slices(folder, np.array([[float(v) for v in p.split("\\")] for p in positions]), image)
    if reader.HasMetaDataKey(0, "0008|0060"):
        image.SetMetaData("0008|0060", reader.GetMetaData(0, "0008|0060"))
    return image


def _series_title(folder: Path, name: str) -> str:
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), name)
    reader = sitk.ImageFileReader()
    reader.SetFileName(files[0])
    reader.ReadImageInformation()
    title = reader.GetMetaData("0008|103e").strip() if reader.HasMetaDataKey("0008|103e") else name
    return f"{title or name} ({len(files)} files)"


def _check_slices(folder: Path, positions: np.ndarray, image: sitk.Image) -> None:
    """Refuse slices that are no straight stack of even distance; positions [slices, 3] in LPS mm, in stacking order."""
    normal = np.reshape(image.GetDirection(), (3, 3))[:, 2]
    steps = np.diff(positions, axis=0)
    along = np.abs(steps @ normal)
    usual = float(np.median(along))
    if along.min() < 0.01 * max(usual, 1e-3):
        raise InputError(
            f"The DICOM series in {folder} has several slices at one place: it holds more than one volume (times, echoes, phases).",
            "Put the slices of one volume into a folder of its own.",
        )
    sideways = np.linalg.norm(steps - np.outer(steps @ normal, normal), axis=1)
    if sideways.max() > max(_TILT_TOLERANCE * usual, 0.02):
        raise GeometryError(
            f"The slices in {folder} are shifted against each other (tilted gantry), so the voxels are no straight grid.",
            "Straighten the series first, for instance by loading it into 3D Slicer, which regularises it, and saving it.",
        )
    worst = int(np.argmax(np.abs(along - usual)))
    if abs(along[worst] - usual) > _GAP_TOLERANCE * usual:
        raise GeometryError(
            f"The slices in {folder} are {usual:.3g} mm apart, but {along[worst]:.3g} mm between slice {worst + 1} and {worst + 2}.",
            "Slices are missing or of mixed thickness: export the whole series, or one with even slices.",
        )
