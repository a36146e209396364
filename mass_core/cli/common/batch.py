"""Several targets in one run, and how it ends."""

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...console import BATCH, Output
from ...errors import MassError, known_failures
from ...outputs import Job
from ...progress import Steps


class Batch:
    """The targets of a run: a failure of one among several is reported, and the others go on.

    Args:
        output: receives failures.
        targets: how many there are.
        visits: how often this process works on one of them, for the time left.
    """

    def __init__(self, output: Output, targets: int, visits: int) -> None:
        self._output, self._alone = output, targets == 1
        self._begun, self._visits = 0, visits
        self._steps = Steps(output.progress)
        self.failures: dict[Path, MassError] = {}

    @contextmanager
    def target(self, path: Path) -> Iterator[None]:
        """Context of the work on a target; the failure of an only target, and a defect of this program, is raised."""
        if self._visits > 1:
            self._steps.at(BATCH, self._begun, self._visits)
        self._begun += 1
        try:
            with known_failures():
                yield
        except MassError as error:
            if self._alone:
                raise
            self._output.failed(error, target=str(path))
            self.failures[path] = error

    @property
    def exit_status(self) -> int:
        """Of the command: 3 if a target failed."""
        return 3 if self.failures else 0


def result_of(job: Job, values: Mapping[str, Any], began: float) -> dict[str, Any]:
    """The JSON values of a target begun at this time, with its files and the seconds it took."""
    picture = None if job.picture is None else str(job.picture)
    seconds = round(time.monotonic() - began, 3)
    return {**values, "target": str(job.target), "output": str(job.output), "picture": picture, "seconds": seconds}


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, which queues and systems end programs with, does what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # Python hands signals to the main thread only
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
