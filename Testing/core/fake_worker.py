"""Test bench of the client: scripted workers, a fake clock, and a record of all callbacks."""

import json
from collections.abc import Callable
from typing import Any

from mass_core.errors import DeviceError, MassError
from mass_core.worker.client import Call, Client


class FakeWorker:
    """A worker process without a process."""

    def __init__(self, *, broken: bool = False, dies_at_once: bool = False) -> None:
        self.broken, self.dies_at_once = broken, dies_at_once
        self.sent: list[dict[str, Any]] = []
        self.alive = self.killed = self.input_closed = False

    def start(self, on_output: Callable[[bytes], None], on_errors: Callable[[str], None], on_end: Callable[[int], None]) -> None:
        if self.broken:
            raise DeviceError("no such python", "install it")
        self.on_output, self.on_errors, self.on_end = on_output, on_errors, on_end
        self.alive = True
        if self.dies_at_once:
            self.die(1)

    def write(self, data: bytes) -> None:
        self.sent += [json.loads(line) for line in data.splitlines()]

    def close_input(self) -> None:
        self.input_closed = True
        self.alive = False

    def kill(self) -> None:
        self.killed = True
        self.alive = False

    def running(self) -> bool:
        return self.alive

    def say(self, **message: Any) -> None:
        self.on_output(json.dumps(message).encode() + b"\n")

    def greet(self, version: int = 1) -> None:
        assert self.sent[0]["method"] == "hello"
        self.say(id=self.sent[0]["id"], event="done", result={"version": version})

    def die(self, code: int) -> None:
        self.alive = False
        self.on_end(code)

    @property
    def methods(self) -> list[str]:
        return [message["method"] for message in self.sent]


class Bench:
    """A client, its workers, a clock, and everything it reported."""

    def __init__(self) -> None:
        self.now = 0.0
        self.workers: list[FakeWorker] = []
        self.next: Callable[[], FakeWorker] = FakeWorker
        self.logged: list[str] = []
        self.started: list[bool] = []
        self.events: list[tuple[str, Any]] = []
        self.client = Client(
            self._new, grace_s=1.5, start_s=60, clock=lambda: self.now, on_log=self.logged.append, on_started=self.started.append
        )

    def _new(self) -> FakeWorker:
        self.workers.append(self.next())
        return self.workers[-1]

    @property
    def worker(self) -> FakeWorker:
        return self.workers[-1]

    def request(self, method: str = "segment", params: dict[str, Any] | None = None, name: str = "") -> Call:
        """A call whose callbacks are written down under its name."""
        return self.client.request(
            method,
            params,
            progress=lambda *step: self.events.append((f"{name}progress", step)),
            done=lambda reply: self.events.append((f"{name}done", reply["result"])),
            failed=lambda error: self.events.append((f"{name}failed", error)),
            cancelled=lambda: self.events.append((f"{name}cancelled", None)),
        )

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.client.tick()

    def error(self) -> MassError:
        """The error of the only event."""
        ((kind, error),) = self.events
        assert kind == "failed"
        return error
