"""The command of finetuning: from its words, or a request in a file, to the run and its result."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mass_core.cli.remote import add_on
from mass_core.command_help import examples
from mass_core.console import JsonLines, Output, Terminal
from mass_core.encoding.task import Task
from mass_core.errors import Cancelled, InputError, MassError, known_failures
from mass_core.option_files import read_file
from mass_core.outputs import check_free, folders_ready, stem
from mass_core.progress import Steps
from mass_core.schema import changed, read
from mass_core.weights.checkpoint import Model, load_model
from mass_core.worker.finetuning import inputs
from mass_core.worker.requests import Finetune

from ..runs.distributed import ProcessGroup
from ..runs.options import add_run, recipe_changes
from ..runs.run_folder import START, check_enter, copy
from ..runs.stopping import Signals
from . import elsewhere
from . import recipes as finetune_recipes
from .cases import encode, gather
from .config import FinetuneConfig
from .fixed_classes import Tuning
from .loop import finetune
from .reporting import FinetuneProgress
from .run import Run


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 done, 2 bad input, 130 cancelled before there was anything to keep."""
    arguments = build_parser().parse_args(argv)
    output: Output = JsonLines() if arguments.json else Terminal()
    try:
        with known_failures():
            return _command(arguments, output)
    except Cancelled:
        output.cancelled()
        return 130
    except MassError as error:
        output.failed(error)
        return 2
    finally:
        output.close()


def _command(arguments: argparse.Namespace, output: Output) -> int:
    request = _request(arguments)
    if arguments.print_config:
        sys.stdout.write(f"{json.dumps(asdict(request), indent=1)}\n")
        return 0
    if arguments.on:
        result = elsewhere.run(request, arguments, output)
        output.result(_summary(result), **result)
        return 0
    with Signals() as signals:
        group = ProcessGroup.join(request.device)
        report = FinetuneProgress(output, signals, request.minutes, bound_to_input=arguments.bound_to_input, quiet=not group.leads)
        result = run(request, group, report, resume=arguments.resume or "auto" * request.resume)
        group.leave()
    if group.leads:
        output.result(_summary(result), **result)
    return 0


def run(request: Finetune, group: ProcessGroup, report: FinetuneProgress, *, resume: str = "") -> dict[str, Any]:
    """Run a request; returns the result as JSON values.

    Raises:
        MassError: if its scans or weights cannot be used, or files cannot be written.
        Cancelled: if it was stopped before there was anything to keep.
    """
    assert request.folder is not None
    folder, output = Path(request.folder), None if request.output is None else Path(request.output)
    if output is not None:
        check_free([output], overwrite=request.overwrite, inputs=inputs(request))
    check_enter(folder, resume, inputs(request))
    with folders_ready([folder / "config.json", *([output] if output else [])]):
        model = load_model(request.weights, str(group.device))
        model.network.check_takes_references()
        config = _config(request, model)
        cohort = gather(request, model, config, folder / "data", group, Steps(report.progress, report.cancelled))
        for text in cohort.notes:
            report.warn(text)
        start = folder / START
        if resume and start.exists():
            task = Task.load(start)
            task.require(model.fingerprint, model.name)
        else:
            task = encode(model, cohort, config, progress=report.progress, cancelled=report.cancelled)
            if group.leads:
                task.save(start, overwrite=True)
        whole = Run(
            config=config, model=model, task=task, cohort=cohort, output=folder, group=group, report=report, scratch=request.scratch
        )
        state, stopped = finetune(whole, resume)
        return _result(whole, state, stopped, output)


def _result(run: Run, state: Tuning, stopped: str, output: Path | None) -> dict[str, Any]:
    """Write the final weights to the output; returns the result as JSON values.

    Raises:
        Cancelled: if there are none yet.
    """
    epochs = state.step // run.config.steps_per_epoch
    if stopped == "cancelled" and not (state.scores or (epochs and not run.cohort.val)):
        raise Cancelled
    kept = run.output / ("best.safetensors" if state.scores else "last.safetensors")
    if run.group.leads:
        _draw(run.output)
        if output is not None:
            copy(kept, output)
    if state.scores and state.best_epoch == 0 and epochs:
        run.report.warn("No epoch was better than the start: the weights are those before finetuning, with fixed classes.")
    labels = [
        {"value": label.value, "name": label.name, "color": label.color, "dice": state.scores.get(f"dice_{label.value}")}
        for label in run.task.labels
    ]
    return {
        "output": str(output or kept),
        "labels": labels,
        "best_dice": state.scores.get("val_dice"),
        "best_epoch": state.best_epoch if state.scores else epochs,
        "epochs": epochs,
        "stopped": stopped,
        "warnings": run.report.warnings,
    }


def _draw(folder: Path) -> None:
    """The curves of the run, where Matplotlib is installed: in 3D Slicer it need not be."""
    try:
        from ..curves import draw
    except ModuleNotFoundError:
        return
    draw(folder)


def _config(request: Finetune, model: Model) -> FinetuneConfig:
    """The recipe with the request's changes."""
    parameters = sum(value.numel() for value in model.network.parameters())
    config = changed(finetune_recipes.named(request.recipe, parameters), request.settings)
    config = config if request.precision in ("auto", "float16") else replace(config, precision=request.precision)
    return config if request.epochs is None else replace(config, epochs=request.epochs)


def _summary(result: dict[str, Any]) -> str:
    """One line for people."""
    best = "not validated" if result["best_dice"] is None else f"Dice {result['best_dice']:.3f} in epoch {result['best_epoch']}"
    why = {"": "", "early": ", stopped early", "budget": ", time limit reached", "cancelled": ", stopped"}[result["stopped"]]
    more = "; the same command with --resume continues it" if result["stopped"] in ("budget", "cancelled") else ""
    return f"{result['output']}: {best}, {result['epochs']} epoch{'s' * (result['epochs'] != 1)}{why}{more}"


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="training.finetune",
        description="Finetune to fixed classes. The result segments without references.",
        **examples(
            "python -m training.finetune --weights RUN/last.safetensors --data DATASET --shots 5 --output FINETUNED",
            "python -m training.finetune --images scans --labels-dir labels --names 1=liver 2=spleen --output FINETUNED",
        ),
    )
    start = parser.add_argument_group("start")
    start.add_argument("--weights", default="small", metavar="W", help="weights file or name (default: %(default)s)")
    start.add_argument("--scratch", action="store_true", help="train the same network from random weights")
    start.add_argument("--recipe", help=f"one of {', '.join(finetune_recipes.RECIPES)} (default: by the size of the network)")
    start.add_argument("--epochs", type=int, metavar="N", help="maximum number of epochs (default: the recipe's)")
    _add_scans(parser)
    add_run(parser, " (fields of the worker's finetune request, see docs/formats.md)", required=False)
    add_on(parser)
    programs = parser.add_argument_group("for programs")
    programs.add_argument("--json", action="store_true", help="print one JSON object per line")
    programs.add_argument("--bound-to-input", action="store_true", help="stop and keep the best weights when standard input ends")
    return parser


def _add_scans(parser: argparse.ArgumentParser) -> None:
    scans = parser.add_argument_group("labelled scans", "either --data, or --images with --labels-dir")
    scans.add_argument("--data", metavar="DATASET", help="folder of a dataset with labels")
    scans.add_argument("--images", type=Path, metavar="DIR", help="folder of scans")
    scans.add_argument("--labels-dir", type=Path, metavar="DIR", help="label maps named like the scans")
    scans.add_argument("--same-grid", action="store_true", help="label maps match their scans voxel for voxel")
    scans.add_argument(
        "--names",
        nargs="+",
        metavar="N=NAME",
        help="names of the values in --labels-dir (default: those of a dataset.json beside them)",
    )
    scans.add_argument("--modality", choices=("auto", "ct", "mr", "pet"), default="auto", help="modality of --images")
    scans.add_argument("--labels", nargs="+", type=int, metavar="N", help="values to segment (default: all)")
    scans.add_argument("--shots", type=int, metavar="K", help="use only K training scans, drawn at random")
    scans.add_argument("--draw", type=int, default=0, metavar="D", help="number of the draw, from 0 (default: %(default)s)")
    scans.add_argument("--train-cases", nargs="+", metavar="NAME", help="use only these training scans of the dataset")


def _request(arguments: argparse.Namespace) -> Finetune:
    """The request the command line describes.

    Raises:
        InputError: if it does not say what is needed, or says it twice.
    """
    values = _values(arguments)
    if arguments.config is not None:
        plain = _values(build_parser().parse_args([]))
        given = {name: value for name, value in values.items() if value != plain[name]}
        values = read_file(arguments.config)
        given["settings"] = [*values.get("settings", []), *given.get("settings", [])]
        values |= given
    if arguments.output is not None:
        values["folder"] = str(arguments.output)
    if not values.get("folder"):
        raise InputError("The folder of the run is missing.", "Add --output RUN.")
    return read(Finetune, values)


def _values(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fields of the request that the options fill."""
    names = ("weights", "device", "scratch", "labels", "modality", "shots", "draw", "train_cases", "recipe", "epochs", "minutes")
    values = {name: getattr(arguments, name) for name in names}
    values |= {"dataset": arguments.data, "cases": _pairs(arguments), "settings": recipe_changes(arguments)}
    values["appearance"] = {str(value): {"name": name} for value, name in _names(arguments).items()}
    return values


def _names(arguments: argparse.Namespace) -> dict[int, str]:
    """Names of the values of label maps in a folder, as far as known.

    Raises:
        InputError: if names are given for a dataset, which has its own, or in another form.
    """
    from mass_core.data.label_names import names_beside

    if arguments.names is None:
        return {} if arguments.labels_dir is None else names_beside(arguments.labels_dir)
    if arguments.labels_dir is None:
        raise InputError("--names is for label maps in --labels-dir; a dataset names its labels itself.", "Leave --names out.")
    parted = [word.partition("=") for word in arguments.names]
    if bad := [word for word, (value, _, name) in zip(arguments.names, parted, strict=True) if not value.isdecimal() or not name]:
        raise InputError(f"--names holds {bad[0]!r}.", "Give each as a value and a name: 1=liver 2=spleen.")
    return {int(value): name for value, _, name in parted}


def _pairs(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Scans of a folder with the label maps of the same names."""
    from mass_core.data.scan_files import find_scans, scan_named

    if arguments.images is None:
        if arguments.modality != "auto":
            raise InputError(
                f"--modality is {arguments.modality}, but a dataset records the modality of its scans.", "Leave --modality out."
            )
        return []
    if arguments.labels_dir is None:
        raise InputError("There are no labels to train on.", "Add --labels-dir DIR.")
    pairs = [(scan.path, scan_named(scan.name, arguments.labels_dir)) for scan in find_scans([arguments.images])]
    same_grid = arguments.same_grid
    found = [{"image": str(image), "mask": str(mask), "same_grid": same_grid} for image, mask in pairs if mask is not None]
    if not found:
        raise InputError(
            f"No scan in {arguments.images} has a label map in {arguments.labels_dir}.",
            f"Name it like the scan, {stem(pairs[0][0])}.nii.gz, say.",
        )
    return found
