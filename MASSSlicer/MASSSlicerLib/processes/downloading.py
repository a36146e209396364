"""A download of weights, in a process of its own: Slicer stays usable, and ending the process ends the download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from mass_core.errors import MassError, WeightsError

from .json_process import JsonProcess
from .python import mass_command


class Download(JsonProcess):
    """A download of weights; begins with `start`, and continues where it stopped the last time.

    Args:
        name: of the weights.
        progress: called with the share that has arrived.
        finished: called once, with the error or None, also after `cancel`.

    Raises:
        MassError: if there is no Python to run it with.
    """

    def __init__(self, name: str, *, progress: Callable[[float], None], finished: Callable[[MassError | None], None]) -> None:
        super().__init__(mass_command("weights", "download", name, "--json"), finished)
        self.name = name
        self._progress = progress
        self._failure: MassError | None = None

    def message(self, message: dict[str, Any]) -> None:
        """Report progress, or keep the error."""
        if message.get("event") == "progress":
            self._progress(message["fraction"])
        elif message.get("event") == "failed":
            self._failure = WeightsError(message["message"], message.get("cure", ""))

    def error(self, code: int, reason: str) -> MassError | None:
        """The error of the command, or that it ended early."""
        if code == -1:
            text = _("The download could not be started: {reason}.").format(reason=reason)
            return WeightsError(text, _("Reinstall Slicer if it happens again."))
        if self._failure is None and code != 0:
            text = _("The download ended early (exit code {code}).").format(code=code)
            return WeightsError(text, _("Try again: it continues where it stopped."))
        return self._failure
