"""A survey of label maps, in a process of its own: Slicer stays usable, and ending the process ends the survey."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from mass_core.errors import InputError, MassError

from ..install import packages as install
from .json_process import JsonProcess
from .survey import MARK


class Survey:
    """A survey of label maps; begins with `start`.

    Args:
        masks: label maps.
        looked: called for each with `mask`, and `labels` or `error`.
        finished: called once, with the error or None, also after `cancel`.

    Raises:
        MassError: if there is no Python to run it with.
    """

    def __init__(
        self, masks: Sequence[Path], *, looked: Callable[[dict[str, Any]], None], finished: Callable[[MassError | None], None]
    ) -> None:
        self._masks = [str(mask) for mask in masks]
        self._left = len(masks)
        self._looked, self._finished = looked, finished
        command = [install.python_slicer(), str(Path(__file__).with_name("survey.py"))]
        self._process = JsonProcess(command, mark=MARK, on_message=self._on_message, on_end=self._ended)
        self.cancel = self._process.cancel

    def start(self) -> None:
        """Begin; returns at once. `finished` may be called before it returns if the process cannot be started."""
        self._process.start()
        self._process.write(json.dumps(self._masks).encode())
        self._process.close_input()

    def _on_message(self, message: dict[str, Any]) -> None:
        self._left -= 1
        self._looked(message)

    def _ended(self, code: int, reason: str) -> None:
        error = None
        if self._left and not self._process.cancelled:
            text = _("The label maps could not be read (exit code {code}). {reason}")
            error = InputError(
                text.format(code=code, reason=reason or self._process.last_words).strip(),
                _("Check under Status, Install… that all packages are installed."),
            )
        self._finished(error)
