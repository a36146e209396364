"""Transport of the worker's client that runs the process under QProcess."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

import qt
from slicer.i18n import tr as _

from mass_core.errors import DeviceError

from .json_process import child_process

_START_MS = 15_000
_KILL_MS = 1000


class ProcessTransport:
    """A process under QProcess (`mass_core.worker.client.Transport`).

    Args:
        command: program and arguments.
        cure: for a program that does not start.
        environment: of the process; None: the module's.
        worker_pid: number of the process that computes, once it is known. PythonSlicer is a launcher: killing that leaves its child alive.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cure: str,
        environment: qt.QProcessEnvironment | None = None,
        worker_pid: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._command, self._cure, self._environment, self._worker_pid = list(command), cure, environment, worker_pid
        self._process: qt.QProcess | None = None
        self._closing = False

    @property
    def pid(self) -> int | None:
        """Number of the process; None: not started."""
        return None if self._process is None else self._process.processId()

    def start(self, on_output: Callable[[bytes], None], on_errors: Callable[[str], None], on_end: Callable[[int], None]) -> None:
        """Start it.

        Raises:
            DeviceError: if it does not start.
        """
        process = child_process(lambda code, reason: None if reason else on_end(code), on_output, on_errors, self._environment)
        program, *arguments = self._command
        process.start(program, arguments)
        if not process.waitForStarted(_START_MS):
            text = _("{program} could not be started: {reason}.").format(program=program, reason=process.errorString())
            raise DeviceError(text, self._cure)
        self._process = process

    def write(self, data: bytes) -> None:
        """Send it a line."""
        if self.running():
            self._process.write(data)

    def close_input(self) -> None:
        """End its input, which ends the worker."""
        if self.running():
            self._process.closeWriteChannel()
            self._closing = True

    def kill(self) -> None:
        """End it at once, and the launcher it was started with."""
        if not self.running():
            return
        pid = self._worker_pid()
        if pid is not None:
            _kill(pid)
        self._process.kill()
        self._process.waitForFinished(_KILL_MS)

    def running(self) -> bool:
        """True while it runs."""
        if self._process is None:
            return False
        if self._closing:  # no event loop runs then, which would notice its end
            self._process.waitForFinished(1)
        return self._process.state() != qt.QProcess.NotRunning


def _kill(pid: int) -> None:
    """Kill a process that is not our child, on Windows with its children."""
    if sys.platform == "win32":
        subprocess.run(
            ["taskkill", "/PID", str(pid), "/T", "/F"], check=False, capture_output=True, creationflags=subprocess.CREATE_NO_WINDOW
        )
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
