"""Log of a run: `log.jsonl`, one line per report, and a progress bar."""

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from ..run_log import read_log
from .distributed import ProcessGroup
from .settings import RunSettings
from .tracking import boards

PATIENCE_S = 10.0
"""Work that may be done sooner shows its bar only then."""


class Logbook:
    """Collects values on the device and writes their means every few steps, so that logging never makes the device wait."""

    def __init__(
        self,
        config: RunSettings,
        folder: Path,
        group: ProcessGroup,
        *,
        start: int,
        steps: int,
        minutes: float = 0,
        tensorboard: bool = False,
        bar: bool = True,
    ) -> None:
        """Append to `log.jsonl` in the folder of a run, and show everything on its boards as well; only the leading process writes.

        Lines of steps that will be run again are left out by readers, the last one counts. `minutes`, if any, end the run before its last
        step.

        Raises:
            InputError: if the library of a board is missing.
        """
        settings = config.as_json()
        self.boards = boards(folder, start, tensorboard=tensorboard, tracker=config.tracker, config=settings) if group.leads else []
        path = folder / "log.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.file = Path(path if group.leads else os.devnull).open("a", encoding="utf-8")
        limit = f"{minutes:g} min at most" if minutes else None
        self.bar = progress_bar(total=steps, initial=start, unit="step", desc=limit) if bar and group.leads else None
        self.every = config.log_every
        self._began = time.perf_counter() - 60 * _minutes(path, start)
        self.waiting: dict[str, list[Any]] = {}

    def add(self, step: int, **values: Any) -> dict[str, float]:
        """Note this step's values; on every `every`-th step write and return their means."""
        for name, value in values.items():
            self.waiting.setdefault(name, []).append(value)
        if self.bar is not None:
            self.bar.update()
        if step % self.every:
            return {}
        means = {name: _mean(kept) for name, kept in self.waiting.items()}
        self.waiting.clear()
        self.note(step, **means)
        if self.bar is not None:
            self.bar.set_postfix({name: f"{value:.3g}" for name, value in means.items()}, refresh=False)
        return means

    def note(self, step: int, **values: float) -> None:
        """Write values that are not means, and how many minutes the run has taken, those before it was resumed included."""
        minutes = (time.perf_counter() - self._began) / 60
        self.file.write(json.dumps({"step": step, **values, "minutes": round(minutes, 3)}) + "\n")
        self.file.flush()
        for board in self.boards:
            for name, value in values.items():
                board.add_scalar(name, value, step)

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()
        self.file.close()
        for board in self.boards:
            board.close()


def _minutes(path: Path, step: int) -> float:
    """Minutes a run took up to a step, read from its log."""
    if not step or not path.exists():
        return 0.0
    minutes_at = read_log(path).get("minutes", {})
    return max((minutes for at, minutes in minutes_at.items() if at <= step), default=0.0)


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> Any:
    """A bar of `tqdm` with the time left; where standard error is a file, and every update a line, one a minute."""
    from tqdm import tqdm

    return tqdm(items, dynamic_ncols=True, mininterval=2 if sys.stderr.isatty() else 60, **options)


def _mean(values: list[Any]) -> float:
    if isinstance(values[0], torch.Tensor):
        return float(torch.stack(values).float().mean())
    return sum(values) / len(values)
