"""Progress reporting and cancellation."""

import time
from collections.abc import Callable

from .errors import Cancelled

Report = Callable[[str, float, float | None], None]
"""Called with the stage, its fraction done from 0 to 1, and the seconds left (None: not known yet)."""


class Steps:
    """Counts the steps of a run's stages.

    Args:
        report: called at every step.
        cancelled: called before every step; true stops the run.
    """

    def __init__(self, report: Report | None = None, cancelled: Callable[[], bool] | None = None) -> None:
        self._report = report
        self._cancelled = cancelled
        self._stage = ""
        self._last = time.monotonic()
        self.seconds: dict[str, float] = {}
        """Wall time of every stage so far; time between two steps belongs to the stage of the first."""

    def at(self, stage: str, done: float, total: float) -> None:
        """`done` of `total` parts of a stage are over.

        Raises:
            Cancelled: if the user stopped the run.
        """
        if self._cancelled is not None and self._cancelled():
            raise Cancelled
        self.stop_clock()
        self._stage = stage
        spent = self.seconds.setdefault(stage, 0.0)
        if self._report is not None:
            left = spent / done * (total - done) if done else None
            self._report(stage, done / total if total else 1.0, left)

    def stop_clock(self) -> None:
        """Count the time up to now to the stage that ran."""
        now = time.monotonic()
        if self._stage:
            self.seconds[self._stage] += now - self._last
        self._last = now
