"""What a run leaves to read: `log.jsonl`, one line per report, and a progress bar."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from tqdm import tqdm


class Logbook:
    """Collects values on the device and writes their means every few steps, so that logging never makes the device wait."""

    def __init__(self, path: Path, *, start: int, steps: int, every: int, quiet: bool = False) -> None:
        """Append to `path`; lines of steps that will be run again are left out by readers, the last one counts. `quiet` writes nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = Path(os.devnull if quiet else path).open("a", encoding="utf-8")
        self.bar = tqdm(total=steps, initial=start, unit="step", dynamic_ncols=True, mininterval=2, disable=quiet)
        self.every = every
        self.waiting: dict[str, list[Any]] = {}

    def add(self, step: int, **values: Any) -> None:
        """Note this step's values; on every `every`-th step write their means."""
        for name, value in values.items():
            self.waiting.setdefault(name, []).append(value)
        self.bar.update()
        if step % self.every == 0:
            means = {name: _mean(kept) for name, kept in self.waiting.items()}
            self.waiting.clear()
            self.file.write(json.dumps({"step": step, **means}) + "\n")
            self.file.flush()
            self.bar.set_postfix({name: f"{value:.3g}" for name, value in means.items()})

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.close()
        self.file.close()


def _mean(values: list[Any]) -> float:
    if isinstance(values[0], torch.Tensor):
        return float(torch.stack(values).float().mean())
    return sum(values) / len(values)
