"""SIGTERM and Ctrl-C, noted instead of obeyed at once: the run saves and leaves between two steps."""

import signal
import sys
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """While entered, a signal sets `asked`. Repeated ones change nothing: `torchrun` passes on what the terminal sends too."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


SAVED = "Saved at step"
"""Beginning of what a run says that stopped before its last step."""


def tell_saved(step: int, steps: int, resume: str) -> None:
    """Print on standard error that a run stopped before its last step, and how to resume it.

    Args:
        step: it stopped at.
        steps: of the whole run.
        resume: as it was started; auto: it goes on by itself.
    """
    if step < steps:
        again = "the same command" if resume == "auto" else "the same command with --resume"
        sys.stderr.write(f"{SAVED} {step} of {steps}; {again} continues from there.\n")


def ignore_interrupt(worker: int) -> None:
    """For the loader's processes: Ctrl-C reaches them too, but the run still needs their batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
