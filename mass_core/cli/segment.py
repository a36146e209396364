"""mass segment: references or a task, and targets, to label maps."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from ..command_help import examples
from ..errors import InputError, listing
from ..jobs.checks import check_task_source
from ..outputs import Job, amount, nnunet_ending, plan
from ..worker.requests import Segment
from .assess import judgement
from .common.batch import result_of
from .common.options import add_decision, add_preparation, add_task, as_request, begin
from .common.shards import add_shard, shard_of, shared
from .elsewhere import Outcome, asking, check_line, segment_there
from .remote import add_on
from .result_table import ResultTable

_NAMED = 8
"""Labels a summary line names."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "segment",
        help="segment new scans from one or several reference masks",
        description="References, a task, or weights finetuned to fixed classes define what to segment.",
        **examples(
            "mass segment --reference ct1.nii.gz ct1_liver.nii.gz --target ct2.nii.gz --output ct2_liver.nii.gz --picture ct2_liver.png",
            "mass segment --task liver.masstask --target ct2.nii.gz ct4.nii.gz --output-dir results --table results/volumes.csv",
            "mass segment --weights RUN/best.safetensors --target ct2.nii.gz --output-dir results --assess",
        ),
    )
    add_task(parser)
    targets = parser.add_argument_group("targets")
    targets.add_argument("--target", nargs="+", required=True, type=Path, metavar="IMAGE", help="scans to segment: files or DICOM folders")
    targets.add_argument("--frame", type=int, metavar="N", help="which volume of 4D targets, from 0")
    add_shard(targets)
    results = parser.add_argument_group("results")
    results.add_argument("--output", type=Path, metavar="FILE", help="label map of a single target")
    results.add_argument("--output-dir", type=Path, metavar="DIR", help="folder for <target>_seg.nii.gz")
    results.add_argument(
        "--format",
        default="mass",
        choices=("mass", "nnunet"),
        help="nnunet: write DIR as nnU-Net writes predictions, <case>.nii.gz and dataset.json, for its evaluation",
    )
    results.add_argument("--output-label", type=int, metavar="N", help="value of the label in the result, if there is only one")
    results.add_argument("--save-probabilities", action="store_true", help="also write <target>_label<N>_prob.nii.gz")
    parser.add_argument(
        "--compile", action="store_true", help="compile the network first: takes minutes, then faster for many scans; needs CUDA and Triton"
    )
    results.add_argument("--assess", action="store_true", help="also estimate the quality of the result; takes longer")
    results.add_argument("--picture", type=Path, metavar="FILE.png", help="also draw three planes with the contours")
    results.add_argument("--table", type=Path, metavar="FILE.csv", help="also write volumes and warnings, one line per label and target")
    results.add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_preparation(parser)
    add_decision(parser)
    add_on(parser)
    parser.set_defaults(run=run)


def check_predictions(arguments: argparse.Namespace) -> None:
    """Refuse predictions in the form of nnU-Net where another dataset.json lies, or with further images nnU-Net would take for predictions.

    Raises:
        InputError, OutputError: saying so.
    """
    if arguments.format == "nnunet":
        if arguments.save_probabilities:
            raise InputError("nnU-Net would read probability maps in this folder as predictions.", "Leave out --save-probabilities.")
        from ..data.decathlon_layout import check_predictions

        check_predictions(arguments.output_dir)


def describe_predictions(arguments: argparse.Namespace, names: Mapping[int, str]) -> None:
    """Write the dataset.json beside predictions in the form of nnU-Net.

    Args:
        arguments: of the command.
        names: of the values in the results.
    """
    if arguments.format == "nnunet":
        from ..data.decathlon_layout import describe_predictions

        describe_predictions(arguments.output_dir, names, nnunet_ending(arguments.target))


def run(arguments: argparse.Namespace) -> int:
    """Segment every target."""
    request = as_request(Segment, arguments, target=str(arguments.target[0]), output=str(arguments.output or arguments.output_dir))
    check_task_source(request)
    jobs = plan(arguments.target, arguments.output, arguments.output_dir, arguments.picture, form=arguments.format)
    check_predictions(arguments)
    if arguments.table is not None and shard_of(arguments).count > 1:
        raise InputError("--table holds the results of one process.", "Leave it out: a table of all shards is written beside the results.")
    table = ResultTable(arguments.table)
    with shared(arguments, jobs, request, [] if arguments.table is None else [arguments.table]) as (share, batch):
        if share.left:  # no network is loaded for nothing
            with asking(arguments) if arguments.on else nullcontext() as ask:
                segment = partial(segment_there, ask, arguments, request) if ask else _here(arguments, request, share.left)
                for job in share.left:
                    with batch.target(job.target), share.noting(job) as note:
                        began = time.monotonic()
                        values = _report(arguments, job, *segment(job), began)
                        note(values["labels"])
                        table.add(values)
                        if arguments.on:  # the names are known from its reply only
                            describe_predictions(arguments, {label["value"]: label["name"] for label in values["labels"]})
                    if job.target in batch.failures:
                        table.add_failure(job.target, batch.failures[job.target])
                    check_line(arguments, share, batch, job)
        share.close(arguments.terminal)
    return batch.exit_status


def _here(arguments: argparse.Namespace, request: Segment, jobs: Sequence[Job]) -> Callable[[Job], Outcome]:
    """A function that segments a target in this process."""
    from ..jobs.segment import segment, tools_for

    session, run = begin(request, arguments.terminal)
    tools = tools_for(request, session, run, jobs)
    describe_predictions(arguments, {label.value: label.name for label in tools.task.labels})

    def one(job: Job) -> Outcome:
        made = segment(request, session, run, tools, job)
        values = {
            **made.to_json("value", "name", "color", "kept"),
            "passes": made.found.passes,
            "timings": {stage: round(value, 3) for stage, value in made.found.timings.items()},
            "device": str(tools.segmenter.model.device),
        }
        return values, tools.task.warnings

    return one


def _report(arguments: argparse.Namespace, job: Job, result: Mapping[str, Any], general: Sequence[str], began: float) -> dict[str, Any]:
    """Print warnings and the result of a target, begun at this time; returns the result as JSON values."""
    terminal, labels = arguments.terminal, result["labels"]
    for warning in result["warnings"]:
        terminal.warn(warning if warning in general else f"{job.target.name}: {warning}")
    if missing := [label["name"] for label in labels if not label["ml"]]:
        terminal.warn(f"Not found in {job.target.name}: {', '.join(missing)}.")
    for label in labels if arguments.assess else ():
        terminal.warn(f"{label['name']} in {job.target.name}: {judgement(label['quality'])}")
    found = [f"{label['name']} {amount(label['ml'])}" for label in labels]
    values = result_of(job, result, began)
    where = f" on {arguments.on}" if arguments.on else ""
    terminal.result(f"{job.output}: {listing(found, _NAMED)} ({values['seconds']:.1f} s{where})", **values)
    return values
