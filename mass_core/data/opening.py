"""Opening a dataset, whichever layout it has."""

from pathlib import Path

from ..errors import InputError
from .dataset import Dataset
from .public_layouts import KINDS
from .released_layout import is_released, read_released
from .scan_files import layout_of


def open_dataset(folder: str | Path) -> Dataset:
    """Open a dataset, one of ours or one laid out as the released code does; arrays are mapped into memory when accessed.

    Raises:
        InputError: if it is missing, not prepared yet, damaged, of a newer version, or its splits share a patient.
    """
    folder = Path(folder)
    if is_released(folder):
        return read_released(folder)
    if not (folder / "cases").is_dir() and (kind := layout_of(folder)):
        raise InputError(
            f"{folder} is a dataset of {KINDS[kind].title} as published.",
            f"Prepare it first: mass prepare {folder} --dataset-kind {kind} --output DATASET.",
        )
    return Dataset.read(folder)
