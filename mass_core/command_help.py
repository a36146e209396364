"""Help of commands: examples below the options."""

import argparse
from typing import Any

_HEAD = "examples:\n"


class _Help(argparse.HelpFormatter):
    """Wraps text, but leaves a block of examples as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_HEAD) else super()._fill_text(text, width, indent)


def examples(*lines: str) -> dict[str, Any]:
    """Keyword arguments of a parser whose help ends with command lines."""
    return {"epilog": _HEAD + "".join(f"  {line}\n" for line in lines), "formatter_class": _Help}
