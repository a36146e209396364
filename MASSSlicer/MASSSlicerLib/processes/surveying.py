"""A look at label maps, in a process of its own: Slicer stays usable, and ending the process ends the look."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from mass_core.errors import InputError, MassError
from mass_core.worker.protocol import Lines

from ..install import packages as install
from .engine import worker_environment
from .survey import MARK


class Survey:
    """Begins with `start`.

    Args:
        masks: label maps.
        looked: called with what is found in each: `mask`, and `labels` or `error`.
        finished: called once, with what went wrong or None, also after `cancel`.

    Raises:
        MassError: if there is no Python to run it with.
    """

    def __init__(
        self, masks: Sequence[Path], *, looked: Callable[[dict[str, Any]], None], finished: Callable[[MassError | None], None]
    ) -> None:
        self._masks = [str(mask) for mask in masks]
        self._left = len(masks)
        self._looked, self._finished = looked, finished
        self._lines = Lines()
        self._cancelled = False
        self._program = install.python_slicer()
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(worker_environment())
        self._process.connect("readyReadStandardOutput()", self._read)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._ended)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._not_started)

    def start(self) -> None:
        """Begin; returns at once. `finished` may be called before it returns where the process cannot be started."""
        self._process.start(self._program, [str(Path(__file__).with_name("survey.py"))])
        self._process.write(json.dumps(self._masks).encode())
        self._process.closeWriteChannel()

    def cancel(self) -> None:
        """Stop; what was found stays told."""
        self._cancelled = True
        self._process.kill()

    def _read(self) -> None:
        for line in self._lines.feed(self._process.readAllStandardOutput().data()):
            text = line.decode("utf-8", "replace")
            if text.startswith(MARK) and not self._cancelled:
                self._left -= 1
                self._looked(json.loads(text[len(MARK) :]))

    def _not_started(self, error: int) -> None:
        if error == qt.QProcess.FailedToStart:
            self._ended(-1, 0)

    def _ended(self, code: int, status: int) -> None:
        self._read()
        error = None
        if self._left and not self._cancelled:
            said = self._process.readAllStandardError().data().decode("utf-8", "replace").strip().splitlines()[-1:]
            error = InputError(
                _("The label maps could not be looked at (exit code {code}). {said}").format(code=code, said=" ".join(said)).strip(),
                _("See Status, Install… whether everything that is needed is there."),
            )
        self._finished(error)
