"""A worker run with `subprocess`, for scripts, tests and benchmarks; inside 3D Slicer the module has its own transport."""

import codecs
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

from ..errors import DeviceError, MassError
from .client import Client, Reply, Transport

_CHUNK = 1 << 16
_DRAIN_S = 1.0
"""Time the end of a process waits for the rest in its pipes; a child of it may hold them open."""


def worker_command(python: str = sys.executable) -> list[str]:
    """Command line of the worker."""
    return [python, "-m", "mass_core", "worker"]


class PumpedTransport(Transport, Protocol):
    """A transport whose callbacks run in `pump`."""

    @property
    def pid(self) -> int | None:
        """Number of the process started here; None: not started."""

    def pump(self, timeout_s: float = 0.0) -> None:
        """Hand on what has come; wait up to `timeout_s` for the first."""


class SubprocessTransport:
    """A worker process (`client.Transport`). Threads read its pipes; `pump` hands on what came, on the caller's own thread.

    Args:
        command: what to run.
        environment: of the process; None: the caller's.
        folder: it starts in; None: the caller's.
        own_group: the process can be killed together with its children, and is not with the caller's.
        name: for messages.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        own_group: bool = True,
        name: str = "worker",
    ) -> None:
        self._command = list(command)
        self._environment, self._folder, self._own_group, self._name = environment, folder, own_group, name
        self._process: subprocess.Popen[bytes] | None = None
        self._events: queue.Queue[Callable[[], None]] = queue.Queue()

    @property
    def pid(self) -> int | None:
        """Number of the process; None: not started."""
        return None if self._process is None else self._process.pid

    def start(self, on_output: Callable[[bytes], None], on_errors: Callable[[str], None], on_end: Callable[[int], None]) -> None:
        """See `client.Transport`."""
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment,
                cwd=self._folder,
                start_new_session=self._own_group,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise DeviceError(
                f"The {self._name} could not be started: {self._command[0]}: {error.strerror}.",
                "Check the path of the Python that runs it.",
            ) from error
        assert process.stdout is not None and process.stderr is not None
        self._process = process
        out = self._reader(process.stdout, on_output)
        text = codecs.getincrementaldecoder("utf-8")("replace")
        err = self._reader(process.stderr, lambda data: on_errors(text.decode(data)))
        threading.Thread(target=self._wait, args=(process, (out, err), on_end), daemon=True).start()

    def write(self, data: bytes) -> None:
        """See `client.Transport`."""
        if self._process is None or self._process.stdin is None or self._process.stdin.closed:
            return
        with suppress(OSError):  # it has ended, which is reported in its turn
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def close_input(self) -> None:
        """See `client.Transport`."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(OSError):  # it has ended
                self._process.stdin.close()

    def kill(self) -> None:
        """See `client.Transport`."""
        if self._process is None or self._process.poll() is not None:
            return
        if not self._own_group:
            self._process.kill()
        elif sys.platform == "win32":
            command = ["taskkill", "/PID", str(self._process.pid), "/T", "/F"]
            subprocess.run(command, check=False, capture_output=True, creationflags=subprocess.CREATE_NO_WINDOW)
        else:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def running(self) -> bool:
        """See `client.Transport`."""
        return self._process is not None and self._process.poll() is None

    def post(self, action: Callable[[], None]) -> None:
        """Do something at the next `pump`, behind what has come before; may be called on any thread."""
        self._events.put(action)

    def pump(self, timeout_s: float = 0.0) -> None:
        """Hand on what has come; wait up to `timeout_s` for the first."""
        with suppress(queue.Empty):
            self._events.get(timeout=timeout_s)() if timeout_s > 0 else self._events.get_nowait()()
            while True:
                self._events.get_nowait()()

    def _reader(self, pipe: IO[bytes], handle: Callable[[bytes], None]) -> threading.Thread:
        """A thread that queues what comes out of a pipe."""

        def read() -> None:
            with pipe:
                while data := os.read(pipe.fileno(), _CHUNK):
                    self._events.put(lambda data=data: handle(data))  # type: ignore[misc]

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def _wait(self, process: subprocess.Popen[bytes], readers: Sequence[threading.Thread], on_end: Callable[[int], None]) -> None:
        code = process.wait()
        for reader in readers:
            reader.join(_DRAIN_S)
        self._events.put(lambda: on_end(code))


class LocalClient(Client):
    """A client for scripts: it runs its worker with `subprocess`, and its calls can be waited for.

    Args:
        command: what to run; None: this Python's worker.
        environment: of the worker; None: the caller's.
        transport: makes what runs the worker in place of these two: `lambda: SshTransport("host")`.
        options: of `Client`.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        transport: Callable[[], PumpedTransport] | None = None,
        **options: Any,
    ) -> None:
        self.transport: PumpedTransport | None = None
        """Of the latest worker."""

        def new() -> PumpedTransport:
            self.transport = transport() if transport else SubprocessTransport(command or worker_command(), environment=environment)
            return self.transport

        super().__init__(new, **options)

    def pump(self, timeout_s: float = 0.05) -> None:
        """Run pending callbacks; waits up to `timeout_s` for the first."""
        if self.transport is not None:
            self.transport.pump(timeout_s)
        self.tick()

    def ask(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        progress: Callable[[str, float, float | None], None] | None = None,
        timeout_s: float = 3600.0,
    ) -> Reply:
        """Send a request and wait for the reply.

        Returns:
            The reply: `result`, `timings`, `device`, `peak_memory`.

        Raises:
            MassError: if the request fails.
            TimeoutError: if it takes longer; it is cancelled then.
        """
        replies: list[Reply] = []
        errors: list[MassError] = []
        call = self.request(method, params, progress=progress, done=replies.append, failed=errors.append)
        until = time.monotonic() + timeout_s
        while call.state == "waiting":
            self.pump()
            if time.monotonic() > until and not call.stopping:
                call.cancel()
        if errors:
            raise errors[0]
        if not replies:
            raise TimeoutError(f"{method} took longer than {timeout_s} s.")
        return replies[0]
