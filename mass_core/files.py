"""Files appear complete or not at all."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from .errors import InputError, OutputError


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name in the same folder, then give it its name.

    Raises:
        OutputError: if the folder is missing or may not be written to, or the disk is full.
    """
    write_by(path, lambda file: file.write(data))


def write_by(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """The same for what is too large to be held as bytes: `write` is handed the open file.

    Raises:
        OutputError: as above.
    """
    try:
        handle, temporary = tempfile.mkstemp(prefix=".mass-", dir=path.parent)
    except OSError as error:
        raise OutputError(
            f"Cannot write into {path.parent}: {error.strerror}.", "Choose a folder that exists and you may write to."
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise  # the fault of one name, not of the folder
        raise OutputError(f"Cannot write {path}: {error.strerror}.", "Check the free space and the rights of the folder.") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def make_folder(folder: Path, cure: str = "Choose a folder you may write to.") -> None:
    """Make a folder and those above it, where they are missing.

    Args:
        folder: may exist.
        cure: what to do if it cannot be made.

    Raises:
        OutputError: if that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be made: {error.strerror}.", cure) from error


def read_json(path: Path, cure: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: if it is missing or something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", cure) from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}.", cure) from error
    if not isinstance(values, dict):
        raise InputError(f"{path} does not hold a JSON object.", cure)
    return values


def write_json(path: Path, values: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write a JSON object; the file appears complete or not at all."""
    write_bytes(path, json.dumps(values, indent=1).encode())


def fingerprint(*values: Any) -> str:
    """Hash of values that JSON holds."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def states(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Name, bytes and time of the last change of files, which differ where a file was written to."""
    return [(path.name, state.st_size, state.st_mtime_ns) for path, state in ((path, path.stat()) for path in paths)]


def _umask() -> int:
    """The umask of the process, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
