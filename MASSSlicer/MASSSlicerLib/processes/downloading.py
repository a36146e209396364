"""A download of weights, in a process of its own: Slicer stays usable, and ending the process ends the download."""

from __future__ import annotations

import json
from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from mass_core.errors import MassError, WeightsError

from ..library.weights import download_command
from .engine import worker_environment


class Download:
    """Begins with `start`.

    Args:
        name: of the weights.
        progress: called with the share that is there.
        finished: called once, with what went wrong or None, also after `cancel`.

    Raises:
        MassError: if there is no Python to run it with.
    """

    def __init__(self, name: str, *, progress: Callable[[float], None], finished: Callable[[MassError | None], None]) -> None:
        self.name = name
        self._progress, self._finished = progress, finished
        self._rest = b""
        self._error: MassError | None = None
        self._cancelled = False
        self._command = download_command(name)
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(worker_environment())
        self._process.connect("readyReadStandardOutput()", self._read)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._ended)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._not_started)

    def start(self) -> None:
        """Begin; returns at once. `finished` may be called before it returns where the process cannot be started."""
        program, *arguments = self._command
        self._process.start(program, arguments)

    def cancel(self) -> None:
        """Stop; what is there is kept, and the next download goes on from it."""
        self._cancelled = True
        self._process.kill()

    def _read(self) -> None:
        *lines, self._rest = (self._rest + self._process.readAllStandardOutput().data()).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if message.get("event") == "progress" and not self._cancelled:
                self._progress(message["fraction"])
            elif message.get("event") == "failed":
                self._error = WeightsError(message["message"], message.get("cure", ""))

    def _not_started(self, error: int) -> None:
        if error == qt.QProcess.FailedToStart:
            reason = self._process.errorString()
            self._error = WeightsError(
                _("The download could not be started: {reason} ({program}).").format(reason=reason, program=self._command[0]),
                _("Reinstall Slicer if it happens again."),
            )
            self._ended(-1, 0)

    def _ended(self, code: int, status: int) -> None:
        self._read()
        error = self._error
        if error is None and code != 0 and not self._cancelled:
            error = WeightsError(
                _("The download ended early (exit code {code}).").format(code=code), _("Try again: it goes on where it was.")
            )
        self._finished(None if self._cancelled else error)
