"""Record of the cases an export has written, in its folder, so that the next call continues."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, OutputError
from ..files import make_folder, read_json, write_json

FOLDER = ".mass-export"


def check_own(path: Path) -> None:
    """Refuse to write over a file that is not of an export of ours.

    Raises:
        OutputError: saying so.
    """
    if path.exists() and not (path.parent / FOLDER).is_dir():
        raise OutputError(f"{path} is not from an earlier export and would be overwritten.", "Choose another folder.")


def begin(output: Path, name: str) -> None:
    """Remove a case from the record before it is written again."""
    make_folder(output / FOLDER)
    _record(output, name).unlink(missing_ok=True)


def finish(output: Path, name: str, settings: Mapping[str, Any]) -> None:
    """Record a case as written, with its sources and settings."""
    write_json(_record(output, name), settings)


def is_done(output: Path, name: str, settings: Mapping[str, Any]) -> bool:
    """True if a case was written with the same settings."""
    try:
        return read_json(_record(output, name), "") == settings
    except InputError:
        return False


def _record(output: Path, name: str) -> Path:
    return output / FOLDER / f"{name}.json"
