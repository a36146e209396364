"""The worker process under QProcess, and the timer that drives its client."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from mass_core.errors import DeviceError
from mass_core.worker.client import Client

from ..install import packages as install
from .json_process import child_process

_START_MS = 15_000
_TICK_MS = 100
_KILL_MS = 1000


class ProcessTransport:
    """A worker under QProcess (`mass_core.worker.client.Transport`).

    Args:
        worker_pid: number of the process that computes, once it is known. PythonSlicer is a launcher: killing that leaves its child alive.
    """

    def __init__(self, worker_pid: Callable[[], int | None]) -> None:
        self._worker_pid = worker_pid
        self._process: qt.QProcess | None = None
        self._closing = False

    def start(self, received: Callable[[bytes], None], told: Callable[[str], None], ended: Callable[[int], None]) -> None:
        """Start it.

        Raises:
            DeviceError: if there is no Python to run it with, or it does not start.
        """
        process = child_process(lambda code, reason: None if reason else ended(code), received, told)
        program, *arguments = install.worker_command()
        process.start(program, arguments)
        if not process.waitForStarted(_START_MS):
            raise DeviceError(
                _("The worker could not be started: {reason} ({program}).").format(reason=process.errorString(), program=program),
                _("Install the packages again (Status, Install…); if that does not help, reinstall Slicer."),
            )
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
        if self._closing:  # nobody runs the event loop then, which would notice its end
            self._process.waitForFinished(1)
        return self._process.state() != qt.QProcess.NotRunning


class Engine:
    """Owns the client of the worker and its timer; the worker starts with the first request.

    Args:
        log: gets the lines of the worker's log.
        started: called when a worker has started; True: again, after it died or was killed.
    """

    def __init__(self, log: Callable[[str], None], started: Callable[[bool], None]) -> None:
        self.client: Client = Client(lambda: ProcessTransport(self._worker_pid), on_log=log, on_started=started)
        self._timer = qt.QTimer()
        self._timer.setInterval(_TICK_MS)
        self._timer.connect("timeout()", self.client.tick)
        self._timer.start()

    def close(self) -> None:
        """End the worker and all its processes."""
        self._timer.stop()
        self._timer.disconnect("timeout()", self.client.tick)
        self.client.close()

    def _worker_pid(self) -> int | None:
        return self.client.worker.get("pid")


def _kill(pid: int) -> None:
    """Kill a process that is not our child, on Windows with its children."""
    if sys.platform == "win32":
        subprocess.run(
            ["taskkill", "/PID", str(pid), "/T", "/F"], check=False, capture_output=True, creationflags=subprocess.CREATE_NO_WINDOW
        )
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
