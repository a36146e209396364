"""SIGTERM and Ctrl-C end a run between two steps, after it has saved its state."""

import signal
import sys
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """While entered, a signal sets `stop_requested`. Repeated ones change nothing: `torchrun` passes on what the terminal sends too."""

    def __init__(self) -> None:
        self.stop_requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.stop_requested = True


SAVED = "Saved at step"
"""Beginning of the message of a run that stopped before its last step."""


def report_saved(step: int, steps: int, resume: str) -> None:
    """Print on standard error that a run stopped before its last step, and how to resume it.

    Args:
        step: it stopped at.
        steps: of the whole run.
        resume: as the run was started; auto: the same command resumes it.
    """
    if step < steps:
        again = "the same command" if resume == "auto" else "the same command with --resume"
        sys.stderr.write(f"{SAVED} {step} of {steps}; {again} continues from there.\n")


def ignore_interrupt(worker: int) -> None:
    """For the loader's processes: Ctrl-C reaches them too, but the run still needs their batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
