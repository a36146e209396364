"""The command `mass`: one file a subcommand, one place where every failure becomes a message and an exit code."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from .. import __version__
from ..command_help import examples
from ..console import JsonLines, Output, Terminal, escape_unencodable, leave_closed_pipe
from ..errors import Cancelled, MassError, known_failures
from ..option_files import add_config, as_file, with_file

LONG = (
    *("segment", "encode", "adapt", "masks", "prepare", "dataset import", "dataset export"),
    *("evaluate", "assess", "features", "classify", "demo"),
)
"""Commands with options from a file, actions of a command after its name."""

COMMANDS = (*dict.fromkeys(name.partition(" ")[0] for name in LONG), "weights", "worker", "remote")
"""Each is a module here with `add_parser(subparsers)`; its parser's default `run` takes the parsed arguments, of which
`terminal` is the `Output` for messages, and returns an exit code."""

DONE, BAD_INPUT, SOME_FAILED, CANCELLED, CLOSED_PIPE = 0, 2, 3, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: without the program's name; None: those of the process.

    Returns:
        0 done, 2 bad input, 3 some cases of a batch failed, 130 cancelled, 141 the reader of the output is gone.
    """
    # Waiting threads of PyTorch sleep instead of spinning: where another program wants a core too, a pass of the network that took
    # seconds takes a fraction of one. Read when PyTorch is loaded, which no subcommand has done yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    escape_unencodable()
    words = list(sys.argv[1:] if arguments is None else arguments)
    output: Output = JsonLines() if "--json" in words else Terminal()
    try:
        with known_failures():
            parsed = _parsed(words)
            parsed.terminal = output
            return int(parsed.run(parsed))
    except (Cancelled, KeyboardInterrupt):
        output.cancelled()
        return CANCELLED
    except BrokenPipeError:
        leave_closed_pipe()
        return CLOSED_PIPE
    except MassError as error:
        output.failed(error)
        return BAD_INPUT
    finally:
        output.close()


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The options of a command line and of the file it names; they are printed where that is requested."""
    parser, long = _parsers()
    command = ""
    for place in [place for place, word in enumerate(words) if not word.startswith("-")][:2]:
        command = f"{command} {words[place]}".strip()
        if command in long:
            words = [*words[: place + 1], *with_file(long[command], words[place + 1 :])]
            break
    parsed = parser.parse_args(words)
    for name, value in vars(parsed).items():
        setattr(parsed, name, _at_home(value))
    if vars(parsed).get("print_config"):
        text = as_file(long[command], parsed)
        parsed.run = lambda _: print(text) or DONE
    return parsed


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
    commands = dict(_commands(subparsers))
    for subparser in commands.values():
        # Also behind the command; SUPPRESS keeps it from overruling the one in front.
        subparser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    long = {name: commands[name] for name in LONG}
    for subparser in long.values():
        add_config(subparser)
    return parser, long


def _commands(subparsers: Any, before: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parsers of commands and of their actions, by the words behind the program's name."""
    for word, parser in subparsers.choices.items():
        yield f"{before}{word}", parser
        for inner in parser._actions:
            if isinstance(inner, argparse._SubParsersAction):
                yield from _commands(inner, f"{before}{word} ")
