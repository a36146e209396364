"""The worker process as Slicer runs it: a QProcess, whose signals arrive on the main thread, and a timer for what is late."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import qt
from slicer.i18n import tr as _

import mass_core
from mass_core.errors import DeviceError
from mass_core.worker.client import Client

from ..install import packages as install

_START_MS = 15_000
_TICK_MS = 100
_KILL_MS = 1000


class ProcessTransport:
    """A worker under QProcess (`mass_core.worker.client.Transport`).

    Args:
        worker_pid: number of the process that computes, once it has told. PythonSlicer is a launcher: killing that leaves its child alive.
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
        program, *arguments = install.worker_command()
        process = qt.QProcess()
        process.setProcessEnvironment(worker_environment())
        process.connect("readyReadStandardOutput()", lambda: received(process.readAllStandardOutput().data()))
        process.connect("readyReadStandardError()", lambda: told(process.readAllStandardError().data().decode("utf-8", "replace")))
        process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: ended(code))
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
        """The end of its input tells it to end."""
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
        """Whether it runs."""
        if self._process is None:
            return False
        if self._closing:  # nobody runs the event loop then, which would notice its end
            self._process.waitForFinished(1)
        return self._process.state() != qt.QProcess.NotRunning


class Engine:
    """Owns the client and what keeps it going; the worker starts with the first request.

    Args:
        log: gets what the worker says for the record.
        started: called when a worker has started; True: again, after it died or was killed.
    """

    def __init__(self, log: Callable[[str], None], started: Callable[[bool], None]) -> None:
        self.client: Client = Client(lambda: ProcessTransport(self._worker_pid), on_log=log, on_started=started)
        self._timer = qt.QTimer()
        self._timer.setInterval(_TICK_MS)
        self._timer.connect("timeout()", self.client.tick)
        self._timer.start()

    def close(self) -> None:
        """End the worker; nothing of it is left running."""
        self._timer.stop()
        self._timer.disconnect("timeout()", self.client.tick)
        self.client.close()

    def _worker_pid(self) -> int | None:
        return self.client.worker.get("pid")


def worker_environment() -> qt.QProcessEnvironment:
    """Slicer's own, with mass_core findable and every line sent at once as UTF-8."""
    environment = qt.QProcessEnvironment.systemEnvironment()
    home = str(Path(mass_core.__file__).resolve().parents[1])
    paths = [home, *(p for p in environment.value("PYTHONPATH", "").split(os.pathsep) if p and p != home)]
    environment.insert("PYTHONPATH", os.pathsep.join(paths))
    environment.insert("PYTHONUNBUFFERED", "1")
    environment.insert("PYTHONIOENCODING", "utf-8")
    environment.insert("PYTHONNOUSERSITE", "1")
    return environment


def _kill(pid: int) -> None:
    """Kill a process that is not ours to wait for, with its children where the system knows them."""
    if sys.platform == "win32":
        subprocess.run(
            ["taskkill", "/PID", str(pid), "/T", "/F"], check=False, capture_output=True, creationflags=subprocess.CREATE_NO_WINDOW
        )
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
