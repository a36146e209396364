"""mass classify: class probabilities of scans by a classifier."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command_help import examples
from ..devices import DEVICES
from ..errors import OutputError, listing
from ..jobs.checks import check_files
from ..outputs import check_free, folders_ready
from .common.batch import Batch
from .common.shards import write_table

if TYPE_CHECKING:
    from ..inference.classifier import Classification, Classifier

_NAMED = 6
"""Classes named in a summary line."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "classify",
        help="classify whole scans",
        **examples("mass classify --weights RUN/best.safetensors --target ct2.nii.gz"),
    )
    parser.add_argument("--weights", required=True, metavar="W", help="classifier written by `python -m training.classify`")
    parser.add_argument("--target", nargs="+", required=True, type=Path, metavar="IMAGE", help="scans: files or DICOM folders")
    parser.add_argument("--frame", type=int, metavar="N", help="which volume of 4D targets, from 0")
    parser.add_argument("--output", type=Path, metavar="FILE.csv", help="CSV table to write, one line per scan")
    parser.add_argument("--overwrite", action="store_true", help="replace the table if it exists")
    parser.add_argument("--device", default="auto", metavar="D", help=f"{DEVICES} (default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Classify every target; a failure of one among several does not stop the others."""
    from ..inference.classifier import load_classifier

    if len(arguments.target) == 1:  # one of several fails in its turn
        check_files(arguments.target)
    files = [arguments.output] if arguments.output is not None else []
    if files and arguments.output.suffix.lower() != ".csv":
        raise OutputError(f"{arguments.output} is not a valid file name for a table.", "End it with .csv.")
    check_free(files, overwrite=arguments.overwrite, inputs=[arguments.weights, *arguments.target])
    with folders_ready(files):
        classifier = load_classifier(arguments.weights, arguments.device)
        batch = Batch(arguments.terminal, len(arguments.target), len(arguments.target))
        done: dict[Path, Classification] = {}
        for target in arguments.target:
            with batch.target(target):
                done[target] = _one(arguments, classifier, target)
            if files and target in done:
                _write(arguments.output, done)
    return batch.exit_status


def _one(arguments: argparse.Namespace, classifier: "Classifier", target: Path) -> "Classification":
    """Read a scan, classify it, print the result."""
    from ..inference.classifier import classify
    from ..volumes.volume import Volume

    result = classify(classifier, Volume.read(target, frame=arguments.frame))
    for warning in result.warnings:
        arguments.terminal.warn(warning)
    values = {"target": str(target), "device": str(classifier.device), **vars(result)}
    arguments.terminal.result(_summary(target, result), **values)
    return result


def _summary(target: Path, result: "Classification") -> str:
    """One line for people, the most probable class first."""
    ordered = sorted(result.probabilities.items(), key=lambda item: -item[1])
    return f"{target}: {listing((f'{name} {p:.3f}' for name, p in ordered), _NAMED)}"


def _write(path: Path, results: "dict[Path, Classification]") -> None:
    """A CSV row for each scan: the predicted classes, then the probability of every class."""
    rows = [
        {"target": target, "predicted": ";".join(result.predicted), **{name: f"{p:.6f}" for name, p in result.probabilities.items()}}
        for target, result in results.items()
    ]
    write_table(path, list(rows[0]), rows)
