"""Finetuning for a program that must stay responsive: a process of its own trains, this one relays what it tells. Standard library only."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any, Protocol

from ..errors import Cancelled, DeviceError, InputError
from ..failures import ending
from ..outputs import check_free
from . import protocol
from .protocol import Lines
from .requests import Finetune, read

_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds this package and `training`."""
_TAIL = 20
"""Last lines of the process's standard error that are told when it dies."""
_POLL_S = 0.1
_ENDING_S = 120.0
"""How long a stopped run may take to write what it has."""


class Progress(Protocol):
    """Hears how far a run is: stage (prepare, encode, train, validate), done share of it, seconds left, and numbers."""

    def __call__(self, stage: str, fraction: float, eta_s: float | None, values: Mapping[str, float] | None = None) -> object:
        """One piece of news."""


def finetune(
    order: Finetune | Mapping[str, Any],
    *,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Finetune weights to fixed classes, in a process of its own that does not outlive this one.

    Args:
        order: what for; see docs/formats.md.
        progress: hears how far it is.
        cancelled: asked ten times a second; true stops the run. What it has validated by then is kept.
        log: gets a line of the record at a time.

    Returns:
        `output`, `labels`, `best_dice`, `best_epoch`, `epochs`, `stopped` and `warnings` (docs/formats.md).

    Raises:
        MassError: if it cannot be done; also what went wrong in the process.
        Cancelled: if it was stopped before there was anything to keep.
    """
    order = order if isinstance(order, Finetune) else read(Finetune, order)
    if not order.output or Path(order.output).suffix != ".safetensors":
        raise InputError(f"The output is {order.output!r}, which is no name for weights.", "End it with .safetensors.")
    check_free([Path(order.output)], overwrite=order.overwrite, inputs=inputs(order))
    if not (_ROOT / "training" / "finetune" / "__main__.py").is_file():
        raise InputError(f"This installation cannot train: there is no folder training in {_ROOT}.", "Finetune from the project's folder.")
    with tempfile.TemporaryDirectory(prefix="mass-finetune-", ignore_cleanup_errors=True) as place:
        file = Path(place) / "order.json"
        whole = _absolute(replace(order, folder=order.folder or str(Path(place) / "run")))
        file.write_text(json.dumps(asdict(whole)), encoding="utf-8")
        child = _Child(file, log or (lambda text: None))
        try:
            return child.outcome(progress or (lambda *_: None), cancelled or (lambda: False))
        finally:
            child.end()


def inputs(order: Finetune) -> list[str]:
    """The files and folders an order reads, which are never written over."""
    pairs = [path for case in order.cases for path in (case.image, case.mask)]
    return [order.weights, *pairs, *([order.dataset] if order.dataset else [])]


def _absolute(order: Finetune) -> Finetune:
    """The order with paths that mean the same from another folder."""

    def path(text: str | None) -> str | None:
        return None if text is None else str(Path(text).absolute())

    cases = [replace(case, image=str(Path(case.image).absolute()), mask=str(Path(case.mask).absolute())) for case in order.cases]
    weights = str(Path(order.weights).absolute()) if Path(order.weights).exists() else order.weights
    return replace(order, cases=cases, weights=weights, dataset=path(order.dataset), output=path(order.output), folder=path(order.folder))


class _Child:
    """The process that trains."""

    def __init__(self, order: Path, log: Callable[[str], None]) -> None:
        # Started in the folder of both packages: another package called training may be installed, and Python looks there first.
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
        self._log, self._tail = log, deque[str](maxlen=_TAIL)
        self._heard: queue.Queue[dict[str, Any] | None] = queue.Queue()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "training.finetune", "--config", str(order), "--json", "--bound-to-input"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise DeviceError(f"The finetuning process could not be started: {error.strerror}.", "Close other programs.") from error
        assert self._process.stdout is not None and self._process.stderr is not None
        self._readers = [
            threading.Thread(target=reader, args=(pipe,), daemon=True)
            for reader, pipe in ((self._listen, self._process.stdout), (self._read_errors, self._process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def outcome(self, progress: Progress, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Relay what it tells until it is over.

        Raises:
            MassError: what it failed of, or that it died.
            Cancelled: if it says so, or does not stop in time.
        """
        for message in self._messages(cancelled):
            event = message.pop("event", None)
            if event == "progress":
                progress(message["stage"], message["fraction"], message["eta_s"], message.get("values"))
            elif event in ("warning", "log"):
                self._log(str(message.get("message")))
            elif event == "failed":
                raise protocol.error_of(message)
            elif event == "cancelled":
                raise Cancelled
            elif event == "result":
                return message
        if cancelled():
            raise Cancelled
        self._readers[1].join(1.0)
        raise _death(self._process.wait(), list(self._tail))

    def _messages(self, cancelled: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """What it tells, until its output ends; while waiting, whether it shall stop is looked at."""
        until = float("inf")
        while time.monotonic() < until:
            if until == float("inf") and cancelled():
                self._close_input()
                until = time.monotonic() + _ENDING_S
            try:
                message = self._heard.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if message is None:
                return
            yield message

    def end(self) -> None:
        """See to it that the process is gone: it may still finish what it writes, then it is killed."""
        self._close_input()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join(1.0)

    def _close_input(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended by itself
            self._process.stdin.close()

    def _listen(self, pipe: IO[bytes]) -> None:
        """Lines of its standard output; None at the end."""
        for line in _lines(pipe):
            try:
                self._heard.put(protocol.from_line(line))
            except InputError as error:
                self._log(f"Not understood: {error.message}")
        self._heard.put(None)

    def _read_errors(self, pipe: IO[bytes]) -> None:
        for line in _lines(pipe):
            text = line.decode("utf-8", "replace")
            self._tail.append(text)
            self._log(text)


def _lines(pipe: IO[bytes]) -> Iterator[bytes]:
    lines = Lines()
    while data := os.read(pipe.fileno(), 1 << 16):
        yield from lines.feed(data)


def _death(code: int, tail: list[str]) -> DeviceError:
    """What to tell of a process that ended by itself."""
    said = f" The last it said: {' | '.join(tail[-3:])}" if tail else ""
    return DeviceError(
        f"The finetuning process ended in the middle of its work ({ending(code)}).{said}",
        "Try again with a smaller batch_size, and close other programs: memory may have run out.",
    )
