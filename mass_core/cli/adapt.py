"""mass adapt: references to a task file whose embeddings are fitted to them."""

import argparse
from typing import Any

from ..command_help import examples, seed_number
from ..errors import InputError
from ..worker.requests import Adapt
from .common.options import add_preparation, add_references, add_weights, as_request
from .encode import add_output, encode
from .remote import add_on


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "adapt",
        help="encode references, then fit the task to them for a few seconds (in-context tuning)",
        description="Only the embeddings of the task change, not the network.",
        **examples("mass adapt --reference ct1.nii.gz ct1_liver.nii.gz --seconds 30 --output liver.masstask"),
    )
    add_weights(parser)
    add_references(parser)
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="time limit of the fit (default: %(default)g)")
    parser.add_argument("--seed", type=seed_number, default=0, metavar="N", help="seed of the random windows (default: %(default)s)")
    add_preparation(parser)
    add_output(parser)
    add_on(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Encode the references, fit the task to them, write it."""
    request = as_request(Adapt, arguments)
    if request.seconds <= 0:
        raise InputError(f"--seconds is {request.seconds:g}.", "Give more than 0.")
    return encode(arguments, request)
