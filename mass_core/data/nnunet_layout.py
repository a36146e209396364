"""Export of datasets to the layout of nnU-Net version 2.

Layout: scans of the splits train and val in `imagesTr/<case>_0000.nii.gz` with `labelsTr/<case>.nii.gz`, those of the split test in
`imagesTs` and `labelsTs`, and beside them `dataset.json` and `splits_final.json` with one fold. nnU-Net looks for the latter in its folder
of preprocessed datasets. Images are normalised already: their channel is called `noNorm`, which nnU-Net takes as it is.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, OutputError
from ..files import write_bytes
from ..volumes.volume import Geometry, Volume
from .dataset import Case, Dataset, read_json, write_json

ENDING = ".nii.gz"
_STATE = ".mass-export"
"""Folder of what an export has done so far."""
_PARTS = {"train": "Tr", "val": "Tr", "test": "Ts"}


def numbering(dataset: Dataset) -> dict[int, int]:
    """Number of each label value in nnU-Net, which needs consecutive numbers: the values all label maps hold, in their order, from 1 on."""
    values = set[int]()
    for case in dataset.cases:
        labels = dataset.labels(case.name)
        values |= set() if labels is None else set(np.unique(labels).tolist())
    return {value: number for number, value in enumerate(sorted(values - {0}), start=1)}


def check_export(output: Path) -> None:
    """Refuse to write into a folder that holds something else.

    Raises:
        OutputError: saying so.
    """
    if (output / "dataset.json").exists() and not (output / _STATE).is_dir():
        raise OutputError(f"{output / 'dataset.json'} is not of an earlier export and would be lost.", "Choose another folder.")


def is_exported(dataset: Dataset, name: str, output: Path, numbers: Mapping[int, int]) -> bool:
    """True if an earlier run wrote this case and nothing changed since."""
    image, labels = _files(dataset, name, output)
    try:
        known = read_json(_record(output, name), "")
    except InputError:
        return False
    return known == _settings(dataset, name, numbers) and image.exists() and (labels.exists() or dataset.case(name).labels is None)


def export_case(dataset: Dataset, name: str, output: Path, numbers: Mapping[int, int]) -> None:
    """Write image and label map of a case.

    Raises:
        InputError: if a scan to learn from has no label map, or the case is damaged.
        OutputError: if it cannot be written.
    """
    case, labels = dataset.case(name), dataset.labels(name)
    image_file, labels_file = _files(dataset, name, output)
    if labels is None and labels_file.parent.name == "labelsTr":
        raise InputError(
            f"{name} has no label map, without which nnU-Net does not train.", "Prepare it with --labels, or let it be a test."
        )
    for folder in (image_file.parent, labels_file.parent, output / _STATE):
        folder.mkdir(parents=True, exist_ok=True)
    _record(output, name).unlink(missing_ok=True)
    grid = _grid(case)
    Volume(dataset.image(name).astype(np.float32), grid).write(image_file)
    if labels is not None:
        Volume(_renumbered(labels, numbers), grid).write(labels_file)
    write_json(_record(output, name), _settings(dataset, name, numbers))


def describe(dataset: Dataset, output: Path, numbers: Mapping[int, int], names: frozenset[str]) -> None:
    """Write `dataset.json` and `splits_final.json` for the cases that were exported.

    Raises:
        InputError: if two labels have the same name, or one that means something else to nnU-Net.
        OutputError: if they cannot be written.
    """
    called = {number: dataset.label_names.get(value, f"label {value}") for value, number in numbers.items()}
    if bad := [name for name in called.values() if name in ("background", "ignore") or list(called.values()).count(name) > 1]:
        raise InputError(f"nnU-Net tells labels apart by their names, and {bad[0]!r} cannot be one.", "Rename it in dataset.json.")
    fold = {split: [name for name in dataset.splits.get(split, ()) if name in names] for split in ("train", "val")}
    description = {
        "name": dataset.name,
        "channel_names": {"0": "noNorm"},
        "labels": {"background": 0, **{name: number for number, name in called.items()}},
        "numTraining": sum(map(len, fold.values())),
        "file_ending": ENDING,
    }
    write_json(output / "dataset.json", description)
    write_bytes(output / "splits_final.json", json.dumps([fold], indent=1).encode())


def _files(dataset: Dataset, name: str, output: Path) -> tuple[Path, Path]:
    """Paths of a case's image and label map; a case in no split is a test case."""
    part = next((_PARTS[split] for split, members in dataset.splits.items() if name in members), "Ts")
    return output / f"images{part}" / f"{name}_0000{ENDING}", output / f"labels{part}" / f"{name}{ENDING}"


def _grid(case: Case) -> Geometry:
    x, y, z = case.spacing_zyx[::-1]
    return Geometry(shape_zyx=case.shape_zyx, spacing_xyz=(x, y, z), origin_xyz=case.origin_xyz, direction=case.direction)


def _renumbered(labels: NDArray[np.integer], numbers: Mapping[int, int]) -> NDArray[np.integer]:
    table = np.zeros(max(numbers, default=0) + 1, np.uint8 if len(numbers) < 256 else np.uint16)
    table[list(numbers)] = list(numbers.values())
    return table[np.asarray(labels)]


def _settings(dataset: Dataset, name: str, numbers: Mapping[int, int]) -> dict[str, Any]:
    """Settings the files of a case depend on, as JSON values."""
    case = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(dataset.case(name)).items()}
    return {"case": case, "numbers": {str(value): number for value, number in numbers.items()}}


def _record(output: Path, name: str) -> Path:
    return output / _STATE / f"{name}.json"
