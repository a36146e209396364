"""The command `mass`: one file a subcommand, one place where every failure becomes a message and an exit code."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from .. import __version__
from ..command_help import examples
from ..console import JsonLines, Output, Terminal, leave_closed_pipe, say_all_letters
from ..errors import Cancelled, MassError
from ..failures import as_mass_error
from ..option_files import add_config, as_file, with_file

COMMANDS = (
    "segment",
    "encode",
    "adapt",
    "masks",
    "prepare",
    "dataset",
    "evaluate",
    "assess",
    "features",
    "classify",
    "weights",
    "demo",
    "worker",
    "remote",
)
"""Each is a module here with `add_parser(subparsers)`; its parser's default `run` takes the parsed arguments, of which
`terminal` is the `Output` to tell things to, and returns an exit code."""

LONG = ("segment", "encode", "adapt", "masks", "prepare", "evaluate", "assess", "features", "classify")
"""Those with options from a file."""

DONE, BAD_INPUT, SOME_FAILED, CANCELLED, CLOSED_PIPE = 0, 2, 3, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: without the program's name; None: those of the process.

    Returns:
        0 done, 2 bad input, 3 some cases of a batch failed, 130 cancelled, 141 nobody reads the output any more.
    """
    # Waiting threads of PyTorch sleep instead of spinning: where another program wants a core too, a pass of the network that took
    # seconds takes a fraction of one. Read when PyTorch is loaded, which no subcommand has done yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    say_all_letters()
    words = list(sys.argv[1:] if arguments is None else arguments)
    output: Output = JsonLines() if "--json" in words else Terminal()
    try:
        parsed = _parsed(words)
        parsed.terminal = output
        return int(_where(parsed)(parsed))
    except (Cancelled, KeyboardInterrupt):
        output.cancelled()
        return CANCELLED
    except BrokenPipeError:
        leave_closed_pipe()
        return CLOSED_PIPE
    except (MassError, RuntimeError, MemoryError, OSError) as error:
        known = as_mass_error(error)
        if known is None:
            raise
        output.failed(known)
        return BAD_INPUT
    finally:
        output.close()


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The options of a command line and of the file it names; what runs them prints them where that is asked for."""
    parser, long = _parsers()
    command = next((word for word in words if not word.startswith("-")), "")
    if command in long:
        place = words.index(command) + 1
        words = [*words[:place], *with_file(long[command], words[place:])]
    parsed = parser.parse_args(words)
    for name, value in vars(parsed).items():
        setattr(parsed, name, _at_home(value))
    if vars(parsed).get("print_config"):
        text = as_file(long[command], parsed)
        parsed.run, parsed.on = (lambda _: print(text) or DONE), None
    return parsed


def _where(parsed: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """The function that runs the command: its own module's or, on another computer, the one of all such commands."""
    if not vars(parsed).get("on"):
        return parsed.run
    from . import elsewhere

    return elsewhere.COMMANDS[parsed.elsewhere]


def _at_home(value: Any) -> Any:
    """Paths that begin with ~ in the home folder, also where the shell leaves them as they are: --output-dir=~/results."""
    if isinstance(value, Path):
        return value.expanduser() if value.parts[:1] and value.parts[0].startswith("~") else value
    return [_at_home(one) for one in value] if isinstance(value, list) else value


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    return _parsers()[0]


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of all subcommands, and those of the ones with options from a file."""
    parser = argparse.ArgumentParser(
        prog="mass",
        description="In-context segmentation: one reference mask segments new scans.",
        **examples(
            "mass demo",
            "mass segment --reference ct1.nii.gz ct1_liver.nii.gz --target ct2.nii.gz --output ct2_liver.nii.gz",
            "mass segment --help",
        ),
    )
    parser.add_argument("--version", action="version", version=f"mass {__version__}")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line, for programs")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        import_module(f".{name}", __name__).add_parser(subparsers)
    for subparser in subparsers.choices.values():
        # Also behind the command; SUPPRESS keeps it from overruling the one in front.
        subparser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    long = {name: subparsers.choices[name] for name in LONG}
    for subparser in long.values():
        add_config(subparser)
    return parser, long
