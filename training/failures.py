"""Messages and exit statuses of commands that fail, as of `mass`."""

from collections.abc import Callable

from mass_core.console import Terminal, escape_unencodable
from mass_core.errors import MassError, known_failures


def answered(work: Callable[[], int | None]) -> int:
    """Exit status of a command: what it returns, 0 if nothing; 2 bad input, 130 interrupted before there was anything to save."""
    escape_unencodable()
    terminal = Terminal()
    try:
        with known_failures():
            return work() or 0
    except KeyboardInterrupt:
        terminal.cancelled()
        return 130
    except MassError as error:
        terminal.failed(error)
        return 2
