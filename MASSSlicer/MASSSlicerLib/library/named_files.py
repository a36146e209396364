"""Files the user gives names to: saved tasks and finetuned models."""

from __future__ import annotations

import shutil
from pathlib import Path

from slicer.i18n import tr as _

from mass_core.errors import InputError, OutputError
from mass_core.files import write_by
from mass_core.weights.store import make_folder


def free(folder: Path, name: str, ending: str, kind: str) -> Path:
    """The file of a new name.

    Args:
        folder: it will be in.
        name: with the ending or without.
        ending: with its dot.
        kind: what it is, for messages: “task” or “model”.

    Raises:
        InputError: if it cannot be a file's name, or is taken.
    """
    name = name.strip().removesuffix(ending)
    if not name or name.startswith(".") or any(sign in name for sign in '<>:"/\\|?*') or not name.isprintable():
        raise InputError(
            _("“{name}” cannot be the name of a {kind}.").format(kind=kind, name=name),
            _('Choose a name without < > : " / \\ | ? * that does not begin with a dot.'),
        )
    target = folder / f"{name}{ending}"
    if target.exists():
        raise taken(name, kind)
    return target


def taken(name: str, kind: str) -> InputError:
    """The error for a name that is taken."""
    return InputError(
        _("A {kind} named “{name}” already exists.").format(kind=kind, name=name), _("Choose another name, or delete it first.")
    )


def copy(source: Path, target: Path) -> None:
    """Copy a file in pieces; the copy appears complete or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    make_folder(target.parent)
    try:
        with source.open("rb") as file:
            write_by(target, lambda new: shutil.copyfileobj(file, new))
    except OSError as error:
        raise OutputError(
            _("The file {path} could not be written: {reason}.").format(path=target, reason=error.strerror),
            _("Check that {source} can still be read, and choose another name.").format(source=source),
        ) from error
