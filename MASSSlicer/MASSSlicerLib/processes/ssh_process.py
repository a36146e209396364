"""ssh under QProcess; another thread reads and packs what is sent, so that neither large scans nor slow connections block Slicer."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

import qt
import slicer
from slicer.i18n import tr as _

from mass_core.remote.ssh import QUIET

from .transport import ProcessTransport

_PUMP_MS = 20
_PIECES = 2
"""Pieces of a file (`mass_core.remote.stream`) that wait here; those that ssh has taken cannot be called back by a cancelled run."""
_AHEAD = 1 << 19
"""Bytes that QProcess is given in advance."""
_LOOK_S = 0.2


class SshProcess(ProcessTransport):
    """A process in which ssh runs (`mass_core.remote.ssh.ChildProcess`).

    Qt's objects belong to the main thread: what others write waits in a queue until `pump` or QProcess takes more.

    Args:
        command: program and arguments.
    """

    def __init__(self, command: Sequence[str]) -> None:
        # Not Slicer's own environment: with its libraries, the system's ssh may not start.
        environment = slicer.app.startupEnvironment()
        for name, value in QUIET.items():
            environment.insert(name, value)
        super().__init__(command, cure=_("See whether ssh works in a terminal."), environment=environment)
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_PIECES)
        self._actions: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._over = threading.Event()
        self._timer = qt.QTimer()
        self._timer.setInterval(_PUMP_MS)

    def start(self, on_output: Callable[[bytes], None], on_errors: Callable[[str], None], on_end: Callable[[int], None]) -> None:
        """See `ProcessTransport`."""

        def end(code: int) -> None:
            self.pump()
            self._stop()
            on_end(code)

        super().start(on_output, on_errors, end)
        self._process.connect("bytesWritten(qint64)", self._feed)
        self._timer.connect("timeout()", self.pump)
        self._timer.start()

    def write(self, data: bytes) -> None:
        """Send it bytes; waits for room. On any thread but the main one."""
        self._put(data)

    def close_input(self) -> None:
        """End its input behind what was written. On any thread but the main one."""
        self._put(None)

    def post(self, action: Callable[[], None]) -> None:
        """Do something on the main thread; on any thread."""
        self._actions.put(action)

    def pump(self, timeout_s: float = 0.0) -> None:
        """Do what was posted, write what waits."""
        while not self._actions.empty():
            self._actions.get()()
        self._feed()

    def kill(self) -> None:
        """End it at once."""
        super().kill()
        self._stop()

    def running(self) -> bool:
        """True while it runs."""
        self._feed()
        return super().running()

    def _put(self, piece: bytes | None) -> None:
        while not self._over.is_set():
            try:
                self._pieces.put(piece, timeout=_LOOK_S)
                return
            except queue.Full:
                pass

    def _feed(self, written: int = 0) -> None:
        """Give QProcess what waits, as far as it has room."""
        while not self._over.is_set() and not self._closing and self._process is not None and self._process.bytesToWrite() < _AHEAD:
            try:
                piece = self._pieces.get_nowait()
            except queue.Empty:
                return
            if piece is None:
                ProcessTransport.close_input(self)
            else:
                self._process.write(piece)

    def _stop(self) -> None:
        """Send nothing more, and release threads that wait for room."""
        if self._over.is_set():
            return
        self._over.set()
        self._timer.stop()
        self._timer.disconnect("timeout()", self.pump)
