"""Output of commands: text for a person at a terminal, or JSON lines for a program."""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import MassError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


BATCH = "all"
"""Stage of a run over several targets: its bar stays beside that of the target."""
_LINE_S = 60.0
"""Seconds between two lines about the progress of a run, where no bar can be shown."""


def escape_unencodable() -> None:
    """Make standard output and error escape characters that their encoding lacks, such as \\u809d, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def leave_closed_pipe() -> None:
    """Discard further output, since standard output was closed by its reader."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())


class Output:
    """Destination of a command's messages."""

    def progress(self, stage: str, fraction: float, eta_s: float | None, values: Mapping[str, float] | None = None) -> None:
        """Report the fraction of a stage that is done, from 0 to 1, the seconds left if known, and numbers such as losses."""

    def log(self, text: str) -> None:
        """One line about the progress of the run."""

    def warn(self, text: str) -> None:
        """A warning; printed once, however often it is given."""

    def result(self, text: str, **values: Any) -> None:
        """One line of the outcome, and the same as values."""

    def failed(self, error: MassError, **values: Any) -> None:
        """The run, or the case of a batch the values name, failed."""

    def cancelled(self) -> None:
        """The user stopped the run."""

    def close(self) -> None:
        """Nothing more comes."""


class JsonLines(Output):
    """One JSON object a line on standard output: progress, log, warning, result, failed, cancelled."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def progress(self, stage: str, fraction: float, eta_s: float | None, values: Mapping[str, float] | None = None) -> None:
        """See `Output`."""
        more = {"values": dict(values)} if values else {}
        self._line("progress", stage=stage, fraction=round(fraction, 4), eta_s=None if eta_s is None else round(eta_s, 2), **more)

    def log(self, text: str) -> None:
        """See `Output`."""
        self._line("log", message=text)

    def warn(self, text: str) -> None:
        """See `Output`."""
        if text not in self._shown:
            self._shown.add(text)
            self._line("warning", message=text)

    def result(self, text: str, **values: Any) -> None:
        """See `Output`."""
        self._line("result", **values)

    def failed(self, error: MassError, **values: Any) -> None:
        """See `Output`."""
        self._line("failed", error=type(error).__name__, message=error.message, cure=error.cure, **values)

    def cancelled(self) -> None:
        """See `Output`."""
        self._line("cancelled")

    def _line(self, event: str, **values: Any) -> None:
        text = json.dumps({"event": event, **values}, ensure_ascii=False)
        try:
            text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
        except UnicodeEncodeError:
            text = json.dumps({"event": event, **values})
        print(text, flush=True)


class Terminal(Output):
    """Results on standard output; a progress bar, or away from a real terminal a line a minute, warnings and errors on standard error."""

    def __init__(self) -> None:
        self._shown: set[str] = set()
        self._bar: Progress | None = None
        self._stages: dict[str, TaskID] = {}
        self._printed = dict.fromkeys((True, False), time.monotonic())

    def progress(self, stage: str, fraction: float, eta_s: float | None, values: Mapping[str, float] | None = None) -> None:
        """See `Output`."""
        left = "" if eta_s is None or fraction >= 1 else f"{eta_s:.0f} s left"
        eta = "  ".join([left, *(f"{name} {value:.3g}" for name, value in (values or {}).items())])
        if not sys.stderr.isatty():
            if time.monotonic() - self._printed[stage == BATCH] >= _LINE_S:
                self._printed[stage == BATCH] = time.monotonic()
                print(f"{stage}: {100 * fraction:.0f} %  {eta}".rstrip(), file=sys.stderr, flush=True)
            return
        if self._bar is None:
            self._bar = _new_bar()
            self._bar.start()
        if stage not in self._stages:
            for name, other in self._stages.items():
                self._bar.update(other, visible=name == BATCH)
            self._stages[stage] = self._bar.add_task(stage, total=1.0, eta="")
        self._bar.update(self._stages[stage], completed=fraction, eta=eta, visible=True)

    def log(self, text: str) -> None:
        """See `Output`."""
        self.close()
        print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """See `Output`."""
        if text not in self._shown:
            self._shown.add(text)
            self.close()
            print(f"{_colored('note:', '33')} {text}", file=sys.stderr)

    def result(self, text: str, **values: Any) -> None:
        """See `Output`."""
        self.close()
        print(text, flush=True)

    def failed(self, error: MassError, **values: Any) -> None:
        """See `Output`."""
        self.close()
        where = f"{values['target']}: " if "target" in values else ""
        print(f"{_colored('error:', '31')} {where}{error.message}", file=sys.stderr)
        if error.cure:
            print(f"       {error.cure}", file=sys.stderr)

    def cancelled(self) -> None:
        """See `Output`."""
        self.close()
        print("Cancelled. No unfinished file was left.", file=sys.stderr)

    def close(self) -> None:
        """Take the bar away, so that text does not run through it."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._stages = {}


def _new_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description:>8}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[eta]}"))
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _colored(text: str, code: str) -> str:
    """Text in a terminal colour, plain where standard error is no terminal."""
    return f"\x1b[1;{code}m{text}\x1b[0m" if sys.stderr.isatty() else text
