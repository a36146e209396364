"""mass features: PCA colours of the network's task-free features of scans."""

import argparse
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..command_help import examples, seed_number
from ..outputs import Job, plan
from ..worker.requests import Features
from .common.batch import result_of
from .common.options import add_preparation, add_weights, as_request, begin
from .common.shards import add_shard, shared
from .elsewhere import asking, check_line, paint_there
from .remote import add_on

COMMON = 8
"""Number of targets, the first of all, that make the colours where several processes share a run, or another computer does it."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "features",
        help="show the features of the network as colours (PCA)",
        description="Three principal components of the decoder's output become red, green and blue. Scans of one call share their "
        "colours, so similar tissue looks alike.",
        **examples(
            "mass features --target ct1.nii.gz --output ct1_features.nii.gz --picture ct1_features.png",
            "mass features --target ct1.nii.gz ct2.nii.gz --output-dir features",
        ),
    )
    add_weights(parser)
    targets = parser.add_argument_group("targets")
    targets.add_argument("--target", nargs="+", required=True, type=Path, metavar="IMAGE", help="scans: files or DICOM folders")
    targets.add_argument("--frame", type=int, metavar="N", help="which volume of 4D targets, from 0")
    add_shard(targets)
    results = parser.add_argument_group("results")
    results.add_argument("--output", type=Path, metavar="FILE", help="colour volume of a single target, .nrrd or .nii.gz")
    results.add_argument("--output-dir", type=Path, metavar="DIR", help="folder for <target>_features.nii.gz")
    results.add_argument("--picture", type=Path, metavar="FILE.png", help="also draw three planes, in grey and in colour")
    results.add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_preparation(parser)
    parser.add_argument(
        "--seed",
        type=seed_number,
        default=0,
        metavar="N",
        help="seed of the voxels from which the colours are computed (default: %(default)s)",
    )
    parser.add_argument("--overlap", type=float, metavar="F", help="overlap of neighbouring windows, as a fraction from 0 to below 1")
    add_on(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Paint the features of every target, in colours common to all."""
    jobs = plan(arguments.target, arguments.output, arguments.output_dir, arguments.picture, what="features")
    request = as_request(Features, arguments, target=str(arguments.target[0]), output=str(arguments.output or arguments.output_dir))
    with shared(arguments, jobs, request) as (share, batch):
        if share.left:  # no network is loaded for nothing
            makers = jobs[:COMMON] if share.requested or arguments.on else jobs
            common = [str(job.target) for job in makers if job.target.exists()] if len(jobs) > 1 else []
            with asking(arguments) if arguments.on else nullcontext() as ask:
                paint = partial(paint_there, ask, arguments) if ask else _here(arguments, request)
                for job in share.left:
                    with batch.target(job.target), share.noting(job):
                        began = time.monotonic()
                        one = replace(request, target=str(job.target), output=str(job.output), common=common)
                        _report(arguments, job, paint(one, job), began)
                    check_line(arguments, share, batch, job)
        share.close(arguments.terminal)
    return batch.exit_status


def _here(arguments: argparse.Namespace, first: Features) -> Callable[[Features, Job], dict[str, Any]]:
    """A function that paints the features of a target in this process and returns JSON values of the result."""
    from ..jobs.features import features

    session, run = begin(first, arguments.terminal)

    def paint(request: Features, job: Job) -> dict[str, Any]:
        painting, spacing_zyx = features(request, session, run, job)
        return {
            "explained": [round(share, 4) for share in painting.explained],
            "spacing_zyx": spacing_zyx,
            "modality": painting.modality,
            "seed": request.seed,
            "warnings": painting.warnings,
            "device": str(run.device),
        }

    return paint


def _report(arguments: argparse.Namespace, job: Job, result: Mapping[str, Any], began: float) -> None:
    """Print warnings and the result of a target, begun at this time."""
    for warning in result["warnings"]:
        arguments.terminal.warn(warning)
    shares = ", ".join(f"{colour} {share:.0%}" for colour, share in zip(("red", "green", "blue"), result["explained"], strict=True))
    values = result_of(job, result, began)
    where = f" on {arguments.on}" if arguments.on else ""
    arguments.terminal.result(f"{job.output}: {shares} of the variance of the features ({values['seconds']:.1f} s{where})", **values)
