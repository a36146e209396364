"""Opening a dataset, whichever layout it has."""

from pathlib import Path

from .dataset import Dataset
from .released_layout import is_released, read_released


def open_dataset(folder: str | Path) -> Dataset:
    """Open a dataset, one of ours or one laid out as the released code does; arrays are mapped into memory when asked for.

    Raises:
        InputError: if it is missing, damaged, of a newer version, or its splits share a patient.
    """
    folder = Path(folder)
    return read_released(folder) if is_released(folder) else Dataset.read(folder)
