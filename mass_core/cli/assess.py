"""mass assess: how good a label map that is there is likely to be."""

import argparse
from pathlib import Path
from typing import Any

from ..errors import InputError
from .options import add_decision, add_preparation
from .segment import add_task, check_what, judged, made_ready


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "assess",
        help="estimate how good a result is, the truth not being known",
        description="References, a task, or weights that were finetuned to fixed classes say what the label map should show. "
        "With references the estimate is best.",
    )
    add_task(parser)
    parser.add_argument("--target", required=True, type=Path, metavar="IMAGE", help="the scan: a file or a DICOM folder")
    parser.add_argument("--frame", type=int, metavar="N", help="which volume of a 4D target, from 0")
    parser.add_argument("--result", required=True, type=Path, metavar="LABELS", help="the label map to judge, with the numbers of the mask")
    add_preparation(parser)
    add_decision(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read, judge and tell."""
    check_what(arguments)
    missing = [str(path) for path in (arguments.target, arguments.result) if not path.exists()]
    if missing:
        raise InputError(f"There is no file {', '.join(missing)}.", "Check the spelling and the folder.")
    from ..volumes.belonging import check_belongs
    from ..volumes.mask_files import read_label_map
    from ..volumes.volume import Volume

    target, result = Volume.read(arguments.target, frame=arguments.frame), read_label_map(arguments.result)
    if arguments.same_grid:
        result = result.on_grid_of(target)
    for note in check_belongs(target.geometry, result, image_is="scan", labels_are="result"):
        arguments.terminal.warn(note)
    tools = made_ready(arguments)
    worth = judged(arguments, tools, target, result)
    labels = [{"value": x.value, "name": x.name, "quality": worth[x.value].told()} for x in tools.task.labels]
    text = "\n".join(f"{label.name}: {worth[label.value].text()}" for label in tools.task.labels)
    arguments.terminal.result(text, target=str(arguments.target), result=str(arguments.result), labels=labels)
    return 0
