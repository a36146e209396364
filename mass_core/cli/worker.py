"""mass worker: answer requests on standard input, for programs such as 3D Slicer (docs/formats.md)."""

import argparse
from typing import TYPE_CHECKING, Any

from ..command_help import examples
from ..errors import DeviceError
from ..weights.store import keep_compiled

if TYPE_CHECKING:
    from ..worker.server import Service


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "worker",
        help="serve another program through JSON lines on standard input and output",
        description="The protocol is described in docs/formats.md.",
        **examples("mass worker < requests.jsonl"),
    )
    parser.add_argument(
        "--remote", action="store_true", help="receive and send files on the same streams, as --on does on another computer"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Work until standard input ends."""
    from ..worker.server import Worker, claim_standard_streams

    if arguments.remote:
        from ..remote.host_end import serve

        return serve(*claim_standard_streams())
    keep_compiled()
    Worker(*claim_standard_streams(), new_service).run()
    return 0


def new_service() -> "Service":
    """The service that computes; loads PyTorch.

    Raises:
        DeviceError: if PyTorch or another library cannot be loaded.
    """
    try:
        from ..jobs.service import Service
    except (ImportError, OSError, AttributeError) as error:
        raise DeviceError(
            f"A library this program needs cannot be loaded: {error}.", "Install the packages again, or follow the message."
        ) from error
    return Service()
