"""A download of weights, in a process of its own: Slicer stays usable, and ending the process ends the download."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _

from mass_core.errors import MassError, WeightsError

from ..install.packages import mass_command
from .json_process import JsonProcess


class Download:
    """A download of weights; begins with `start`, and is taken up where it ended the last time.

    Args:
        name: of the weights.
        progress: called with the share that has arrived.
        finished: called once, with the error or None, also after `cancel`.

    Raises:
        MassError: if there is no Python to run it with.
    """

    def __init__(self, name: str, *, progress: Callable[[float], None], finished: Callable[[MassError | None], None]) -> None:
        self.name = name
        self._progress, self._finished = progress, finished
        self._error: MassError | None = None
        self._process = JsonProcess(download_command(name), on_message=self._on_message, on_end=self._ended)
        self.start, self.cancel = self._process.start, self._process.cancel

    @property
    def running(self) -> bool:
        """True while its process runs."""
        return self._process.running

    def _on_message(self, message: dict[str, Any]) -> None:
        if message.get("event") == "progress":
            self._progress(message["fraction"])
        elif message.get("event") == "failed":
            self._error = WeightsError(message["message"], message.get("cure", ""))

    def _ended(self, code: int, reason: str) -> None:
        error = self._error
        if reason:
            text = _("The download could not be started: {reason}.").format(reason=reason)
            error = WeightsError(text, _("Reinstall Slicer if it happens again."))
        elif error is None and code != 0:
            text = _("The download ended early (exit code {code}).").format(code=code)
            error = WeightsError(text, _("Try again: it continues where it stopped."))
        self._finished(None if self._process.cancelled else error)


def download_command(name: str) -> list[str]:
    """Program and arguments of a download. It prints JSON lines: `progress`, then `result` or `failed`."""
    return mass_command("weights", "download", name, "--json")
