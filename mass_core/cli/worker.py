"""mass worker: answer requests on standard input, for programs such as 3D Slicer (docs/formats.md)."""

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser("worker", help="serve another program: JSON lines on standard input and output")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Work until standard input ends."""
    from ..worker.server import Worker, claim_standard_streams

    Worker(*claim_standard_streams()).run()
    return 0
