"""Runs carried out one after the other; what is finished is not done again, and one that fails does not stop the others."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from mass_core.console import Output
from mass_core.errors import OutputError
from mass_core.files import write_bytes

from ..runs.stopping import SAVED
from .plan import Run

_ROOT = Path(__file__).resolve().parents[2]
_MARK = "done.json"
_GRACE_S = 10.0
"""Time in which an interrupted run ends by itself."""
_PATIENCE_S = 120.0
"""Time it may take to save after being asked to end."""
_SEVERAL = ("training.pretrain", "training.baselines", "training.classify")
"""Modules that `torchrun` may start several processes of."""
_PLACED = ("masks", "pretrain", "evaluate", "classify", "pictures", "speed")
"""Kinds of runs that take --device."""

_BATCHES = ("masks", "datasets")
"""Kinds of runs over scans, of which some may fail."""
_SOME_FAILED = 3

Execute = Callable[[Sequence[str], Path], int]
"""Carries out a command, writing its output to a file; returns its exit status."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The device and the number of processes of a run."""

    device: str = "auto"
    processes: int = 1
    """That share a training."""

    def command(self, run: Run) -> list[str]:
        """The whole command, `mass` or `python -m` in front."""
        program, *words = run.words
        words = [*words, *(["--device", self.device] if run.kind in _PLACED and self.device != "auto" else [])]
        if program == "mass":
            return ["mass", *words]
        if self.processes > 1 and program in _SEVERAL:
            return ["torchrun", "--nproc-per-node", str(self.processes), "-m", program, *words]
        return ["python", "-m", program, *words]


def execute(command: Sequence[str], log: Path) -> int:
    """Carry out a command in a process of its own."""
    modules = {"mass": ["-m", "mass_core"], "torchrun": ["-m", "torch.distributed.run"], "python": []}
    words = [sys.executable, *modules[command[0]], *command[1:]]
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        process = subprocess.Popen(words, stdout=file, stderr=file, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)})
        try:
            return process.wait()
        except BaseException:
            _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process. Ctrl-C has reached it as well, so that it saves and ends by itself; a signal to this program alone has not."""
    for act, patience in ((lambda: None, _GRACE_S), (process.terminate, _PATIENCE_S), (process.kill, _PATIENCE_S)):
        act()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


def ordered(runs: Iterable[Run]) -> list[Run]:
    """Each run once, after those it needs."""
    found: dict[str, Run] = {}

    def add(run: Run) -> None:
        if run.name not in found:
            for other in run.after:
                add(other)
            found[run.name] = run

    for run in runs:
        add(run)
    return list(found.values())


@dataclass
class Pace:
    """Time that the counted work of the runs so far took."""

    seconds: float = 0.0
    tflop: float = 0.0

    def add(self, run: Run, seconds: float) -> None:
        """Add the time of a run; runs whose work is not counted are left out."""
        if run.tflop:
            self.seconds, self.tflop = self.seconds + seconds, self.tflop + run.tflop

    def text(self, runs: Iterable[Run]) -> str:
        """Time these runs will take at that pace, for a message; empty: not known yet."""
        return f", {sum(run.tflop for run in runs) * self.seconds / self.tflop / 3600:.1f} h left" if self.tflop else ""


@dataclass
class Workspace:
    """The runs of a call and what became of them.

    Args:
        output: folder of all runs.
        terminal: receives messages.
    """

    output: Path
    terminal: Output
    failed: set[str] = field(default_factory=set)
    """Names of the runs of this call that failed."""

    def finished(self, run: Run) -> bool:
        """True if a run ended well, now or before."""
        return self._record(run) is not None

    def check(self, runs: Iterable[Run]) -> None:
        """Refuse to go on where a finished run was made by another command.

        Raises:
            OutputError: naming the run and the words that differ.
        """
        for run in runs:
            folder, record = self.output / run.name, self._record(run)
            if record is None:
                continue
            before, now = _options(record["command"]), _options(run.words)
            if record["status"]:
                self.terminal.warn(f"Scans failed in {folder}, see log.txt there; to try them again, delete {_MARK}.")
            if before != now:
                new, gone = ([one for one in some if one not in others] for some, others in ((now, before), (before, now)))
                changes = f"now {' '.join(new) or 'nothing'} in place of {' '.join(gone) or 'nothing'}"
                raise OutputError(
                    f"{folder} was made by another command: {changes}.", "Choose another --output, or delete that folder to make it again."
                )

    def _record(self, run: Run) -> dict[str, Any] | None:
        """The record of a finished run; None: there is none, or it is damaged."""
        try:
            record = json.loads((self.output / run.name / _MARK).read_text(encoding="utf-8"))
            return {"command": list(record["command"]), "status": int(record["status"])}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def obstacle(self, run: Run) -> str:
        """The reason a run cannot be carried out now; empty: it can."""
        for need in run.needs:
            if missing := need.missing():
                return missing
        for other in run.after:
            if other.name in self.failed:
                return f"{other.name} failed."
            if not self.finished(other):
                return self.obstacle(other) or f"{other.name} is not finished."
        return ""

    def work(self, runs: Sequence[Run], machine: Machine, carry_out: Execute) -> None:
        """Carry out the runs that are not finished and can be."""
        left = [run for run in runs if not self.finished(run)]
        pace = Pace()
        for number, run in enumerate(left, 1):
            if self.obstacle(run) or self.finished(run):  # another process may have made it meanwhile
                continue
            folder = self.output / run.name
            folder.mkdir(parents=True, exist_ok=True)
            self.terminal.log(f"[{number}/{len(left)}] {run.name}{pace.text(left[number - 1 :])} (log: {folder / 'log.txt'})")
            began = time.monotonic()
            status = carry_out(machine.command(run), folder / "log.txt")
            seconds = round(time.monotonic() - began, 1)
            if status == 0 and _last_lines(folder / "log.txt", 1).startswith(SAVED):
                self.failed.add(run.name)
                self.terminal.warn(f"{run.name} was stopped before its end; the same command continues it.")
            elif status == 0 or (status == _SOME_FAILED and run.kind in _BATCHES):
                pace.add(run, seconds)
                record = {"command": run.words, "seconds": seconds, "status": status}
                write_bytes(folder / _MARK, json.dumps(record, indent=1).encode())
            else:
                self.failed.add(run.name)
                self.terminal.warn(f"{run.name} failed with exit status {status}: {_last_lines(folder / 'log.txt')}")


def _options(words: Sequence[str]) -> list[str]:
    """A command in pieces: each option with its values."""
    starts = [0, *(place for place, word in enumerate(words) if word.startswith("--")), len(words)]
    return [" ".join(words[start:stop]) for start, stop in pairwise(starts)]


def _last_lines(log: Path, count: int = 2) -> str:
    """The last lines a command wrote; a failed one ends with two."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return " ".join(lines[-count:]).removeprefix("error: ")
