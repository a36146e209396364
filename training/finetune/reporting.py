"""Progress reports of a finetuning run, and what may stop it: a signal, its time limit, the end of its input."""

import os
import sys
import threading
import time
from collections.abc import Mapping

from mass_core.console import Output

from ..runs.stopping import Signals
from .config import FinetuneConfig

_ENDING_S = 120.0
"""Seconds a run may take to write its result once its input has ended."""


class FinetuneProgress:
    """Destination of a run's messages, and the check for a stop.

    Args:
        output: a person at a terminal, or a program.
        signals: noted during the run.
        minutes: its time; None: as long as it takes.
        bound_to_input: the run stops when its standard input ends, so that it does not outlive the program that started it.
        quiet: report nothing; one process of a run reports.
    """

    def __init__(
        self, output: Output, signals: Signals, minutes: float | None, *, bound_to_input: bool = False, quiet: bool = False
    ) -> None:
        self._output, self._signals, self._quiet = output, signals, quiet
        self._until = time.monotonic() + 60 * minutes if minutes else float("inf")
        self._began: tuple[float, int] | None = None
        self._ended = threading.Event()
        self.warnings: list[str] = []
        if bound_to_input:
            threading.Thread(target=self._listen, daemon=True).start()

    def cancelled(self) -> bool:
        """True if the user stopped the run."""
        return self._signals.stop_requested or self._ended.is_set()

    def stopping(self) -> bool:
        """True if the run should stop, for any reason."""
        return self.cancelled() or time.monotonic() > self._until

    @property
    def reason(self) -> str:
        """The reason to stop."""
        return "cancelled" if self.cancelled() else "budget"

    def progress(self, stage: str, fraction: float, eta_s: float | None, values: Mapping[str, float] | None = None) -> None:
        """Report the progress of a stage."""
        if not self._quiet:
            self._output.progress(stage, fraction, eta_s, values)

    def warn(self, text: str) -> None:
        """Something the user should know."""
        if text not in self.warnings:
            self.warnings.append(text)
            if not self._quiet:
                self._output.warn(text)

    def trained(self, step: int, config: FinetuneConfig, means: Mapping[str, float]) -> None:
        """Report a finished step, with the means for the log if it is due."""
        now = time.monotonic()
        began, first = self._began = self._began or (now, step)
        left = (now - began) / (step - first) * (config.steps - step) if step > first else None
        values = {"epoch": step // config.steps_per_epoch, "step": step, "loss": means["loss"]} if means else None
        self.progress("train", step / config.steps, left and min(left, max(0.0, self._until - now)), values)

    def validated(self, step: int, config: FinetuneConfig, scores: Mapping[str, float], names: Mapping[int, str]) -> None:
        """Report a finished validation."""
        epoch = step // config.steps_per_epoch
        self.progress("validate", 1.0, 0.0, {"epoch": epoch, "step": step, **scores})
        each = ", ".join(f"{name} {scores[f'dice_{value}']:.3f}" for value, name in names.items() if f"dice_{value}" in scores)
        if not self._quiet:
            self._output.log(f"epoch {epoch}: Dice {scores['val_dice']:.3f} ({each})")

    def _listen(self) -> None:
        """Read standard input to its end."""
        while os.read(sys.stdin.fileno(), 1 << 12):
            pass
        self._ended.set()
        time.sleep(_ENDING_S)
        os._exit(1)  # the program that started it is gone and waits for no result
