"""Finetuning in a child process, whose messages are relayed, so that the calling program stays responsive. Standard library only."""

import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from ..errors import Cancelled, DeviceError, InputError, died
from ..outputs import check_free
from ..schema import read
from . import protocol
from .client import end_or_kill
from .protocol import Lines, TextLines
from .requests import Finetune
from .transport import SubprocessTransport

_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds this package and `training`."""
_NAME = "finetuning process"
_POLL_S = 0.1
_ENDING_S = 120.0
"""Time a stopped run may take to write its results."""


class Progress(Protocol):
    """Callback for the progress of a run: stage (prepare, labels, encode, train, validate), done share of it, seconds left, and numbers."""

    def __call__(self, stage: str, fraction: float, eta_s: float | None, values: Mapping[str, float] | None = None) -> object:
        """Report progress."""


def finetune(
    request: Finetune | Mapping[str, Any],
    *,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Finetune weights to fixed classes, in a process of its own that does not outlive this one.

    Args:
        request: what for; see docs/formats.md.
        progress: receives the progress.
        cancelled: asked ten times a second; true stops the run. What it has validated by then is kept.
        log: gets a line of the record at a time.

    Returns:
        `output`, `labels`, `best_dice`, `best_epoch`, `epochs`, `stopped` and `warnings` (docs/formats.md).

    Raises:
        MassError: if it cannot be done; also what went wrong in the process.
        Cancelled: if it was stopped before there was anything to keep.
    """
    request = request if isinstance(request, Finetune) else read(Finetune, request)
    if not request.output or Path(request.output).suffix != ".safetensors":
        raise InputError(f"The output is {request.output!r}, which is not a valid file name for weights.", "End it with .safetensors.")
    check_free([Path(request.output)], overwrite=request.overwrite, inputs=inputs(request))
    if not (_ROOT / "training" / "finetune" / "__main__.py").is_file():
        cure = "Install it from a checkout of the project: pip install -e '.[train]'"
        raise DeviceError(f"This installation cannot train: there is no folder training in {_ROOT}.", cure)
    with tempfile.TemporaryDirectory(prefix="mass-finetune-", dir=_beside(request.folder), ignore_cleanup_errors=True) as place:
        file = Path(place) / "request.json"
        whole = _absolute(replace(request, folder=request.folder or str(Path(place) / "run")))
        file.write_text(json.dumps(asdict(whole)), encoding="utf-8")
        child = _Child(file, log or (lambda text: None))
        try:
            return child.outcome(progress or (lambda *_: None), cancelled or (lambda: False))
        finally:
            child.end()


def inputs(request: Finetune) -> list[str]:
    """The files and folders a request reads, which are never written over."""
    pairs = [path for case in request.cases for path in (case.image, case.mask)]
    return [request.weights, *pairs, *([request.dataset] if request.dataset else [])]


def _beside(folder: str | None) -> Path | None:
    """Folder around that of a run, with which the request goes where it is temporary; None: the system's for temporary files."""
    place = None if folder is None else Path(folder).absolute().parent
    return place if place is not None and place.is_dir() else None


def _absolute(request: Finetune) -> Finetune:
    """The request with paths that mean the same from another folder."""

    def path(text: str | None) -> str | None:
        return None if text is None else str(Path(text).absolute())

    cases = [replace(case, image=str(Path(case.image).absolute()), mask=str(Path(case.mask).absolute())) for case in request.cases]
    weights = str(Path(request.weights).absolute()) if Path(request.weights).exists() else request.weights
    return replace(
        request, cases=cases, weights=weights, dataset=path(request.dataset), output=path(request.output), folder=path(request.folder)
    )


class _Child:
    """The process that trains."""

    def __init__(self, request: Path, log: Callable[[str], None]) -> None:
        # Started in the folder of both packages: another package called training may be installed, and Python looks there first.
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
        self._log, self._lines, self._words = log, Lines(), TextLines()
        self._messages: deque[dict[str, Any]] = deque()
        self._code: int | None = None
        self._transport = SubprocessTransport(
            [sys.executable, "-m", "training.finetune", "--config", str(request), "--json", "--bound-to-input"],
            environment={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            folder=_ROOT,
            own_group=False,  # what kills this process and its children kills it too
            name=_NAME,
        )
        self._transport.start(self._received, self._on_errors, self._ended)

    def outcome(self, progress: Progress, cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Relay its messages until it is over.

        Raises:
            MassError: if it failed or died.
            Cancelled: if it was cancelled, or does not stop in time.
        """
        until = float("inf")
        while self._code is None and time.monotonic() < until:
            if until == float("inf") and cancelled():
                self._transport.close_input()
                until = time.monotonic() + _ENDING_S
            self._transport.pump(_POLL_S)
            while self._messages:
                message = self._messages.popleft()
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
        if self._code is None or cancelled():
            raise Cancelled
        cure = "Try again with a smaller batch_size, and close other programs: memory may have run out."
        raise DeviceError(died(_NAME, self._code, self._words.tail), cure)

    def end(self) -> None:
        """End the process: it may finish what it is writing, then it is killed."""
        end_or_kill(self._transport, 10.0)
        self._transport.pump()

    def _received(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            try:
                self._messages.append(protocol.from_line(line))
            except InputError as error:
                self._log(f"Not understood: {error.message}")

    def _on_errors(self, text: str) -> None:
        for line in self._words.feed(text):
            self._log(line)

    def _ended(self, code: int) -> None:
        self._code = code
