"""The worker process, which owns PyTorch: JSON lines in and out, one request at a time, models and scans cached.

A thread listens, so that a request can be cancelled while another is computed; all computing happens on the main thread. PyTorch is loaded
when it is first needed: a worker whose PyTorch is broken can still say so.
"""

import os
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from .. import __version__
from .. import devices as machine
from ..errors import Cancelled, InputError, is_out_of_memory
from . import protocol
from .protocol import Lines, Request, to_line

_CHUNK = 1 << 16
_PROGRESS_S = 0.1
"""Least time between two progress messages of a stage, but for its end."""
_ENDING_S = 5.0
"""Seconds running work may take to stop once standard input has ended."""


def claim_standard_streams() -> tuple[int, int]:
    """File descriptors of the process's own standard input and output, which nothing else can use from now on.

    A library that prints does so on standard error, one that reads finds nothing.
    """
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


class Job:
    """The request being computed: sends its progress and can be cancelled."""

    def __init__(self, request: Request, send: Callable[[dict[str, Any]], None]) -> None:
        self.request = request
        self._send = send
        self._stop = threading.Event()
        self._reported: dict[str, float] = {}

    def cancel(self) -> None:
        """Ask it to stop."""
        self._stop.set()

    def cancelled(self) -> bool:
        """True if it shall stop."""
        return self._stop.is_set()

    def progress(self, stage: str, fraction: float, eta_s: float | None = None, values: Mapping[str, float] | None = None) -> None:
        """Report the progress of a stage; reports that follow too closely are left out, but never those with values."""
        now = time.monotonic()
        if fraction < 1 and not values and now - self._reported.get(stage, -_PROGRESS_S) < _PROGRESS_S:
            return
        self._reported[stage] = now
        left = None if eta_s is None else round(eta_s, 2)
        message = {"id": self.request.id, "event": "progress", "stage": stage, "fraction": round(fraction, 4), "eta_s": left}
        self._send({**message, "values": dict(values)} if values else message)

    def log(self, text: str) -> None:
        """A line for the record."""
        self._send({"id": self.request.id, "event": "log", "text": text})


class Service(Protocol):
    """Computes the results of requests."""

    def answer(self, job: Job) -> dict[str, Any]:
        """`result`, `timings`, `device` and `peak_memory` of the reply to a job; raises what it fails of."""

    def unload(self) -> None:
        """Release everything that is kept, and its memory."""


class Worker:
    """Reads requests, computes them in order, replies.

    Args:
        requests: file descriptor to read from; its end ends the worker.
        replies: file descriptor to write to.
        new_service: makes what computes, when it is first needed.
        ending_s: how long running work may take to stop after that; then the process is ended.
    """

    def __init__(self, requests: int, replies: int, new_service: Callable[[], Service], *, ending_s: float = _ENDING_S) -> None:
        self._requests, self._replies = requests, replies
        self._new_service = new_service
        self._ending_s = ending_s
        self._service: Service | None = None
        self._writing = threading.Lock()
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._closing = False
        self._over = threading.Event()

    def run(self) -> None:
        """Work until standard input ends or a shutdown is requested."""
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            while (job := self._next()) is not None:
                self._send(self._answer(job))
                if job.request.method == "shutdown":
                    break
        finally:
            self._over.set()

    def _next(self) -> Job | None:
        """The next job, waited for; None: there will be none."""
        with self._changed:
            self._running = None
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if self._closing:
                return None
            self._running = self._waiting.popleft()
            return self._running

    def _answer(self, job: Job) -> dict[str, Any]:
        """Compute, and reply how it ended."""
        try:
            if job.cancelled():
                raise Cancelled
            reply = {"id": job.request.id, "event": "done", **self._computed(job)}
            to_line(reply)  # a result that cannot be sent is a defect like others
            return reply
        except Cancelled:
            return {"id": job.request.id, "event": "cancelled"}
        except Exception as error:  # noqa: BLE001 - the outermost place: whatever happens is reported, and the worker lives on
            reply = protocol.failed(job.request.id, error)
            full = is_out_of_memory(error) or (error.__cause__ is not None and is_out_of_memory(error.__cause__))
            if "details" in reply:
                sys.stderr.write(reply["details"])
        if full and self._service is not None:  # outside the handler: the error held on to what filled the memory
            self._service.unload()
        return reply

    def _computed(self, job: Job) -> dict[str, Any]:
        """The result of a request, with timings, device and memory."""
        if job.request.method == "unload" and self._service is not None:
            self._service.unload()
        if job.request.method in ("shutdown", "unload"):
            return {"result": {}}
        if self._service is None:
            self._service = self._new_service()
        return self._service.answer(job)

    def _listen(self) -> None:
        """Read requests until the input ends, then end the process."""
        lines = Lines()
        with suppress(OSError):  # a broken pipe is an end as well
            while data := os.read(self._requests, _CHUNK):
                for line in lines.feed(data):
                    self._take(line)
        with self._changed:
            self._closing = True
            self._waiting.clear()
            if self._running is not None:
                self._running.cancel()
            self._changed.notify()
        if not self._over.wait(self._ending_s):
            os._exit(1)  # the client is gone, so nothing waits for what cannot be stopped

    def _take(self, line: bytes) -> None:
        """One line from the client."""
        number = None
        try:
            message = protocol.from_line(line)
            number = message.get("id") if isinstance(message.get("id"), int) else None
            request = Request.of(message)
            if request.method == "hello":
                # In a thread of its own: PyTorch's first import takes seconds, during which other requests may arrive.
                threading.Thread(target=self._greet, args=(request,), daemon=True).start()
            elif request.method == "cancel":
                self._cancel(request.params.get("id"))
                self._send({"id": request.id, "event": "done", "result": {}})
            else:
                self._enqueue(request)
        except InputError as error:
            self._send(protocol.failed(number, error))

    def _enqueue(self, request: Request) -> None:
        """Let a request wait for its turn."""
        with self._changed:
            taken = [job.request.id for job in (*self._waiting, self._running) if job is not None]
            if request.id not in taken:
                self._waiting.append(Job(request, self._send))
                self._changed.notify()
                return
        # Without the number, which would end the other one.
        self._send(
            protocol.failed(None, InputError(f"There is a request {request.id} already.", "Give every request a number of its own."))
        )

    def _cancel(self, number: Any) -> None:
        """Stop the request of this number; one that waits is answered at once. One that is over stays as it is."""
        with self._changed:
            if self._running is not None and self._running.request.id == number:
                self._running.cancel()
                return
            job = next((job for job in self._waiting if job.request.id == number), None)
            if job is None:
                return
            self._waiting.remove(job)
        self._send({"id": number, "event": "cancelled"})

    def _greet(self, request: Request) -> None:
        """Answer a hello."""
        theirs = request.params.get("version")
        if theirs != protocol.VERSION:
            self._send(protocol.failed(request.id, protocol.other_version(protocol.VERSION, theirs)))
        else:
            self._send({"id": request.id, "event": "done", "result": about()})

    def _send(self, message: dict[str, Any]) -> None:
        """Write one line, whole."""
        with self._writing:
            protocol.write_whole(self._replies, to_line(message))


def about() -> dict[str, Any]:
    """Version and devices of this worker; a PyTorch that cannot be loaded is reported, too."""
    found: dict[str, Any] = {
        "version": protocol.VERSION,
        "mass_version": __version__,
        "package": str(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "pid": os.getpid(),
    }
    try:
        import torch

        return {**found, "torch": {"version": torch.__version__, "built_for": machine.built_for()}, "devices": machine.devices()}
    except Exception as error:  # noqa: BLE001 - a broken package may raise anything
        return {**found, "torch": {"error": f"{type(error).__name__}: {error}"}, "devices": []}
