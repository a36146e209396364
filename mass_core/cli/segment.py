"""mass segment: references or a task, and targets, to label maps."""

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..outputs import Job, all_or_none, amount, check_free, folders_ready, plan
from .batch import Batch
from .encode import check_references, inputs, read_references
from .options import add_decision, add_preparation, add_references, add_weights, chosen_recipe, load
from .result_table import ResultTable

if TYPE_CHECKING:
    from ..evaluation.quality import Quality
    from ..inference.segmenter import Segmentation, Segmenter
    from ..tasks.task import Task
    from ..volumes.volume import Volume

_NAMED = 8
"""Labels a summary line names."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "segment",
        help="segment new scans after one reference mask or several",
        description="What to segment is said by references, by a task, or by weights that were finetuned to fixed classes.",
    )
    add_task(parser)
    parser.add_argument("--target", nargs="+", required=True, type=Path, metavar="IMAGE", help="scans to segment: files or DICOM folders")
    parser.add_argument("--frame", type=int, metavar="N", help="which volume of 4D targets, from 0")
    parser.add_argument("--output", type=Path, metavar="FILE", help="label map of a single target")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="folder for <target>_seg.nii.gz")
    parser.add_argument("--output-label", type=int, metavar="N", help="number of a single label in the result")
    parser.add_argument("--save-probabilities", action="store_true", help="also write <target>_label<N>_prob.nii.gz")
    parser.add_argument("--assess", action="store_true", help="also estimate how good the result is; takes longer")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="also draw three planes with the contour")
    parser.add_argument(
        "--table", type=Path, metavar="FILE.csv", help="also write volumes and warnings, a line for each label of each target"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_preparation(parser)
    add_decision(parser)
    parser.set_defaults(run=run)


def add_task(parser: argparse.ArgumentParser) -> None:
    """What says what to look for, and with which network."""
    add_weights(parser)
    add_references(parser)
    parser.add_argument("--task", type=Path, metavar="FILE", help="what mass encode wrote, instead of references")


def run(arguments: argparse.Namespace) -> int:
    """Segment every target."""
    check_what(arguments)
    jobs = plan(arguments.target, arguments.output, arguments.output_dir, arguments.picture)
    table = ResultTable(arguments.table)
    files = [path for path in (*(path for job in jobs for path in (job.output, job.picture)), arguments.table) if path is not None]
    check_free(files, overwrite=arguments.overwrite, inputs=inputs(arguments))
    with folders_ready(files):
        tools = made_ready(arguments, arguments.output_label)
        if arguments.save_probabilities:
            maps = [job.probability(value) for job in jobs for value in tools.mask_values.values()]
            check_free(maps, overwrite=arguments.overwrite, inputs=inputs(arguments))
        batch = Batch(arguments.terminal, len(jobs))
        for job in jobs:
            with batch.target(job.target):
                table.add(_one(arguments, job, tools), tools.task)
            if job.target in batch.failures:
                table.add_failure(job.target, batch.failures[job.target])
        return batch.exit_status


def check_what(arguments: argparse.Namespace) -> None:
    """Refuse to begin if nothing says what to segment, or two things do.

    Raises:
        InputError: saying what can say it.
    """
    from ..weights.store import locate, may_have_classes

    # Only weights of ours tell their classes without PyTorch; of others the network is asked once it is read.
    fixed = not (arguments.reference or arguments.task) and may_have_classes(locate(arguments.weights))
    if bool(arguments.reference) + (arguments.task is not None) + fixed != 1:
        raise _said_otherwise()
    if arguments.reference:
        check_references(arguments)


def _said_otherwise() -> InputError:
    return InputError(
        "What to segment must be said once.", "Give either --reference IMAGE MASK or --task FILE; finetuned weights know it themselves."
    )


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What all targets of a run have in common."""

    segmenter: "Segmenter"
    task: "Task"
    references: "list[tuple[Volume, Volume]]"
    """With the numbers of the result; none where a task says what to look for."""
    mask_values: dict[int, int]
    """For each number in the result the value in the reference mask, which names the file of probabilities."""


def made_ready(arguments: argparse.Namespace, number: int | None = None) -> Tools:
    """The segmenter, and the task read or encoded; its single label gets a number, if one is given."""
    from ..inference.segmenter import Segmenter
    from ..tasks.task import Task

    task = Task.load(arguments.task) if arguments.task is not None else None
    model = load(arguments)
    if task is None and not arguments.reference:
        task = model.task
        if task is None:
            raise _said_otherwise()
    if task is not None:
        task.require(model.fingerprint, model.name)
    base = model.recipe if task is None else task.recipe
    segmenter = Segmenter(model, chosen_recipe(arguments, base, name=arguments.recipe), precision=arguments.precision)
    references, appearance = read_references(arguments) if arguments.reference else ([], {})
    if task is None:
        task = segmenter.encode(references, arguments.labels, appearance=appearance, progress=arguments.terminal.progress)
    elif arguments.labels:
        task = task.only(arguments.labels)
    before = [label.value for label in task.labels]
    if number is not None:
        task = task.renumbered(number)
        references = [(image, _renumbered(mask, before[0], number)) for image, mask in references]
    after = [label.value for label in task.labels]
    return Tools(segmenter=segmenter, task=task, references=references, mask_values=dict(zip(after, before, strict=True)))


def _renumbered(mask: "Volume", before: int, after: int) -> "Volume":
    """One label of a mask under another number."""
    from ..volumes.volume import Volume

    return Volume((mask.array == before).astype("uint16") * after, mask.geometry)


def _one(arguments: argparse.Namespace, job: Job, tools: Tools) -> dict[str, Any]:
    """Read, segment, write and tell; returns what programs are told."""
    from ..volumes.volume import Volume

    began = time.monotonic()
    terminal, task = arguments.terminal, tools.task
    target = Volume.read(job.target, frame=arguments.frame)
    result = tools.segmenter.segment(target, task, progress=terminal.progress, probabilities=arguments.save_probabilities)
    worth = judged(arguments, tools, target, result.labels) if arguments.assess else {}
    maps = {number: job.probability(tools.mask_values[number]) for number in result.probabilities or ()}
    _write(job, maps, target, result, task)
    for warning in result.warnings:
        terminal.warn(warning if warning in task.warnings else f"{job.target.name}: {warning}")
    missing = [label.name for label in task.labels if not result.volumes_ml[label.value]]
    if missing:
        terminal.warn(f"Nothing was found of {', '.join(missing)} in {job.target.name}.")
    for label in task.labels if worth else ():
        terminal.warn(f"{label.name} in {job.target.name}: {worth[label.value].text()}")
    seconds = time.monotonic() - began
    values = _values(job, result, task, seconds)
    for label in values["labels"] if worth else ():
        label["quality"] = worth[label["value"]].told()
    values["probabilities"] = {str(number): str(path) for number, path in maps.items()}
    terminal.result(_summary(job, result, task, seconds), **values, device=str(tools.segmenter.model.device))
    return values


def judged(arguments: argparse.Namespace, tools: Tools, target: "Volume", labels: "Volume") -> "dict[int, Quality]":
    """The quality of every label of a result."""
    from ..evaluation.quality import assess

    return assess(tools.segmenter, tools.task, target, labels, tools.references, progress=arguments.terminal.progress)


def _write(job: Job, maps: Mapping[int, Path], target: "Volume", result: "Segmentation", task: "Task") -> None:
    """All files of a job, or none."""
    from ..volumes.appearance import write_labels

    files = [*maps.values(), job.output] + ([job.picture] if job.picture is not None else [])
    with all_or_none(files) as place:
        for number, path in maps.items():
            if result.probabilities is not None:
                result.probabilities[number].write(place[path])
        write_labels(result.labels, task.looks, place[job.output])
        if job.picture is not None:
            from ..pictures.label_map import draw

            names = {label.value: label.name for label in task.labels}
            colors = {label.value: label.color for label in task.labels if label.color is not None}
            draw(place[job.picture], target, result.labels, names=names, colors=colors, modality=result.modality)


def _summary(job: Job, result: "Segmentation", task: "Task", seconds: float) -> str:
    """One line for people."""
    found = [f"{label.name} {amount(result.volumes_ml[label.value])}" for label in task.labels]
    more = [f"{len(found) - _NAMED} more"] if len(found) > _NAMED else []
    return f"{job.output}: {', '.join(found[:_NAMED] + more)} ({seconds:.1f} s)"


def _values(job: Job, result: "Segmentation", task: "Task", seconds: float) -> dict[str, Any]:
    """The same and more for programs."""
    labels = [
        {"value": x.value, "name": x.name, "color": x.color, "kept": x.kept, "ml": result.volumes_ml[x.value]}
        | {"decision": asdict(result.decisions[x.value])}
        for x in task.labels
    ]
    return {
        "target": str(job.target),
        "output": str(job.output),
        "labels": labels,
        "picture": None if job.picture is None else str(job.picture),
        "modality": result.modality,
        "passes": result.passes,
        "warnings": result.warnings,
        "seconds": round(seconds, 3),
        "timings": {stage: round(value, 3) for stage, value in result.timings.items()},
    }
