"""Waiting for other processes; no test asks how long something takes."""

import time
from collections.abc import Callable

PATIENCE_S = 600.0
"""Ends a test that hangs, on the slowest of machines."""


def wait_until(
    reached: Callable[[], bool], *, news: Callable[[], object] = str, turn: Callable[[], object] = lambda: time.sleep(0.02)
) -> None:
    """Wait until something is so.

    Args:
        reached: it is so.
        news: what to say if it never is.
        turn: done while it is not.
    """
    end = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end, f"waited in vain; {news()}"
        turn()
