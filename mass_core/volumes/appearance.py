"""Names, colours and coded meanings of labels, where a segmentation file carries them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..colors import LabelStyle, distinct, read_color
from . import dicom_frames, nifti
from .boxes import Box, label_boxes
from .dicom_series import image_header
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
    return nifti.label_styles(path) or dicom_frames.label_styles(path)


def header_fields(path: Path) -> dict[str, str]:
    """The header fields of an image file; none if it cannot be read, which reading the voxels reports."""
    try:
        return image_header(path)
    except RuntimeError:
        return {}


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
        style = LabelStyle(name=name, color=read_color(fields.get(f"{segment}Color", "")), terminology=terminology)
        layer = fields.get(f"{segment}Layer", "0").strip()
        found.append(Segment(number=place, value=int(value), layer=int(layer) if layer.isdigit() else 0, appearance=style))
    distinct_values = len({segment.value for segment in found}) == len(found)
    return [replace(segment, number=segment.value) for segment in found] if distinct_values else found


def write_labels(labels: Volume, styles: Mapping[int, LabelStyle], path: Path) -> None:
    """Write a label map; a .seg.nrrd also holds names and colours of its labels.

    Raises:
        OutputError: when that is not possible; nothing is left behind then.
    """
    labels.write(path, fields_of(styles, label_boxes(labels.array)) if path.name.lower().endswith(".seg.nrrd") else {})


def fields_of(styles: Mapping[int, LabelStyle], boxes: Mapping[int, Box]) -> dict[str, str]:
    """Header fields that make a label map a segmentation of 3D Slicer; labels without a box, that is without voxels, are left out."""
    fields = {
        "Segmentation_SourceRepresentation": "Binary labelmap",
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for number, (value, style) in enumerate((value, style) for value, style in styles.items() if value in boxes):
        (z0, y0, x0), (z1, y1, x1) = boxes[value]
        tags = [f"{_TERMINOLOGY}{style.terminology}"] if style.terminology else []
        values = {
            "ID": f"Segment_{value}",
            "Name": style.name,
            "Color": " ".join(f"{channel:.6g}" for channel in style.color or distinct(number)),
            "Extent": f"{x0} {x1 - 1} {y0} {y1 - 1} {z0} {z1 - 1}",
            "LabelValue": str(value),
            "Layer": "0",
            "Tags": "".join(f"{tag}|" for tag in [*tags, "Segmentation.Status:inprogress"]),
        }
        fields |= {f"Segment{number}_{name}": text for name, text in values.items()}
    return fields
