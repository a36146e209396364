"""A child process under QProcess, whose signals arrive on the main thread, and one that writes JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt

import mass_core
from mass_core.worker.protocol import Lines


class ChildProcess:
    """A child process; begins with `start`.

    Args:
        command: program and arguments.
        on_output: gets the bytes of standard output in any portions.
        on_errors: gets the text of standard error in any portions.
        on_end: called once, after everything else, with the exit code and an empty text; with -1 and the reason if it could not be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        on_output: Callable[[bytes], None] = lambda data: None,
        on_errors: Callable[[str], None] = lambda text: None,
        on_end: Callable[[int, str], None],
    ) -> None:
        self._command = list(command)
        self._on_output, self._on_errors, self._on_end = on_output, on_errors, on_end
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(environment())
        self._process.connect("readyReadStandardOutput()", self._read)
        self._process.connect("readyReadStandardError()", self._read)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._ended)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._not_started)

    @property
    def running(self) -> bool:
        """True while it runs."""
        return self._process.state() != qt.QProcess.NotRunning

    def start(self) -> None:
        """Begin; returns at once. `on_end` may be called before it returns if the process cannot be started."""
        program, *arguments = self._command
        self._process.start(program, arguments)

    def wait_for_start(self, milliseconds: int) -> bool:
        """Wait until it has started; returns whether it has."""
        return self._process.waitForStarted(milliseconds)

    def wait_for_end(self, milliseconds: int) -> None:
        """Wait until it has ended, but not longer than this."""
        self._process.waitForFinished(milliseconds)

    def write(self, data: bytes) -> None:
        """Send bytes to its standard input."""
        self._process.write(data)

    def close_input(self) -> None:
        """End its standard input."""
        self._process.closeWriteChannel()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def reason(self) -> str:
        """Reason why it could not be started, with the program."""
        return f"{self._process.errorString()} ({self._command[0]})"

    def _read(self) -> None:
        if output := self._process.readAllStandardOutput().data():
            self._on_output(output)
        if errors := self._process.readAllStandardError().data():
            self._on_errors(errors.decode("utf-8", "replace"))

    def _not_started(self, error: int) -> None:
        if error == qt.QProcess.FailedToStart:  # then `finished` is never sent
            self._on_end(-1, self.reason())

    def _ended(self, code: int, status: int) -> None:
        self._read()
        self._on_end(code, "")


class JsonProcess(ChildProcess):
    """A child process that writes one JSON object a line; other lines, which libraries print, are passed over.

    Args:
        command: program and arguments.
        mark: begins the lines that count.
        on_message: gets the object of each line, until `cancel`.
        on_end: as of `ChildProcess`.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        mark: str = "",
        on_message: Callable[[dict[str, Any]], None],
        on_end: Callable[[int, str], None],
    ) -> None:
        super().__init__(command, on_output=self._cut, on_errors=self._keep_errors, on_end=on_end)
        self._mark, self._on_message = mark, on_message
        self._lines = Lines()
        self._errors = ""
        self.cancelled = False

    @property
    def last_words(self) -> str:
        """Last line of standard error."""
        return "".join(self._errors.strip().splitlines()[-1:])

    def cancel(self) -> None:
        """End it at once; no message comes any more, `on_end` is called."""
        self.cancelled = True
        self.kill()

    def _cut(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            text = line.decode("utf-8", "replace")
            if text.startswith(self._mark) and not self.cancelled:
                try:
                    message = json.loads(text[len(self._mark) :])
                except ValueError:
                    continue
                if isinstance(message, dict):
                    self._on_message(message)

    def _keep_errors(self, text: str) -> None:
        self._errors += text


def environment() -> qt.QProcessEnvironment:
    """Slicer's own environment, with mass_core on PYTHONPATH and every line sent at once as UTF-8."""
    own = qt.QProcessEnvironment.systemEnvironment()
    home = str(Path(mass_core.__file__).resolve().parents[1])
    paths = [home, *(p for p in own.value("PYTHONPATH", "").split(os.pathsep) if p and p != home)]
    own.insert("PYTHONPATH", os.pathsep.join(paths))
    own.insert("PYTHONUNBUFFERED", "1")
    own.insert("PYTHONIOENCODING", "utf-8")
    own.insert("PYTHONNOUSERSITE", "1")
    return own
