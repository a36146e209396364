"""The client of the worker, with the timer that drives it and the place where the worker runs."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer
from slicer.i18n import tr as _

from mass_core.remote.ssh import SshTransport
from mass_core.worker.client import Client, Transport

from .python import worker_command
from .ssh_process import SshProcess
from .transport import ProcessTransport

_TICK_MS = 100


class Engine:
    """Owns the client of the worker and its timer; the worker starts with the first request.

    Args:
        log: gets the lines of the worker's log.
        started: called when a worker has started; True: again, after it died or was killed.
        host: ssh name of the computer it runs on; empty: this one.
    """

    def __init__(self, log: Callable[[str], None], started: Callable[[bool], None], host: str = "") -> None:
        self._host = host
        self.client: Client = Client(self._transport, on_log=log, on_started=started)
        self._timer = qt.QTimer()
        self._timer.setInterval(_TICK_MS)
        self._timer.connect("timeout()", self.client.tick)
        self._timer.start()

    def move(self, host: str) -> None:
        """End the worker; the next one runs on this computer, or over ssh on another one."""
        self.client.close(0.0)
        self._host = host

    def close(self) -> None:
        """End the worker and all its processes."""
        self._timer.stop()
        self._timer.disconnect("timeout()", self.client.tick)
        self.client.close()

    def _transport(self) -> Transport:
        """Runs a worker.

        Raises:
            MassError: if there is no Python to run it with, or no such computer.
        """
        if self._host:
            return SshTransport(self._host, environment=slicer.util.startupEnvironment(), process=SshProcess)
        cure = _("Install the packages again (Status, Install…); if that does not help, reinstall Slicer.")
        return ProcessTransport(worker_command(), cure=cure, worker_pid=lambda: self.client.worker.get("pid"))
