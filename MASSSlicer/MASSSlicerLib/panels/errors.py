"""Errors in front of the user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import slicer
from slicer.i18n import tr as _

from mass_core.errors import MassError
from mass_core.worker.protocol import error_of, failure


def show_error(error: Exception) -> None:
    """Show an error with its cure; the traceback of a defect goes behind “Show details”."""
    known = error_of(failure(error))
    text = known.message + (f"\n\n{known.cure}" if known.cure else "")
    slicer.util.errorDisplay(text, windowTitle=_("MASS"), detailedText=getattr(known, "details", ""))


@contextmanager
def errors_shown() -> Iterator[None]:
    """Show an error the user can solve, and leave out the rest of the block."""
    try:
        yield
    except (MassError, OSError) as error:
        show_error(error)
