"""Names, colours and coded meanings of labels, where a segmentation file carries them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import SimpleITK as sitk

from ..colors import LabelStyle, distinct
from . import dicom_frames, nifti
from .boxes import Box, label_boxes
from .image_io import check_name
from .volume import Volume

_TERMINOLOGY = "TerminologyEntry:"


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One segment of a .seg.nrrd."""

    number: int
    """Its own in the whole file: the value, unless segments of several layers share one; then its place in the file, from 1."""
    value: int
    """Of its voxels."""
    layer: int
    appearance: LabelStyle


def read_appearance(path: str | Path) -> dict[int, LabelStyle]:
    """Names and colours by label value from a segmentation of 3D Slicer (.seg.nrrd), DICOM or TotalSegmentator.

    Nothing for other files.

    The fields are those of https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html (Segment0_Name and so on).
    """
    path = Path(path)
    check_name(path)
    if path.is_file() and path.name.lower().endswith(".nrrd"):
        return appearance_of(header_fields(path))
    if named := nifti.label_names(path):
        return {value: LabelStyle(name=name, color=color) for value, (name, color) in named.items()}
    return {segment.number: LabelStyle(name=segment.name, color=_rgb(segment.lab)) for segment in dicom_frames.segments(path)}


def header_fields(path: Path) -> dict[str, str]:
    """The header fields of an image file; none if it cannot be read, which whoever reads the voxels says."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return {}
    return {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}


def appearance_of(fields: Mapping[str, str]) -> dict[int, LabelStyle]:
    """Appearance by label value from the header fields of a .seg.nrrd."""
    return {segment.number: segment.appearance for segment in segments_of(fields)}


def segments_of(fields: Mapping[str, str]) -> list[Segment]:
    """The segments of a .seg.nrrd from its header fields, as the file has them."""
    found: list[Segment] = []
    keys = [match for key in fields if (match := re.fullmatch(r"Segment(\d+)_LabelValue", key))]
    for place, match in enumerate(sorted(keys, key=lambda match: int(match[1])), start=1):
        value = fields[match[0]].strip()
        if not value.isdigit():
            continue
        segment = f"Segment{match[1]}_"
        name = fields.get(f"{segment}Name", "").strip() or f"label {int(value)}"
        tags = fields.get(f"{segment}Tags", "").split("|")
        terminology = next((tag.removeprefix(_TERMINOLOGY) for tag in tags if tag.startswith(_TERMINOLOGY)), "")
        look = LabelStyle(name=name, color=_color(fields.get(f"{segment}Color", "")), terminology=terminology)
        layer = fields.get(f"{segment}Layer", "0").strip()
        found.append(Segment(number=place, value=int(value), layer=int(layer) if layer.isdigit() else 0, appearance=look))
    distinct_values = len({segment.value for segment in found}) == len(found)
    return [replace(segment, number=segment.value) for segment in found] if distinct_values else found


def write_labels(labels: Volume, looks: Mapping[int, LabelStyle], path: Path) -> None:
    """Write a label map; a .seg.nrrd also holds names and colours of its labels.

    Raises:
        OutputError: when that is not possible; nothing is left behind then.
    """
    named = path.name.lower().endswith(".seg.nrrd")
    labels.write(path, fields_of(looks, label_boxes(labels.array)) if named else {})


def fields_of(looks: Mapping[int, LabelStyle], boxes: Mapping[int, Box]) -> dict[str, str]:
    """Header fields that make a label map a segmentation of 3D Slicer; labels without a box, that is without voxels, are left out."""
    fields = {
        "Segmentation_SourceRepresentation": "Binary labelmap",
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for number, (value, look) in enumerate((value, look) for value, look in looks.items() if value in boxes):
        (z0, y0, x0), (z1, y1, x1) = boxes[value]
        tags = [f"{_TERMINOLOGY}{look.terminology}"] if look.terminology else []
        values = {
            "ID": f"Segment_{value}",
            "Name": look.name,
            "Color": " ".join(f"{channel:.6g}" for channel in look.color or distinct(number)),
            "Extent": f"{x0} {x1 - 1} {y0} {y1 - 1} {z0} {z1 - 1}",
            "LabelValue": str(value),
            "Layer": "0",
            "Tags": "".join(f"{tag}|" for tag in [*tags, "Segmentation.Status:inprogress"]),
        }
        fields |= {f"Segment{number}_{name}": text for name, text in values.items()}
    return fields


def _color(text: str) -> tuple[float, float, float] | None:
    numbers = re.findall(r"\d*\.?\d+(?:[eE][-+]?\d+)?", text)
    if len(numbers) != 3:
        return None
    red, green, blue = (min(1.0, float(number)) for number in numbers)
    return red, green, blue


def _rgb(lab: tuple[int, int, int] | None) -> tuple[float, float, float] | None:
    """Red, green, blue from 0 to 1 of a CIELab colour as DICOM stores it (PS3.3 C.10.7.1.1, white of D50)."""
    if lab is None:
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
