"""Failures of commands, told as those of `mass`."""

from collections.abc import Callable

from mass_core.console import Terminal, say_all_letters
from mass_core.errors import MassError, known_failures


def answered(work: Callable[[], object]) -> int:
    """Exit status of a command: 0 done, 2 bad input, 130 interrupted before there was anything to save."""
    say_all_letters()
    terminal = Terminal()
    try:
        with known_failures():
            work()
    except KeyboardInterrupt:
        terminal.cancelled()
        return 130
    except MassError as error:
        terminal.failed(error)
        return 2
    return 0
