"""Options that all commands of training share."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from mass_core.command_help import seed_number
from mass_core.devices import DEVICES
from mass_core.errors import InputError
from mass_core.option_files import add_config, as_file, with_file

Config = TypeVar("Config")


def recipe_named(name: str, recipes: Mapping[str, Callable[[], Config]], kind: str) -> Config:
    """The configuration of a named recipe.

    Args:
        name: of the recipe.
        recipes: functions that make the configurations, by name.
        kind: of recipe, for the message.

    Raises:
        InputError: if there is none of that name.
    """
    if name not in recipes:
        raise InputError(f"There is no {kind} recipe {name!r}.", f"Choose one of: {', '.join(recipes)}.")
    return recipes[name]()


def add_run(parser: argparse.ArgumentParser, form: str = "", *, required: bool = True) -> None:
    """Options of a run: its folder, changes to the recipe, where and how long it computes, whether it resumes, all of it from a file.

    Args:
        parser: of the command.
        form: as `add_config` takes it.
        required: the run folder stands in no file.
    """
    group = parser.add_argument_group("run")
    group.add_argument("--output", type=Path, required=required, metavar="RUN", help="run folder")
    group.add_argument("--set", nargs="*", default=[], action="extend", metavar="section.field=value", help="change settings of the recipe")
    group.add_argument("--seed", type=seed_number, metavar="N", help="seed of the run, the same as --set seed=N (default: the recipe's)")
    group.add_argument("--device", default="auto", metavar="D", help=f"{DEVICES} (default: auto; under torchrun one for each rank)")
    group.add_argument("--minutes", type=float, metavar="M", help="save the state and stop after this time")
    group.add_argument(
        "--resume",
        nargs="?",
        const="last",
        default="",
        choices=("last", "auto"),
        help="resume from the last state in --output; auto: start anew if there is none",
    )
    add_config(parser, form)


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line and of the file it names.

    Raises:
        InputError: if the file cannot be used.
    """
    return parser.parse_args(with_file(parser, sys.argv[1:] if argv is None else argv))


def recipe_changes(arguments: argparse.Namespace) -> list[str]:
    """Changes to the recipe, the seed among them."""
    return [*arguments.set, *([] if arguments.seed is None else [f"seed={arguments.seed}"])]


def printed(parser: argparse.ArgumentParser, arguments: argparse.Namespace, config: Any) -> str:
    """The whole run as a file for --config: every option, and every field of the recipe under `set`."""
    return as_file(parser, arguments, **dict.fromkeys(("seed", "steps", "frozen", "full")), set=asdict(config))
