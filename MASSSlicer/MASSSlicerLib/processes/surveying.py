"""A survey of label maps, in a process of its own: Slicer stays usable, and ending the process ends the survey."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from mass_core.errors import InputError, MassError

from .json_process import JsonProcess
from .python import python_slicer
from .survey import MARK


class Survey(JsonProcess):
    """A survey of label maps; begins with `start`.

    Args:
        masks: label maps.
        found: called for each with `mask`, and `labels` or `error`.
        finished: called once, with the error or None, also after `cancel`.

    Raises:
        MassError: if there is no Python to run it with.
    """

    def __init__(
        self, masks: Sequence[Path], *, found: Callable[[dict[str, Any]], None], finished: Callable[[MassError | None], None]
    ) -> None:
        super().__init__([python_slicer(), str(Path(__file__).with_name("survey.py"))], finished, mark=MARK)
        self._masks, self._left = masks, len(masks)
        self._found = found

    def start(self) -> None:
        """Begin; returns at once."""
        super().start(json.dumps([str(mask) for mask in self._masks]).encode())

    def message(self, message: dict[str, Any]) -> None:
        """Report the labels of a label map."""
        self._left -= 1
        self._found(message)

    def error(self, code: int, reason: str) -> MassError | None:
        """The error if label maps were left unread."""
        if not self._left:
            return None
        return InputError(
            _("The label maps could not be read (exit code {code}). {reason}").format(code=code, reason=reason).strip(),
            _("Check under Status, Install… that all packages are installed."),
        )
