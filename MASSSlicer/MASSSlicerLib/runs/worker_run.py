"""The part that all runs share: a run sends requests to the worker and ends once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from mass_core.errors import MassError
from mass_core.worker.client import Call, Client


class WorkerRun(ABC):
    """A run of requests to the worker; a subclass reports its end in `_finish`.

    Args:
        client: to the worker.
        log: gets the traceback of a defect of the program.
    """

    def __init__(self, client: Client, log: Callable[[str], None]) -> None:
        self.active = False
        self._client, self._log = client, log
        self._call: Call | None = None
        """The request in progress."""

    def cancel(self) -> None:
        """End it at once; what is finished is kept, the request in progress leaves nothing behind."""
        call, self._call = self._call, None
        self._end()
        if call is not None:
            call.cancel()

    def _end(self, error: MassError | None = None, **outcome: Any) -> None:
        """End the run, unless it has ended; the error stopped all of it."""
        if self.active:
            self.active, self._call = False, None
            self._log_details(error)
            self._finish(error, **outcome)

    @abstractmethod
    def _finish(self, error: MassError | None) -> None:
        """Clean up and report the end."""

    def _log_details(self, error: MassError | None) -> None:
        if details := getattr(error, "details", ""):
            self._log(details)
