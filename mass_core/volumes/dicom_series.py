"""Series of DICOM slices: the one of a folder, read in the order of their positions."""

from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from ..errors import GeometryError, InputError
from . import dicom_frames
from .dicom_stack import Plane, stacked

_RESCALE = ("0028|1053", "0028|1052")
"""Tags of slope and intercept."""
_SIGNS = {
    "0018|0081": "EchoTime",
    "0020|0100": "TemporalPositionIdentifier",
    "0018|9087": "DiffusionBValue",
    "0018|1060": "TriggerTime",
    "0020|0012": "AcquisitionNumber",
    "0008|0008": "ImageType",
}
"""Attributes that may distinguish volumes of one series."""


def files_of(folder: Path) -> list[Path]:
    """The files of the one series in a folder.

    Raises:
        InputError: if there is none, or several.
    """
    names = [name for name in _series(folder) if _has_pixels(folder, name)]
    if not names:
        refuse_contours(sorted(path for path in folder.iterdir() if path.is_file()))
        raise InputError(f"The folder {folder} holds no DICOM series.", "Give the folder that contains the slices themselves, or a file.")
    if len(names) > 1:
        listing = "; ".join(_series_title(folder, name) for name in names)
        raise InputError(f"The folder {folder} holds {len(names)} DICOM series: {listing}.", "Give one of the files of the one to use.")
    return _files(folder, names[0])


def series_of(file: Path) -> list[Path]:
    """The slices of the series that a slice belongs to; of any other file itself alone."""
    if not dicom_frames.is_dicom(file) or dicom_frames.kind(file) not in ("", "one frame"):
        return [file]
    folder = file.absolute().parent
    every = (_files(folder, name) for name in _series(folder))
    return next((files for files in every if file.name in {other.name for other in files}), [file])


def read_slices(folder: Path, files: Sequence[Path], frame: int | None) -> sitk.Image:
    """The volume of a series, or one of its volumes.

    Args:
        folder: for messages.
        files: two or more.
        frame: which volume is meant, from 0; None: the only one.

    Raises:
        InputError: if it is in colour, has a slice twice, or holds several volumes and none is chosen.
        GeometryError: if the slices do not say where they lie, or do not form an even, straight stack.
        RuntimeError: if a file is damaged.
    """
    headers = [image_header(file) for file in files]
    if any(header.get("0028|0002", "1") != "1" for header in headers):
        raise InputError(f"The DICOM series in {folder} is a colour picture.", "Give the original series, not a screenshot.")
    planes = [_plane(file, header) for file, header in zip(files, headers, strict=True)]
    known = [plane for plane in planes if plane is not None]
    if len(known) < len(planes):
        if all(dicom_frames.kind(file) in ("frames", "one frame") for file in files):
            return dicom_frames.read_frames(files, frame, f"the DICOM series in {folder}")
        raise GeometryError(
            f"{len(planes) - len(known)} of the {len(planes)} slices in {folder} have no position, orientation or pixel spacing, so their "
            "place and order are not known.",
            "Export the original series; secondary captures and some anonymisers leave them out.",
        )
    order = stacked(f"the DICOM series in {folder}", "slice", known, frame)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(files[i]) for i in order])
    rescaling = [tuple(headers[i].get(tag, "") for tag in _RESCALE) for i in order]
    if ("", "") in rescaling and any(float(slope or 1) != 1 or float(intercept or 0) != 0 for slope, intercept in rescaling):
        raise InputError(
            f"{rescaling.count(('', ''))} of the {len(order)} slices in {folder} have no Rescale Slope and Rescale Intercept, so their "
            "intensities are not known.",
            "Export the original series.",
        )
    if len(set(rescaling)) > 1:
        reader.SetOutputPixelType(sitk.sitkFloat32)  # else the first slice would say what numbers the others may have
    image = reader.Execute()
    if any(header.get("0028|0004") == "MONOCHROME1" for header in headers):
        image = dicom_frames.with_stored_values(image, [files[i] for i in order])
    image.SetMetaData("0008|0060", headers[order[0]].get("0008|0060", ""))
    return image


def unread(folder: Path, read: Sequence[Path]) -> list[str]:
    """Names of the DICOM files of a folder that cannot be read, and so belong to no series; `read` are those of one series."""
    known = {file.name for file in read} | {"DICOMDIR"}
    others = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name not in known]
    slices = [path.name for path in others if path.suffix.lower() in (".dcm", ".ima") or dicom_frames.is_dicom(path)]
    readable = {file.name for name in _series(folder) for file in _files(folder, name)} if slices else set()
    return [name for name in slices if name not in readable and dicom_frames.may_be_slice(folder / name)]


def check_name(path: Path) -> None:
    """Check that ITK can take the name."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise InputError(f"The name {shown} is not UTF-8, so the file cannot be opened.", "Rename it.") from error


def image_header(file: Path) -> dict[str, str]:
    """The header fields of an image file, of a DICOM slice by tag.

    Raises:
        RuntimeError: if it cannot be read.
    """
    reader = image_reader(file)
    return {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys()}


def image_reader(file: Path) -> sitk.ImageFileReader:
    """A reader of an image file that has read its header.

    Raises:
        RuntimeError: if it cannot be read.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    return reader


def refuse_contours(files: Sequence[Path]) -> None:
    """Refuse radiotherapy contours, which are not voxels, and say what to do instead.

    Raises:
        InputError: if one of the files holds contours.
    """
    for path in files:
        if dicom_frames.kind(path) == "contours":
            raise InputError(
                f"{path} holds contours (RTSTRUCT), not voxels.",
                "Load it into 3D Slicer with the SlicerRT extension, and save the segmentation as .seg.nrrd.",
            )


def _plane(file: Path, header: dict[str, str]) -> Plane | None:
    """Position of a slice; None: its header does not say."""
    try:
        position, axes, spacing = (tuple(map(float, header[tag].split("\\"))) for tag in ("0020|0032", "0020|0037", "0028|0030"))
    except (KeyError, ValueError):
        return None
    if (len(position), len(axes), len(spacing)) != (3, 6, 2):
        return None
    size = int(header.get("0028|0010", 0)), int(header.get("0028|0011", 0))
    signs = {name: header.get(tag) for tag, name in _SIGNS.items()}
    return Plane(name=file.name, position=position, axes=axes, spacing=spacing, size=size, signs=signs)


def _series(folder: Path) -> list[str]:
    """The series in a folder.

    Raises:
        InputError: for a name that is not UTF-8, with which SimpleITK ends the whole process.
    """
    for path in folder.iterdir():
        check_name(path)
    return list(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def _has_pixels(folder: Path, name: str) -> bool:
    """True if a series holds images, not contours, reports or presentation states."""
    files = _files(folder, name)
    return bool(files) and (len(files) > 1 or dicom_frames.kind(files[0]) not in ("contours", "no image"))


def _files(folder: Path, name: str) -> list[Path]:
    """The files of a series, as GDCM sorts them."""
    return [Path(file) for file in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), name)]


def _series_title(folder: Path, name: str) -> str:
    """Its description, and which files it has."""
    files = sorted(_files(folder, name))
    title = image_header(files[0]).get("0008|103e", "") or name
    which = files[0].name if len(files) == 1 else f"{files[0].name} … {files[-1].name}"
    return f"{title} ({len(files)} file{'s' * (len(files) > 1)}, {which})"
