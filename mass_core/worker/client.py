"""Client of the worker: sends requests, reports their outcome by callbacks, and replaces a worker that dies.

Standard library only, no thread of its own: whoever owns a `Client` calls `tick` about ten times a second, and every callback comes from
`tick` or from the transport, on that thread, never from within `request` or `cancel`.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

from ..errors import InputError, MassError, died
from . import protocol
from .protocol import TAIL, Detailed, Lines, Request, TextLines

State = Literal["waiting", "done", "failed", "cancelled"]
Reply = dict[str, Any]

_KEEPING_S = 150.0
"""Time a cancelled request that keeps its results may take to write them, counted from its last message."""


class WorkerDied(Detailed):
    """The worker process exited during a request; its details are the last lines it wrote on standard error."""


class Transport(Protocol):
    """A worker process seen from the client.

    It may have an attribute `reason`, the MassError for which the process ended.
    """

    def start(self, on_output: Callable[[bytes], None], on_errors: Callable[[str], None], on_end: Callable[[int], None]) -> None:
        """Start the process.

        Args:
            on_output: gets the bytes of standard output in any portions.
            on_errors: gets the text of standard error in any portions.
            on_end: gets the exit code, after everything else.

        Raises:
            DeviceError: if it cannot be started.
        """

    def write(self, data: bytes) -> None:
        """Send bytes to its standard input; nothing happens if it has ended."""

    def close_input(self) -> None:
        """End its standard input, which ends the worker."""

    def kill(self) -> None:
        """End it and all its children at once."""

    def running(self) -> bool:
        """True if it is running."""


def end_or_kill(transport: Transport, wait_s: float) -> None:
    """End a process's standard input and wait; kill it if it has not ended by then."""
    transport.close_input()
    until = time.monotonic() + wait_s
    while transport.running() and time.monotonic() < until:
        time.sleep(0.01)
    if transport.running():
        transport.kill()


def _nothing(*_: object) -> None:
    """Default of the callbacks: does nothing."""


@dataclass(kw_only=True, eq=False)
class Call:
    """A request under way, with the callbacks of its outcome."""

    request: Request
    progress: Callable[..., object]
    done: Callable[[Reply], object]
    failed: Callable[[MassError], object]
    cancelled: Callable[[], object]
    stop: Callable[["Call"], None]
    """Asks the worker to stop it."""
    state: State = "waiting"
    stopping: bool = False
    """True if it was cancelled and waits for the worker to confirm."""
    deadline: float | None = None
    """Time at which a worker that has not exited is killed."""

    @property
    def id(self) -> int:
        """Its number."""
        return self.request.id

    @property
    def method(self) -> str:
        """The request."""
        return self.request.method

    def cancel(self) -> None:
        """Stop it: the worker is asked first; if it does not answer in time, it is killed. Either way the call ends as cancelled."""
        if self.state == "waiting" and not self.stopping:
            self.stopping = True
            self.stop(self)

    @property
    def keeps(self) -> bool:
        """True if a cancelled request keeps its result so far: it then ends as the worker says."""
        return self.method in protocol.KEEPING

    def advance(self, stage: str, fraction: float, eta_s: float | None, values: dict[str, float] | None) -> None:
        """Report its progress."""
        if not self.stopping:
            self.progress(stage, fraction, eta_s, *([values] if values else []))

    def end(self, outcome: Reply | MassError | None) -> None:
        """Report its outcome: a reply, an error, or (None) cancelled. A cancelled call ends as cancelled, unless it keeps its result."""
        if self.state != "waiting":
            return
        if (self.stopping and not self.keeps) or outcome is None:
            self.state = "cancelled"
            self.cancelled()
        elif isinstance(outcome, MassError):
            self.state = "failed"
            self.failed(outcome)
        else:
            self.state = "done"
            self.done(outcome)


@dataclass(eq=False)
class _Process:
    """One worker process, from start to end."""

    transport: Transport
    hello: Request
    until: float
    """Time by which it must have answered `hello`."""
    started: bool = False
    ready: bool = False
    """True once it has answered `hello` with our version; requests are held until then."""
    lines: Lines = field(default_factory=Lines)
    words: TextLines = field(default_factory=TextLines)


class Client:
    """Client of one worker, which it starts when a request needs one.

    Args:
        transport: makes a worker process, not yet started.
        grace_s: how long a cancelled request may take to stop before the worker is killed.
        start_s: how long a new worker may take to answer `hello`; the first import of PyTorch is slow.
        clock: monotonic time in seconds.
        on_log: gets a line of the record at a time: what the worker writes on standard error, and what cannot be parsed.
        on_started: called when a worker is ready; True: in place of one that died or was killed.
    """

    def __init__(
        self,
        transport: Callable[[], Transport],
        *,
        grace_s: float = 1.5,
        start_s: float = 180.0,
        clock: Callable[[], float] = time.monotonic,
        on_log: Callable[[str], None] | None = None,
        on_started: Callable[[bool], None] | None = None,
    ) -> None:
        self._new_transport = transport
        self._grace_s, self._start_s, self._clock = grace_s, start_s, clock
        self._log = on_log or (lambda text: None)
        self._started = on_started or (lambda again: None)
        self._process: _Process | None = None
        self._replaced = False
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count(1)
        self._later: list[Callable[[], None]] = []
        self.worker: dict[str, Any] = {}
        """Result of the latest worker's `hello`; empty before it."""

    @property
    def ready(self) -> bool:
        """True if a worker is running and has answered `hello`."""
        return self._process is not None and self._process.ready

    @property
    def busy(self) -> bool:
        """True if a call is under way."""
        return bool(self._calls)

    def request(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        progress: Callable[..., object] | None = None,
        done: Callable[[Reply], object] = _nothing,
        failed: Callable[[MassError], object] = _nothing,
        cancelled: Callable[[], object] = _nothing,
    ) -> Call:
        """Send a request to the worker; returns at once. Exactly one of done, failed and cancelled is called later.

        Args:
            method: see docs/formats.md.
            params: of the method; plain JSON values.
            progress: gets the stage, its fraction done from 0 to 1, the seconds left or None, and, where there are any, numbers by name.
            done: gets the reply: `result`, `timings`, `device`, `peak_memory`.
            failed: gets the error; that the worker cannot be started is one too.
            cancelled: called when the call was cancelled and nothing more of it comes.
        """
        request = Request(id=next(self._numbers), method=method, params=params or {})
        request.line()  # values that JSON does not know are the caller's mistake and raised at once
        call = Call(request=request, progress=progress or _nothing, done=done, failed=failed, cancelled=cancelled, stop=self._stop)
        self._calls[call.id] = call
        if self._process is None:
            self._start()
        elif self._process.ready:
            self._process.transport.write(request.line())
        return call

    def tick(self) -> None:
        """Do what is due; to be called about ten times a second."""
        due, self._later = self._later, []
        for action in due:
            action()
        now = self._clock()
        if any(call.deadline is not None and now >= call.deadline for call in self._calls.values()):
            self._log("The worker did not stop in time and was killed.")
            self._replace()
        process = self._process
        if process is not None and not process.ready and now >= process.until:
            self._kill()
            error = WorkerDied(
                f"The worker did not answer within {self._start_s:.0f} s of its start.",
                "Try again; a virus scanner can make the first start slow.",
                "\n".join(process.words.tail),
            )
            self._fail(list(self._calls.values()), error)

    def close(self, wait_s: float = 1.0) -> None:
        """End the worker, by force if it does not end in time. Calls under way end as cancelled, without callbacks.

        Args:
            wait_s: how long it may take to end by itself; afterwards it is killed.
        """
        process, self._process = self._process, None
        for call in self._calls.values():
            call.state = "cancelled"
        self._calls.clear()
        self._later.clear()
        self._replaced = False
        if process is not None:
            end_or_kill(process.transport, wait_s)

    def _start(self) -> None:
        """Start a worker and send `hello`. If that fails, the calls fail at the next tick."""
        hello = Request(id=next(self._numbers), method="hello", params={"version": protocol.VERSION})
        self.worker = {}
        try:
            process = self._process = _Process(self._new_transport(), hello, self._clock() + self._start_s)
            process.transport.start(
                lambda data: self._received(process, data),
                lambda text: self._on_errors(process, text),
                lambda code: self._ended(process, code),
            )
        except MassError as error:
            self._process = None
            self._later.append(partial(self._fail, list(self._calls.values()), error))
            return
        process.started = True
        process.transport.write(hello.line())

    def _replace(self) -> None:
        """Kill the worker; cancelled calls end, other calls are sent to a new one."""
        self._kill()
        for call in [call for call in self._calls.values() if call.stopping]:
            self._end(call, None)
        if self._calls and self._process is None:
            self._start()

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            self._replaced = True
            process.transport.kill()

    def _stop(self, call: Call) -> None:
        """Ask the worker to stop a call, and kill it if the call does not end in time."""
        if self._process is None or not self._process.ready:
            self._later.append(lambda: self._end(call, None))  # it has not been sent
            return
        call.deadline = self._clock() + (_KEEPING_S if call.keeps else self._grace_s)
        self._process.transport.write(Request(id=next(self._numbers), method="cancel", params={"id": call.id}).line())

    def _received(self, process: _Process, data: bytes) -> None:
        """Handle bytes of a worker's standard output."""
        for line in process.lines.feed(data):
            if process is self._process:  # a callback may have closed the client
                self._on_line(process, line)

    def _on_line(self, process: _Process, line: bytes) -> None:
        """Handle one line of a worker."""
        try:
            message = protocol.from_line(line)
        except InputError as error:
            self._log(f"Not understood: {error.message}")
            return
        number, event = message.get("id"), message.get("event")
        if not process.ready and number == process.hello.id and event in protocol.LAST:
            self._on_hello(process, message)
            return
        call = self._calls.get(number) if isinstance(number, int) else None
        if event == "log":
            self._log(str(message.get("text", "")))
        elif call is not None and event == "progress":
            if call.keeps and call.deadline is not None:  # what it keeps is on its way
                call.deadline = self._clock() + _KEEPING_S
            call.advance(str(message.get("stage", "")), *_how_far(message), _values(message))
        elif call is not None and event in protocol.LAST:
            self._end(call, message if event == "done" else protocol.error_of(message) if event == "failed" else None)
        elif event == "failed":
            self._log(f"The worker: {protocol.error_of(message)}")
        elif event != "done":  # the answer to a cancel
            self._log(f"Not understood: {protocol.shortened(line)}.")

    def _on_hello(self, process: _Process, message: dict[str, Any]) -> None:
        """Handle the answer to `hello`: send the requests that waited for it, or end a worker of another version."""
        result = message.get("result")
        greeting: dict[str, Any] = result if isinstance(result, dict) else {}
        theirs = greeting.get("version")
        if message["event"] == "done" and theirs == protocol.VERSION:
            process.ready = True
            self.worker = greeting
            self._started(self._replaced)
            self._replaced = False
            for call in list(self._calls.values()):
                if process is self._process and not call.stopping:
                    process.transport.write(call.request.line())
            return
        self._kill()
        refused = message["event"] == "failed"
        error = protocol.error_of(message) if refused else protocol.other_version(theirs, protocol.VERSION)
        self._fail(list(self._calls.values()), error)

    def _on_errors(self, process: _Process, text: str) -> None:
        """Log text of a worker's standard error."""
        for line in process.words.feed(text):
            self._log(line)

    def _ended(self, process: _Process, code: int) -> None:
        """The worker process has exited."""
        if process is not self._process:
            return  # killed, or closed
        if not process.started:  # within `request`, which makes no callback
            self._later.append(lambda: self._ended(process, code))
            return
        self._process, self._replaced = None, True
        rest = process.lines.rest().decode("utf-8", "replace")
        tail = [line for line in (*process.words.tail, rest, process.words.rest()) if line.strip()][-TAIL:]
        known: MassError | None = getattr(process.transport, "reason", None)
        cure = "Try again; it will be restarted. If it happens again, close other programs: memory may have run out."
        error = known or WorkerDied(died("worker", code, tail), cure, "\n".join(tail))
        self._fail(list(self._calls.values()), error)

    def _fail(self, calls: Sequence[Call], error: MassError) -> None:
        """These calls failed; those their callbacks make did not."""
        for call in calls:
            self._end(call, error)

    def _end(self, call: Call, outcome: Reply | MassError | None) -> None:
        """End a call; it is removed before its callback, which may make the next request."""
        if self._calls.pop(call.id, None) is not None:
            call.end(outcome)


def _how_far(message: dict[str, Any]) -> tuple[float, float | None]:
    """Fraction and seconds left in a progress message; what is no number counts as nothing."""
    fraction, eta_s = message.get("fraction"), message.get("eta_s")
    return (
        float(fraction) if isinstance(fraction, (int, float)) else 0.0,
        float(eta_s) if isinstance(eta_s, (int, float)) else None,
    )


def _values(message: dict[str, Any]) -> dict[str, float] | None:
    """Numbers in a progress message; other values are left out."""
    values = message.get("values")
    found = values if isinstance(values, dict) else {}
    return {str(name): value for name, value in found.items() if isinstance(value, (int, float)) and not isinstance(value, bool)} or None
