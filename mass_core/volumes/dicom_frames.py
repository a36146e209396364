"""DICOM files of many frames: Enhanced images and segmentations, every frame placed by its own position. Needs pydicom.

Pixels and geometry are read with pydicom alone: many files in use lack attributes that stricter readers insist on.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..colors import LabelStyle
from ..errors import GeometryError, InputError
from .dicom_stack import Plane, stacked

_SEGMENTATION, _LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
_CONTOURS = "1.2.840.10008.5.1.4.1.1.481.3"
_SIGNS = {
    "TemporalPositionIndex": "FrameContentSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "StackID": "FrameContentSequence",
    "FrameType": "MRImageFrameTypeSequence",
    "DimensionIndexValues": "FrameContentSequence",
}
"""Attributes that may distinguish volumes of one file, and the functional group of each; the last one without its last index."""


def is_dicom(path: Path) -> bool:
    """True if a file begins like a DICOM file."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def kind(path: Path) -> str:
    """Kind of content of a DICOM file.

    Returns:
        `segmentation`, `contours`, `frames`, many of known positions, `frames without place`, `no image` of reports and the like;
        empty: a plain slice, or no DICOM file.
    """
    if not path.is_file() or not is_dicom(path):
        return ""
    with _read(path, stop_before_pixels=True) as data:
        sop = str(data.get("SOPClassUID", ""))
        if sop in (_SEGMENTATION, _LABEL_MAP):
            return "segmentation"
        if sop == _CONTOURS:
            return "contours"
        if "Rows" not in data:
            return "no image"
        if int(data.get("NumberOfFrames", 1) or 1) < 2:
            return ""
        return "frames" if "PerFrameFunctionalGroupsSequence" in data else "frames without place"


def read_frames(path: Path, frame: int | None) -> sitk.Image:
    """The volume of an Enhanced multi-frame file, or one of its volumes.

    Raises:
        InputError: if it is in colour or damaged, or holds several volumes and none is chosen.
        GeometryError: if its frames do not form an even, straight stack.
    """
    with _read(path) as data:
        planes = _planes(path, data)
        order = stacked(f"the file {path}", "frame", planes, frame)
        pixels = _pixels(path, data)[order]
        scales = [_scale(data, i) for i in order]
        if set(scales) != {(1.0, 0.0)}:
            slopes, intercepts = (np.array(column, np.float32)[:, None, None] for column in zip(*scales, strict=True))
            pixels = pixels.astype(np.float32) * slopes + intercepts
        step = np.array(planes[order[-1]].position) - planes[order[0]].position
        image = _placed(pixels, planes[order[0]], step / max(1, len(order) - 1))
        image.SetMetaData("0008|0060", str(data.get("Modality", "")))
        return image


def label_styles(path: Path) -> dict[int, LabelStyle]:
    """Names and colours of the segments of a DICOM segmentation, by number; none of other files."""
    if kind(path) != "segmentation":
        return {}
    with _read(path, stop_before_pixels=True) as data:
        found = {}
        for segment in sorted(data.get("SegmentSequence", []), key=lambda segment: int(segment.SegmentNumber)):
            number = int(segment.SegmentNumber)
            name = str(segment.get("SegmentLabel", "")).strip() or f"label {number}"
            found[number] = LabelStyle(name=name, color=_rgb(segment.get("RecommendedDisplayCIELabValue")))
        return found


def read_layers(path: Path) -> list[sitk.Image]:
    """Label maps of a DICOM segmentation, its segments by their numbers; those that overlap are in different maps.

    Raises:
        InputError: if it is damaged.
        GeometryError: if its frames lie on no regular grid.
    """
    with _read(path) as data:
        planes = _planes(path, data)
        levels, step = _levels(path, planes, data)
        pixels = _pixels(path, data)
        if data.get("SegmentationType") == "FRACTIONAL":
            pixels = pixels >= int(data.get("MaximumFractionalValue", 255)) / 2
        numbers = [_group(data, i, "SegmentIdentificationSequence", "ReferencedSegmentNumber") for i in range(len(planes))]
        layers = _layers(pixels, numbers, levels)
        first = planes[int(np.argmin(levels))]
        return [_placed(layer, first, step) for layer in layers]


def _layers(pixels: np.ndarray, numbers: Sequence[Any], levels: np.ndarray) -> list[np.ndarray]:
    """Each segment in the first label map [z, y, x] where it overlaps none."""
    shape = (int(levels.max()) + 1, *pixels.shape[1:])
    if any(number is None for number in numbers):  # a label map in itself
        whole = np.zeros(shape, np.uint16)
        whole[levels] = pixels
        return [whole]
    layers: list[np.ndarray] = []
    of_frames = np.array(numbers, int)
    for number in np.unique(of_frames):
        mask = np.zeros(shape, bool)
        for i in np.flatnonzero(of_frames == number):
            mask[levels[i]] |= pixels[i] > 0
        free = next((layer for layer in layers if not layer[mask].any()), None)
        if free is None:
            free = np.zeros(shape, np.uint16)
            layers.append(free)
        free[mask] = number
    return layers


def _levels(path: Path, planes: Sequence[Plane], data: Any) -> tuple[np.ndarray, np.ndarray]:
    """The plane of the grid each frame lies in, from 0, and the way from plane to plane; planes may have no frame.

    Raises:
        GeometryError: if the frames are turned against each other or lie between planes.
    """
    normal = planes[0].normal
    positions = np.array([plane.position for plane in planes])
    heights = (positions - positions[0]) @ normal
    steps = np.diff(np.unique(np.round(heights, 3)))
    stated = _group(data, 0, "PixelMeasuresSequence", "SpacingBetweenSlices") or _group(data, 0, "PixelMeasuresSequence", "SliceThickness")
    edge = float(steps.min()) if steps.size else float(stated or 1.0)
    levels = (heights - heights.min()) / edge
    aside = np.linalg.norm(positions - positions[0] - np.outer(heights, normal), axis=1).max()
    turned = max(np.abs(np.subtract(plane.axes, planes[0].axes)).max() for plane in planes)
    if np.abs(levels - np.round(levels)).max() > 0.1 or aside > 0.02 * edge + 0.02 or turned > 5e-3:
        raise GeometryError(f"The frames of {path} do not lie on one regular grid.", "Export it again, for instance from 3D Slicer.")
    return np.round(levels).astype(int), normal * edge


def _planes(path: Path, data: Any) -> list[Plane]:
    """Position of every frame."""
    planes = []
    for i in range(int(data.get("NumberOfFrames", 1) or 1)):
        position = _group(data, i, "PlanePositionSequence", "ImagePositionPatient")
        axes = _group(data, i, "PlaneOrientationSequence", "ImageOrientationPatient")
        spacing = _group(data, i, "PixelMeasuresSequence", "PixelSpacing")
        if position is None or axes is None or spacing is None:
            raise GeometryError(
                f"Frame {i + 1} of {path} has no position, orientation or pixel spacing, so it cannot be placed.",
                "Export the series again, or as slices.",
            )
        signs = {name: _sign(name, _group(data, i, group, name)) for name, group in _SIGNS.items()}
        planes.append(
            Plane(
                name=f"frame {i + 1}",
                position=tuple(map(float, position)),
                axes=tuple(map(float, axes)),
                spacing=tuple(map(float, spacing)),
                size=(int(data.Rows), int(data.Columns)),
                signs=signs,
            )
        )
    return planes


def _sign(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if name == "DimensionIndexValues":  # the last index is that of the place, as a rule
        value = list(value)[:-1] if hasattr(value, "__len__") else []
    return str(list(value)) if not isinstance(value, str) and hasattr(value, "__iter__") else str(value)


def _group(data: Any, i: int, sequence: str, name: str) -> Any:
    """An attribute of a functional group of frame i, or of all frames; None: it is not there."""
    for groups in (data.get("PerFrameFunctionalGroupsSequence"), data.get("SharedFunctionalGroupsSequence")):
        if groups:
            group = groups[i if len(groups) > 1 else 0].get(sequence)
            if group and group[0].get(name) is not None:
                return group[0].get(name)
    return None


def _scale(data: Any, i: int) -> tuple[float, float]:
    """Slope and intercept of a frame."""
    slope, intercept = (
        data.get(name) if (own := _group(data, i, "PixelValueTransformationSequence", name)) is None else own
        for name in ("RescaleSlope", "RescaleIntercept")
    )
    return float(1 if slope is None else slope), float(intercept or 0)


def _pixels(path: Path, data: Any) -> np.ndarray:
    """Stored values [frame, row, column]."""
    if int(data.get("SamplesPerPixel", 1)) != 1:
        raise InputError(f"{path} is a colour picture.", "Give the original series, not a screenshot.")
    try:
        return np.asarray(data.pixel_array).reshape(-1, int(data.Rows), int(data.Columns))
    except (AttributeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"The frames of {path} cannot be decoded: {str(error).splitlines()[0]}.",
            "Store it uncompressed, with dcmdjpeg or gdcmconv --raw, say, or copy it again.",
        ) from error


def _placed(array: np.ndarray, first: Plane, step: np.ndarray) -> sitk.Image:
    """An array [z, y, x] whose first plane and way from plane to plane are known."""
    image = sitk.GetImageFromArray(array.astype(np.uint8) if array.dtype == bool else array)
    edge = float(np.linalg.norm(step)) or 1.0
    image.SetSpacing((first.spacing[1], first.spacing[0], edge))
    image.SetOrigin(first.position)
    normal = step / edge if np.any(step) else first.normal
    image.SetDirection(np.column_stack([first.axes[:3], first.axes[3:], normal]).ravel().tolist())
    return image


def _rgb(lab: Sequence[int] | None) -> tuple[float, float, float] | None:
    """Red, green, blue from 0 to 1 of a CIELab colour as DICOM stores it, three numbers up to 65535 (PS3.3 C.10.7.1.1, white of D50)."""
    if not lab or len(lab) != 3:
        return None
    lightness, a, b = lab[0] / 65535 * 100, lab[1] / 65535 * 255 - 128, lab[2] / 65535 * 255 - 128
    y = (lightness + 16) / 116
    cubes = [t**3 if t > 6 / 29 else 3 * (6 / 29) ** 2 * (t - 4 / 29) for t in (y + a / 500, y, y - b / 200)]
    x, y, z = (cube * white for cube, white in zip(cubes, (0.9642, 1.0, 0.8249), strict=True))
    linear = (
        3.1338561 * x - 1.6168667 * y - 0.4906146 * z,
        -0.9787684 * x + 1.9161415 * y + 0.0334540 * z,
        0.0719453 * x - 0.2289914 * y + 1.4052427 * z,
    )
    red, green, blue = (12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055 for c in (min(1.0, max(0.0, c)) for c in linear))
    return red, green, blue


@contextmanager
def _read(path: Path, **options: Any) -> Iterator[Any]:
    """A file as read by pydicom, with errors for what it cannot read."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        yield pydicom.dcmread(path, **options)
    except (InvalidDicomError, AttributeError, KeyError, EOFError) as error:
        raise InputError(f"{path} cannot be read as DICOM: {error}.", "Copy or export it again.") from error
