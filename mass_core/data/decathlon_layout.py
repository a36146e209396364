"""The layout of the Medical Segmentation Decathlon and of nnU-Net version 2, which comes from it: datasets of ours written so, folds read.

Scans of the splits train and val lie in `imagesTr` with their label maps in `labelsTr`, those of the split test in `imagesTs` and
`labelsTs`; `dataset.json` describes them. nnU-Net calls an image `<case>_0000.nii.gz` by its channel, and takes folds from
`splits_final.json` in its folder of preprocessed datasets. Images are normalised already: their channel is called `noNorm`, which nnU-Net
takes as it is.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, OutputError
from ..files import make_folder, read_json, write_json
from ..progress import Steps
from ..volumes.volume import Volume
from . import export_state
from .dataset import Dataset, shown_labels

Form = Literal["nnunet", "msd"]
ENDING = ".nii.gz"
_CHANNEL: dict[Form, str] = {"nnunet": "_0000", "msd": ""}
"""Suffix of the case in the name of its image."""
_MADE_BY = "mass segment"
_FOLDS = 'It looks like [{"train": ["case1", "case2"], "val": ["case3"]}, …].'
_PARTS = {"train": "Tr", "val": "Tr", "test": "Ts"}


def numbering(dataset: Dataset, steps: Steps | None = None) -> dict[int, int]:
    """Number of each label value where numbers must have no gaps: the values all label maps hold, in their order, from 1 on.

    Args:
        dataset: whose label maps are read.
        steps: counts them.
    """
    shown = shown_labels(dataset, [case.name for case in dataset.cases], steps)
    return {value: number for number, value in enumerate(sorted(frozenset[int]().union(*shown.values())), start=1)}


def read_fold(path: Path, number: int) -> dict[str, tuple[str, ...]]:
    """Cases of the splits train and val in a fold of a cross-validation, as nnU-Net's `splits_final.json` lists them.

    Raises:
        InputError: if the file is of another form, or has no such fold.
    """
    try:
        folds = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(folds, list) or not folds:
            raise TypeError("it contains no list")
        sides = [{split: tuple(map(str, fold[split])) for split in ("train", "val")} for fold in folds]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} is not a list of folds: {error}.", f"{_FOLDS} Correct or remove it.") from error
    if not 0 <= number < len(sides):
        raise InputError(f"{path} has {len(sides)} folds; there is no fold {number}.", f"Choose --fold 0 to {len(sides) - 1}.")
    return sides[number]


def is_folds(path: Path) -> bool:
    """True if a file is a list, as nnU-Net's `splits_final.json` is."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(100).lstrip().startswith("[")
    except (OSError, ValueError):
        return False


def describe_labels(names: Mapping[int, str]) -> dict[str, int]:
    """Numbers by name, with the background, as nnU-Net's dataset.json has them.

    Raises:
        InputError: if two labels have the same name, or one that means something else to nnU-Net.
    """
    called = list(names.values())
    if bad := [name for name in called if name in ("background", "ignore") or called.count(name) > 1]:
        raise InputError(
            f"nnU-Net identifies labels by name, and {bad[0]!r} is reserved or used more than once.", "Rename it in dataset.json."
        )
    return {"background": 0, **{name: number for number, name in names.items()}}


def is_exported(dataset: Dataset, name: str, output: Path, numbers: Mapping[int, int], form: Form) -> bool:
    """True if an earlier run wrote this case and nothing changed since."""
    image, labels = _files(dataset, name, output, form)
    whole = image.exists() and (labels.exists() or dataset.case(name).labels is None)
    return whole and export_state.is_done(output, name, _settings(dataset, name, numbers, form))


def export_case(dataset: Dataset, name: str, output: Path, numbers: Mapping[int, int], form: Form) -> None:
    """Write image and label map of a case.

    Raises:
        InputError: if a scan to learn from has no label map, or the case is damaged.
        OutputError: if it cannot be written.
    """
    case, labels = dataset.case(name), dataset.labels(name)
    image_file, labels_file = _files(dataset, name, output, form)
    if labels is None and labels_file.parent.name == "labelsTr":
        raise InputError(f"{name} has no label map, which training scans need.", "Prepare it with --labels, or move it to the test split.")
    make_folder(image_file.parent)
    make_folder(labels_file.parent)
    export_state.begin(output, name)
    Volume(dataset.image(name).astype(np.float32), case.grid).write(image_file)
    if labels is not None:
        Volume(_renumbered(labels, numbers), case.grid).write(labels_file)
    export_state.finish(output, name, _settings(dataset, name, numbers, form))


def describe(dataset: Dataset, output: Path, numbers: Mapping[int, int], names: frozenset[str], form: Form) -> None:
    """Write `dataset.json`, and for nnU-Net `splits_final.json`, for the cases that were exported.

    Raises:
        InputError: if labels have names nnU-Net cannot take.
        OutputError: if they cannot be written.
    """
    called = {number: dataset.label_names.get(value, f"label {value}") for value, number in numbers.items()}
    fold = {split: [name for name in dataset.splits.get(split, ()) if name in names] for split in ("train", "val")}
    learned = [name for members in fold.values() for name in members]
    if form == "msd":
        write_json(output / "dataset.json", _of_decathlon(dataset, called, learned, sorted(names - set(learned))))
        return
    write_json(output / "dataset.json", {"name": dataset.name, **_of_nnunet(called, len(learned), ENDING)})
    write_json(output / "splits_final.json", [fold])


def check_predictions(folder: Path) -> None:
    """Refuse a folder for predictions whose dataset.json was not written for predictions.

    Raises:
        OutputError: saying so.
    """
    path = folder / "dataset.json"
    with suppress(InputError):
        if not path.exists() or read_json(path, "").get("made_by") == _MADE_BY:
            return
    raise OutputError(f"{path} does not describe predictions of this program.", "Choose another folder.")


def describe_predictions(folder: Path, names: Mapping[int, str], ending: str) -> None:
    """Write the `dataset.json` that nnU-Net's evaluation expects beside predictions.

    Args:
        folder: of the predictions.
        names: of the values in them.
        ending: of their files.

    Raises:
        InputError: if labels have names nnU-Net cannot take.
        OutputError: if it cannot be written.
    """
    write_json(folder / "dataset.json", {**_of_nnunet(names, 0, ending), "made_by": _MADE_BY})


def _of_nnunet(names: Mapping[int, str], training: int, ending: str) -> dict[str, Any]:
    """The description of so many training cases, or of predictions, as nnU-Net has it."""
    return {"channel_names": {"0": "noNorm"}, "labels": describe_labels(names), "numTraining": training, "file_ending": ending}


def _of_decathlon(dataset: Dataset, names: Mapping[int, str], learned: Sequence[str], tests: Sequence[str]) -> dict[str, Any]:
    """The description of a dataset as the Decathlon has it."""
    return {
        "name": dataset.name,
        "description": "written by MASSSlicer; intensities are normalised",
        "tensorImageSize": "3D",
        "modality": {"0": "noNorm"},
        "labels": {"0": "background", **{str(number): name for number, name in names.items()}},
        "numTraining": len(learned),
        "numTest": len(tests),
        "training": [{"image": f"./imagesTr/{name}{ENDING}", "label": f"./labelsTr/{name}{ENDING}"} for name in learned],
        "test": [f"./imagesTs/{name}{ENDING}" for name in tests],
    }


def _files(dataset: Dataset, name: str, output: Path, form: Form) -> tuple[Path, Path]:
    """Paths of a case's image and label map; a case in no split is a test case."""
    part = next((_PARTS[split] for split, members in dataset.splits.items() if name in members), "Ts")
    return output / f"images{part}" / f"{name}{_CHANNEL[form]}{ENDING}", output / f"labels{part}" / f"{name}{ENDING}"


def _renumbered(labels: NDArray[np.integer], numbers: Mapping[int, int]) -> NDArray[np.integer]:
    table = np.zeros(max(numbers, default=0) + 1, np.uint8 if len(numbers) < 256 else np.uint16)
    table[list(numbers)] = list(numbers.values())
    return table[np.asarray(labels)]


def _settings(dataset: Dataset, name: str, numbers: Mapping[int, int], form: Form) -> dict[str, Any]:
    """Settings the files of a case depend on, as JSON values."""
    case = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(dataset.case(name)).items()}
    return {"case": case, "numbers": {str(value): number for value, number in numbers.items()}, "form": form}
