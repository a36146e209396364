"""Names, colours and coded meanings of labels, where a segmentation file carries them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from ..colors import distinct
from .components import label_boxes
from .volume import Box, Volume

_TERMINOLOGY = "TerminologyEntry:"


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """How a label is called and shown."""

    name: str
    color: tuple[float, float, float] | None = None
    """Red, green, blue from 0 to 1."""
    terminology: str = ""
    """Coded meaning, as 3D Slicer writes it."""


def read_appearance(path: str | Path) -> dict[int, Appearance]:
    """What 3D Slicer's .seg.nrrd says about its segments, by label value; nothing for other files.

    The fields are those of https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html (Segment0_Name and so on).
    """
    path = Path(path)
    if not path.is_file() or not path.name.lower().endswith(".nrrd"):
        return {}
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return {}  # whoever reads the voxels says what is wrong with the file
    return appearance_of({key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()})


def appearance_of(fields: Mapping[str, str]) -> dict[int, Appearance]:
    """Appearance by label value from the header fields of a .seg.nrrd."""
    found: dict[int, Appearance] = {}
    for key, value in fields.items():
        match = re.fullmatch(r"Segment(\d+)_LabelValue", key)
        if match and value.strip().isdigit():
            segment = f"Segment{match[1]}_"
            name = fields.get(f"{segment}Name", "").strip() or f"label {int(value)}"
            tags = fields.get(f"{segment}Tags", "").split("|")
            terminology = next((tag.removeprefix(_TERMINOLOGY) for tag in tags if tag.startswith(_TERMINOLOGY)), "")
            found[int(value)] = Appearance(name=name, color=_color(fields.get(f"{segment}Color", "")), terminology=terminology)
    return found


def write_labels(labels: Volume, looks: Mapping[int, Appearance], path: Path) -> None:
    """Write a label map; a .seg.nrrd also says how its labels are called and shown.

    Raises:
        OutputError: when that is not possible; nothing is left behind then.
    """
    named = path.name.lower().endswith(".seg.nrrd")
    labels.write(path, fields_of(looks, label_boxes(labels.array)) if named else {})


def fields_of(looks: Mapping[int, Appearance], boxes: Mapping[int, Box]) -> dict[str, str]:
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
