"""Options that all commands of training share."""

import argparse
from collections.abc import Callable, Mapping
from typing import TypeVar

from mass_core.errors import InputError

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


def add_run(parser: argparse.ArgumentParser) -> None:
    """--set, --device, --resume: changes of the recipe, device, resuming."""
    parser.add_argument("--set", nargs="*", default=[], action="extend", metavar="section.field=value", help="change the recipe")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="last",
        default="",
        choices=("last", "auto"),
        help="resume from the last state in --output; auto: start if there is none",
    )
