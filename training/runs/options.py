"""Options that all commands of training share."""

import argparse


def add_run(parser: argparse.ArgumentParser) -> None:
    """--set, --device, --resume: changes to the recipe, where it runs, and whether it goes on."""
    parser.add_argument("--set", nargs="*", default=[], action="extend", metavar="section.field=value", help="change the recipe")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="last",
        default="",
        choices=("last", "auto"),
        help="go on from the last state in --output; auto: start if there is none",
    )
