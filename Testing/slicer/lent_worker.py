"""Workers that go from test to test, for tests about the window: a fresh one spends most of its time importing PyTorch."""

import json
from collections.abc import Callable

from mass_core.worker import protocol
from mass_core.worker.protocol import Lines
from mass_core.worker.transport import SubprocessTransport, worker_command


class Process:
    """A running worker and the requests it has not answered."""

    def __init__(self) -> None:
        self.unanswered: set[int] = set()
        self.holder: Lent | None = None
        self._lines = Lines()
        self.transport = SubprocessTransport(worker_command())
        self.transport.start(self._received, lambda text: self._hand("errors", text), lambda code: self._hand("end", code))

    @property
    def idle(self) -> bool:
        """True if it runs and has answered everything."""
        return self.transport.running() and not self.unanswered

    def note(self, data: bytes) -> None:
        """Requests on their way."""
        self.unanswered |= {json.loads(line)["id"] for line in data.splitlines()}

    def _received(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            message = json.loads(line)
            if message["event"] in protocol.LAST:
                self.unanswered.discard(message["id"])
        self._hand("output", data)

    def _hand(self, what: str, value: object) -> None:
        if self.holder is not None:
            self.holder.callbacks[what](value)


class Pool:
    """Workers that nobody uses at present."""

    def __init__(self) -> None:
        self._idle: list[Process] = []

    def take(self) -> Process:
        """One that waits, or a new one."""
        return self._idle.pop() if self._idle else Process()

    def give_back(self, process: Process) -> None:
        """Keep it for the next one; one that is still at work is killed."""
        process.holder = None
        if process.idle:
            self._idle.append(process)
        else:
            process.transport.kill()

    def close(self) -> None:
        """End them all."""
        while self._idle:
            self._idle.pop().transport.kill()


class Lent:
    """A worker of the pool as a client wants it (`mass_core.worker.client.Transport`); `pump` hands on what has come."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._process: Process | None = None
        self.callbacks: dict[str, Callable] = {}

    @property
    def pid(self) -> int | None:
        """Number of the process."""
        return None if self._process is None else self._process.transport.pid

    def start(self, on_output: Callable[[bytes], None], on_errors: Callable[[str], None], on_end: Callable[[int], None]) -> None:
        """Take a worker."""
        self.callbacks = {"output": on_output, "errors": on_errors, "end": on_end}
        self._process = self._pool.take()
        self._process.holder = self

    def write(self, data: bytes) -> None:
        """Send it a line."""
        if self._process is not None:
            self._process.note(data)
            self._process.transport.write(data)

    def pump(self, timeout_s: float = 0.0) -> None:
        """Hand on what has come."""
        if self._process is not None:
            self._process.transport.pump(timeout_s)

    def close_input(self) -> None:
        """Give it back."""
        process, self._process = self._process, None
        if process is not None:
            process.transport.pump()
            self._pool.give_back(process)

    kill = close_input

    def running(self) -> bool:
        """True until it is given back."""
        return self._process is not None and self._process.transport.running()
