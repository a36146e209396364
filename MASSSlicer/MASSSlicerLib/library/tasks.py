"""The task library: encoded references in the user's folder, to share as files. They contain no image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

from mass_core.errors import WeightsError
from mass_core.weights.store import home, read_metadata

from . import named_files

ENDING = ".masstask"


@dataclass(frozen=True)
class SavedTask:
    """One task of the library."""

    name: str
    path: Path
    weights: str
    """Name of the weights it was made with; others cannot use it."""
    labels: tuple[str, ...]


def folder() -> Path:
    """Folder of saved tasks, outside the extension so that updates keep them."""
    return home() / "tasks"


def read(path: Path) -> SavedTask:
    """Read the header of a task file (docs/formats.md) without loading PyTorch.

    Raises:
        WeightsError: if it is not a task.
    """
    try:
        header = json.loads(read_metadata(path)["mass-task"])
        return SavedTask(path.stem, path, str(header["weights"]), tuple(str(label["name"]) for label in header["labels"]))
    except (WeightsError, OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} is not a task file, or is damaged.", "Choose a .masstask file written by MASS.") from error


def listing() -> list[SavedTask]:
    """All tasks of the library by name; files that are not tasks are left out."""
    found = []
    for path in sorted(folder().glob(f"*{ENDING}")):
        try:
            found.append(read(path))
        except WeightsError:
            continue
    return found


def add(source: Path, name: str) -> None:
    """Copy a task file into the library.

    Raises:
        WeightsError: if it is not a task.
        InputError: if the name cannot be a file's or is taken.
        OutputError: if it cannot be written.
    """
    read(source)
    named_files.copy(source, free(name))


def free(name: str) -> Path:
    """The file of a new name.

    Raises:
        InputError: if the name cannot be a file's or is taken.
    """
    return named_files.free(folder(), name, ENDING, _("task"))
