"""The task library: what references taught, kept in the user's folder, shared as files. No image is in them."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from mass_core.atomic import write_bytes
from mass_core.errors import InputError, WeightsError
from mass_core.weights_store import home, make_folder

ENDING = ".masstask"
_LONGEST_HEADER = 16 << 20


@dataclass(frozen=True)
class SavedTask:
    """One task of the library."""

    name: str
    path: Path
    weights: str
    """Name of the weights it was made with; others cannot use it."""
    labels: tuple[str, ...]


def folder() -> Path:
    """Where saved tasks are, outside the extension so that updates keep them."""
    return home() / "tasks"


def read(path: Path) -> SavedTask:
    """What a task file says about itself (docs/formats.md), without loading PyTorch.

    Raises:
        WeightsError: if it is no task.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LONGEST_HEADER:
                raise ValueError("no header")
            header = json.loads(json.loads(file.read(length))["__metadata__"]["mass-task"])
        return SavedTask(_name(path), path, str(header["weights"]), tuple(str(label["name"]) for label in header["labels"]))
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise WeightsError(f"{path} is no task file, or it is damaged.", "Choose a .masstask file saved by MASS.") from error


def listing() -> list[SavedTask]:
    """All tasks of the library by name; files that are none are left out."""
    found = []
    for path in sorted(folder().glob(f"*{ENDING}")):
        try:
            found.append(read(path))
        except WeightsError:
            continue
    return found


def add(source: Path, name: str) -> SavedTask:
    """Copy a task file into the library.

    Raises:
        WeightsError: if it is no task.
        InputError: if the name cannot be a file's or is taken.
        OutputError: if it cannot be written.
    """
    read(source)
    target = _free(name)
    make_folder(target.parent)
    write_bytes(target, source.read_bytes())
    return read(target)


def rename(task: SavedTask, name: str) -> SavedTask:
    """Give a task another name.

    Raises:
        InputError: if the name cannot be a file's or is taken.
    """
    target = _free(name)
    task.path.rename(target)
    return read(target)


def copy(task: SavedTask, path: Path) -> None:
    """Copy a task out of the library, to share it.

    Raises:
        OutputError: if it cannot be written.
    """
    write_bytes(path, task.path.read_bytes())


def delete(task: SavedTask) -> None:
    """Delete a task."""
    task.path.unlink(missing_ok=True)


def _name(path: Path) -> str:
    return path.name[: -len(ENDING)] if path.name.endswith(ENDING) else path.stem


def _free(name: str) -> Path:
    """The file of a new name.

    Raises:
        InputError: if it cannot be a file's name, or is taken.
    """
    name = name.strip().removesuffix(ENDING)
    if not name or name.startswith(".") or any(sign in name for sign in '<>:"/\\|?*') or not name.isprintable():
        raise InputError(f"A task cannot be called “{name}”.", 'Choose a name without < > : " / \\ | ? * that does not begin with a dot.')
    target = folder() / f"{name}{ENDING}"
    if target.exists():
        raise InputError(f"There is a task “{name}” already.", "Choose another name, or delete that one first.")
    return target
