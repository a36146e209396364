"""Child processes under QProcess, whose signals arrive on the main thread; most of them write JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt

import mass_core
from mass_core.errors import MassError
from mass_core.worker.protocol import Lines


def child_process(
    on_end: Callable[[int, str], None],
    on_output: Callable[[bytes], None] = lambda data: None,
    on_errors: Callable[[str], None] = lambda text: None,
    environment: qt.QProcessEnvironment | None = None,
) -> qt.QProcess:
    """A process, connected and not yet started.

    Args:
        on_end: called once, after everything else, with the exit code and an empty text; with -1 and the reason if it could not be started.
        on_output: gets the bytes of standard output in any portions.
        on_errors: gets the text of standard error in any portions.
        environment: of the process; None: Slicer's, for a Python that finds mass_core.
    """
    process = qt.QProcess()
    process.setProcessEnvironment(_environment() if environment is None else environment)

    def read() -> None:
        if output := process.readAllStandardOutput().data():
            on_output(output)
        if errors := process.readAllStandardError().data():
            on_errors(errors.decode("utf-8", "replace"))

    def ended(code: int, status: int) -> None:
        read()
        on_end(code, "")

    def not_started(error: int) -> None:
        if error == qt.QProcess.FailedToStart:  # then `finished` is never sent
            on_end(-1, process.errorString())

    process.connect("readyReadStandardOutput()", read)
    process.connect("readyReadStandardError()", read)
    process.connect("finished(int,QProcess::ExitStatus)", ended)
    process.connect("errorOccurred(QProcess::ProcessError)", not_started)
    return process


class JsonProcess:
    """A child process that writes one JSON object a line. Other lines, which libraries print, are skipped.

    Args:
        command: program and arguments.
        mark: prefix of the lines that count.
        finished: called once at the end with what `error` returns, with None after `cancel`.
    """

    def __init__(self, command: Sequence[str], finished: Callable[[MassError | None], None], *, mark: str = "") -> None:
        self._command, self._finished, self._mark = command, finished, mark
        self._lines = Lines()
        self._errors: list[str] = []
        self._cancelled = False
        self._process = child_process(self._ended, self._cut, self._errors.append)

    @property
    def running(self) -> bool:
        """True while it runs."""
        return self._process.state() != qt.QProcess.NotRunning

    def start(self, data: bytes = b"") -> None:
        """Begin, with these bytes as standard input; returns at once. `finished` may be called before that if it cannot be started."""
        program, *arguments = self._command
        self._process.start(program, arguments)
        self._process.write(data)
        self._process.closeWriteChannel()

    def cancel(self) -> None:
        """End it at once; no message is handled any more."""
        self._cancelled = True
        self._process.kill()

    def message(self, message: dict[str, Any]) -> None:
        """Handle a message."""
        raise NotImplementedError

    def error(self, code: int, reason: str) -> MassError | None:
        """The error at the end, if any.

        Args:
            code: exit code; -1 if it could not be started.
            reason: why it could not be started, else the last line of standard error.
        """
        raise NotImplementedError

    def _cut(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            text = line.decode("utf-8", "replace")
            if text.startswith(self._mark) and not self._cancelled:
                try:
                    message = json.loads(text[len(self._mark) :])
                except ValueError:
                    continue
                if isinstance(message, dict):
                    self.message(message)

    def _ended(self, code: int, reason: str) -> None:
        last = "".join("".join(self._errors).strip().splitlines()[-1:])
        why = f"{reason} ({self._command[0]})" if reason else last
        self._finished(None if self._cancelled else self.error(code, why))


def _environment() -> qt.QProcessEnvironment:
    """Slicer's own environment, with mass_core on PYTHONPATH and every line sent at once as UTF-8."""
    own = qt.QProcessEnvironment.systemEnvironment()
    home = str(Path(mass_core.__file__).resolve().parents[1])
    paths = [home, *(p for p in own.value("PYTHONPATH", "").split(os.pathsep) if p and p != home)]
    own.insert("PYTHONPATH", os.pathsep.join(paths))
    own.insert("PYTHONUNBUFFERED", "1")
    own.insert("PYTHONIOENCODING", "utf-8")
    own.insert("PYTHONNOUSERSITE", "1")
    return own
