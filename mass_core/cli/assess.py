"""mass assess: estimate the quality of an existing label map without ground truth."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..command_help import examples
from ..jobs.checks import check_assess
from ..worker.requests import Assess
from .common.options import add_decision, add_preparation, add_task, as_request, begin
from .elsewhere import asking
from .remote import add_on


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "assess",
        help="estimate the quality of a label map without ground truth",
        description="References, a task, or weights finetuned to fixed classes define what the label map should show. "
        "The estimate is best with references.",
        **examples("mass assess --reference ct1.nii.gz ct1_liver.nii.gz --target ct2.nii.gz --result ct2_liver.nii.gz"),
    )
    add_task(parser)
    result = parser.add_argument_group("result")
    result.add_argument("--target", required=True, type=Path, metavar="IMAGE", help="the scan: a file or a DICOM folder")
    result.add_argument("--frame", type=int, metavar="N", help="which volume of a 4D target, from 0")
    result.add_argument(
        "--result", required=True, type=Path, metavar="LABELS", help="the label map to assess, with the same values as the reference mask"
    )
    add_preparation(parser)
    add_decision(parser)
    add_on(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read both images, estimate the quality, print it."""
    request = as_request(Assess, arguments)
    check_assess(request)
    if arguments.on:
        with asking(arguments) as ask:
            result = ask("assess", request)["result"]
        notes, labels = result["warnings"], result["labels"]
    else:
        from ..jobs.assess import assess_file

        made = assess_file(request, *begin(request, arguments.terminal))
        notes, labels = made.notes, made.labels()
    for note in notes:
        arguments.terminal.warn(note)
    text = "\n".join(f"{label['name']}: {judgement(label['quality'])}" for label in labels)
    arguments.terminal.result(text, target=str(arguments.target), result=str(arguments.result), labels=labels)
    return 0


def judgement(quality: Mapping[str, Any]) -> str:
    """The estimate of a label in a line for people."""
    expected = "" if quality["expected_dice"] is None else f", expected Dice {quality['expected_dice']:.2f}"
    return " ".join([f"{quality['flag']}{expected}.", *quality["reasons"]])
