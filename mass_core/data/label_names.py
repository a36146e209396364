"""Label names in a `dataset.json`: value to name as in MSD, or name to value as in nnU-Net."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_json


def label_names(labels: Mapping[str, Any]) -> dict[int, str]:
    """Name of each value above 0.

    A region of nnU-Net is a list of values; each value is called like the smallest region it belongs to.

    Raises:
        ValueError: if values are not whole numbers, or some of them mark voxels to be ignored.
    """
    if all(str(key).lstrip("-").isdigit() for key in labels):
        return {int(value): str(name) for value, name in labels.items() if int(value) > 0}
    if "ignore" in labels:
        raise ValueError("voxels with the label 'ignore' are not annotated, which label maps here cannot express")
    regions = {name: [int(value) for value in (values if isinstance(values, list) else [values])] for name, values in labels.items()}
    smallest_last = sorted(regions.items(), key=lambda item: -len(item[1]))
    return dict(sorted({value: name for name, values in smallest_last for value in values if value > 0}.items()))


def names_beside(folder: Path) -> dict[int, str]:
    """Label names from the `dataset.json` in a folder of label maps, or in the folder above; empty: there is none.

    Raises:
        InputError: if there is one that cannot be understood.
    """
    path = next((place / "dataset.json" for place in (folder, folder.resolve().parent) if (place / "dataset.json").is_file()), None)
    if path is None:
        return {}
    cure = 'It looks like {"labels": {"1": "liver"}} or {"labels": {"liver": 1}}.'
    try:
        return label_names(read_json(path, cure)["labels"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} does not name its labels: {error}.", cure) from error
