"""Python that runs the worker and the commands `mass`, and their program and arguments."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from mass_core.errors import MassError


def python_slicer() -> str:
    """The Python that runs the worker: Slicer's, or the one the environment variable MASS_PYTHON names.

    Raises:
        MassError: if it is not there.
    """
    named = os.environ.get("MASS_PYTHON")
    beside = Path(getattr(slicer.app, "slicerHome", "") or ".") / "bin" / ("PythonSlicer.exe" if os.name == "nt" else "PythonSlicer")
    found = shutil.which(named or "PythonSlicer") or (str(beside) if not named and beside.is_file() else None)
    if found is None and named:
        raise MassError(_("MASS_PYTHON is set to {python}, which cannot be run.").format(python=named), _("Correct it, or unset it."))
    if found is None:
        raise MassError(
            _("PythonSlicer, the program that runs Python for Slicer, was not found in {folder}.").format(folder=beside.parent),
            _("Reinstall Slicer, or set the environment variable MASS_PYTHON to a Python that has PyTorch."),
        )
    return found


def mass_command(*arguments: str) -> list[str]:
    """Program and arguments of the command `mass` in Slicer's Python; needs mass_core on PYTHONPATH."""
    return [python_slicer(), "-m", "mass_core", *arguments]


def worker_command() -> list[str]:
    """Program and arguments of the worker."""
    return mass_command("worker")
