"""Help of commands: examples below the options; kinds of values that several commands take."""

import argparse
from typing import Any

_HEAD = "examples:\n"
_LARGEST_SEED = 2**32 - 1


class _Help(argparse.HelpFormatter):
    """Wraps text, but leaves a block of examples as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_HEAD) else super()._fill_text(text, width, indent)


def examples(*lines: str) -> dict[str, Any]:
    """Keyword arguments of a parser whose help ends with command lines."""
    return {"epilog": _HEAD + "".join(f"  {line}\n" for line in lines), "formatter_class": _Help}


def seed_number(text: str) -> int:
    """A seed given on a command line: a whole number from 0 to 4294967295.

    Raises:
        ArgumentTypeError: for another one.
    """
    if not text.isdecimal() or int(text) > _LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {_LARGEST_SEED}")
    return int(text)
