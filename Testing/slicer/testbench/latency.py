"""Longest block of the event loop, which a user feels as stutter."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from PySide6 import QtCore

_TICK_MS = 2
_LOOK_S = 0.01


class Latency:
    """The longest time between two turns of the event loop."""

    def __init__(self) -> None:
        self.worst_ms = 0.0
        self.where = ""
        """The stack in the middle of the longest hold-up, to see who did it."""
        self._last = time.perf_counter()
        self._stacks: list[str] = []
        """Since the loop came round last; its end may be something else that is waited for."""

    @property
    def watched(self) -> bool:
        """True if the current block was noticed."""
        return bool(self._stacks)

    def turn(self) -> None:
        """The loop came round."""
        now = time.perf_counter()
        gap_ms = (now - self._last) * 1000
        if gap_ms > self.worst_ms:
            self.worst_ms, self.where = gap_ms, self._stacks[len(self._stacks) // 2] if self._stacks else ""
        self._last, self._stacks = now, []

    def look(self, thread: int) -> None:
        """Remember where the main thread is, from another thread."""
        if time.perf_counter() - self._last > 2 * _LOOK_S:
            frame = sys._current_frames().get(thread)
            self._stacks += ["".join(traceback.format_stack(frame))] if frame is not None else []


@contextmanager
def measured() -> Iterator[Latency]:
    """Measure while the event loop runs in this thread; time in which a test does not let it run counts as well."""
    found = Latency()
    timer = QtCore.QTimer()
    timer.setTimerType(QtCore.Qt.PreciseTimer)
    timer.timeout.connect(found.turn)
    timer.start(_TICK_MS)
    over = threading.Event()
    main = threading.get_ident()

    def watch() -> None:
        while not over.wait(_LOOK_S):
            found.look(main)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
        found.turn()
    finally:
        over.set()
        watcher.join()
        timer.stop()
