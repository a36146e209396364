"""mass encode: references to a task file."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command_help import examples
from ..jobs.checks import check_references, task_file
from ..worker.requests import Encode
from .options import add_preparation, add_references, add_weights, as_request, begin
from .remote import add_on

if TYPE_CHECKING:
    from ..tasks.task import Task


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "encode",
        help="encode references into a task file, for later use",
        description="The task holds what to segment: embeddings, names and colours of the labels, but no image.",
        **examples(
            "mass encode --reference ct1.nii.gz ct1_liver.nii.gz --reference ct3.nii.gz ct3_liver.nii.gz --output liver.masstask",
        ),
    )
    add_weights(parser)
    add_references(parser)
    add_preparation(parser)
    add_output(parser)
    add_on(parser, "encode")
    parser.set_defaults(run=run)


def add_output(parser: argparse.ArgumentParser) -> None:
    """The task file to write."""
    group = parser.add_argument_group("result")
    group.add_argument("--output", required=True, type=Path, metavar="TASK.masstask", help="file to write")
    group.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    group.add_argument(
        "--with-alignment",
        action="store_true",
        help="also keep features of the references at coarse resolution, so that they can be aligned with scans; derived from the images",
    )


def run(arguments: argparse.Namespace) -> int:
    """Encode the references and write the task."""
    request = as_request(Encode, arguments)
    check_references(request)
    task_file(request)
    from ..jobs.encode import encode

    tell(arguments, encode(request, *begin(request, arguments.terminal)).task, "", {})
    return 0


def tell(arguments: argparse.Namespace, task: "Task", more: str, values: dict[str, Any]) -> None:
    """Print what the task holds and how it was made, for people and for programs."""
    for warning in task.warnings:
        arguments.terminal.warn(warning)
    labels = [{"value": label.value, "name": label.name, "spacing_zyx": label.spacing_zyx, "kept": label.kept} for label in task.labels]
    names = ", ".join(f"{label.name} ({label.value})" for label in task.labels)
    output = str(arguments.output)
    arguments.terminal.result(f"{output}: {names}{more}", output=output, labels=labels, modality=task.modality, **values)
