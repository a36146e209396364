"""mass encode: references to a task file."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, OutputError
from ..outputs import check_free, folders_ready
from .options import add_preparation, add_references, add_weights, chosen_recipe, load

if TYPE_CHECKING:
    from ..tasks.task import Task
    from ..volumes.appearance import Appearance
    from ..volumes.volume import Volume


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser("encode", help="learn from references what to segment, for later")
    add_weights(parser)
    add_references(parser)
    add_preparation(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="TASK.masstask")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Encode the references and write the task."""
    check_references(arguments)
    output = checked_output(arguments)
    with folders_ready([output]):
        from ..inference.segmenter import Segmenter

        model = load(arguments)
        segmenter = Segmenter(model, chosen_recipe(arguments, model.recipe, name=arguments.recipe), precision=arguments.precision)
        references, appearance = read_references(arguments)
        task = segmenter.encode(references, arguments.labels, appearance=appearance, progress=arguments.terminal.progress)
        task.save(output, overwrite=arguments.overwrite)
    tell(arguments, task, "", {})
    return 0


def checked_output(arguments: argparse.Namespace) -> Path:
    """Where the task shall be written.

    Raises:
        OutputError: if the name is none for a task, or taken.
    """
    output: Path = arguments.output
    if output.suffix != ".masstask":
        raise OutputError(f"{output} is no name for a task.", "End it with .masstask.")
    check_free([output], overwrite=arguments.overwrite, inputs=inputs(arguments))
    return output


def inputs(arguments: argparse.Namespace) -> list[Path]:
    """What a run reads, which is never written over: weights, references, and the task and targets of those that have them."""
    given = vars(arguments)
    targets = given.get("target") or []
    pairs = [path for pair in given.get("reference") or [] for path in pair]
    return [Path(arguments.weights), *pairs, *(targets if isinstance(targets, list) else [targets]), *filter(None, [given.get("task")])]


def tell(arguments: argparse.Namespace, task: "Task", more: str, values: dict[str, Any]) -> None:
    """What the task holds, and more about how it came about, for people and for programs."""
    for warning in task.warnings:
        arguments.terminal.warn(warning)
    labels = [{"value": label.value, "name": label.name, "spacing_zyx": label.spacing_zyx, "kept": label.kept} for label in task.labels]
    names = ", ".join(f"{label.name} ({label.value})" for label in task.labels)
    output = str(arguments.output)
    arguments.terminal.result(f"{output}: {names}{more}", output=output, labels=labels, modality=task.modality, **values)


def check_references(arguments: argparse.Namespace) -> None:
    """Refuse to begin without references.

    Raises:
        InputError: if there are none, or a file is missing.
    """
    if not arguments.reference:
        raise InputError("No reference is given.", "Add --reference IMAGE MASK.")
    for path in (path for pair in arguments.reference for path in pair):
        if not Path(path).exists():
            raise InputError(f"There is no file {path}.", "Check the spelling and the folder.")


def read_references(arguments: argparse.Namespace) -> tuple[list[tuple["Volume", "Volume"]], dict[int, "Appearance"]]:
    """The references on the command line, and how their labels are called and shown."""
    from ..volumes.appearance import read_appearance
    from ..volumes.mask_files import How, read_masks
    from ..volumes.volume import Volume

    how = How(
        frame=arguments.reference_frame,
        labels=arguments.labels,
        same_grid=arguments.same_grid,
        threshold=arguments.threshold_mask,
    )
    references: list[tuple[Volume, Volume]] = []
    appearance: dict[int, Appearance] = {}
    for image_file, mask_file in arguments.reference:
        image = Volume.read(image_file, frame=arguments.reference_frame)
        references += [(image, mask) for mask in read_masks(mask_file, image, how)]
        appearance = {**read_appearance(mask_file), **appearance}
    return references, appearance
