"""mass encode: references to a task file."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..command_help import examples
from ..jobs.checks import check_references, task_file
from ..outputs import folders_ready
from ..worker.requests import Adapt, Encode
from .common.options import add_preparation, add_references, add_weights, as_request, begin
from .elsewhere import asking
from .remote import add_on


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
    add_on(parser)
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
    return encode(arguments, as_request(Encode, arguments))


def encode(arguments: argparse.Namespace, request: Encode) -> int:
    """Encode references, adapt the task if the request says so, write it, and print what it holds and how it was made."""
    check_references(request)
    output = task_file(request)
    warnings, values = (_there if arguments.on else _here)(arguments, request)
    for warning in warnings:
        arguments.terminal.warn(warning)
    text = f"{output}: " + ", ".join(f"{label['name']} ({label['value']})" for label in values["labels"])
    if isinstance(request, Adapt):
        before, after = values["dice"]
        text += f"; {values['steps']} steps in {values['seconds']:.1f} s, Dice on views of the references {before:.2f}, then {after:.2f}"
    arguments.terminal.result(text + (f" on {arguments.on}" if arguments.on else ""), **values)
    return 0


def _here(arguments: argparse.Namespace, request: Encode) -> tuple[Sequence[str], dict[str, Any]]:
    """Warnings and JSON values of a task made by this process."""
    from ..jobs.encode import encode
    from ..jobs.session import label_facts

    made = encode(request, *begin(request, arguments.terminal))
    labels = label_facts(made.task, "value", "name", "spacing_zyx", "kept")
    fitted = {**made.fitted.facts(), "seed": arguments.seed} if made.fitted else {}
    return made.task.warnings, {"output": request.output, "labels": labels, "modality": made.task.modality, **fitted}


def _there(arguments: argparse.Namespace, request: Encode) -> tuple[Sequence[str], dict[str, Any]]:
    """Warnings and JSON values of a task made by another computer."""
    with folders_ready([Path(request.output)]), asking(arguments) as ask:
        reply = ask("adapt" if isinstance(request, Adapt) else "encode", request)
    result = reply["result"]
    return result["warnings"], {**result, "device": reply["device"], "host": arguments.on}
