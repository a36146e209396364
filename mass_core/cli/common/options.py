"""Options that several commands share, and the recipe they make."""

import argparse
from argparse import BooleanOptionalAction
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...colors import LabelStyle
from ...config import Recipe
from ...console import Output
from ...devices import DEVICES, DeviceUse
from ...errors import InputError
from ...worker.requests import Load, Reference

if TYPE_CHECKING:
    from ...jobs.session import Run, Session
    from ...weights.checkpoint import Model


def add_weights(parser: argparse.ArgumentParser) -> None:
    """--weights, --ema, --device, --precision: the network and where it computes."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--weights", default="small", metavar="W", help="weights file, or the name of bundled weights (default: %(default)s)"
    )
    group.add_argument(
        "--ema", action=BooleanOptionalAction, help="use the averaged (EMA) weights of a released .pth (default: yes; recipe released: no)"
    )
    group.add_argument("--device", default="auto", metavar="D", help=f"{DEVICES} (default: %(default)s)")
    group.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="number format of the network (default: auto, which is bfloat16 on GPUs that support it, else float32)",
    )
    group.add_argument(
        "--without",
        nargs="+",
        default=[],
        choices=DeviceUse.names(),
        metavar="S",
        help=f"GPU optimisations to switch off, for comparison or where one fails: {', '.join(DeviceUse.names())}",
    )


def add_references(parser: argparse.ArgumentParser) -> "argparse._ArgumentGroup":
    """--reference, --labels: the structures to segment. Returns their group."""
    group = parser.add_argument_group("references")
    group.add_argument(
        "--reference",
        nargs=2,
        action="append",
        type=Path,
        metavar=("IMAGE", "MASK"),
        help="a scan and the mask that shows what to segment; repeat for several references, which are averaged",
    )
    group.add_argument("--labels", nargs="+", type=int, metavar="N", help="mask values to segment (default: all but 0)")
    group.add_argument("--reference-frame", type=int, metavar="N", help="which volume of 4D reference images and masks, from 0")
    add_same_grid(group)
    group.add_argument(
        "--threshold-mask",
        type=float,
        metavar="P",
        help="binarise reference masks: values of P and above are label 1, the rest is background",
    )
    return group


def add_task(parser: argparse.ArgumentParser) -> None:
    """--task and the options of references: what to segment, and the network."""
    add_weights(parser)
    add_references(parser).add_argument("--task", type=Path, metavar="FILE", help="task file made by mass encode, instead of references")


def add_same_grid(parser: argparse._ActionsContainer) -> None:
    """--same-grid: label maps that lost their header."""
    parser.add_argument(
        "--same-grid", action="store_true", help="label maps match their image voxel for voxel: ignore the position in their header"
    )


def add_preparation(parser: argparse.ArgumentParser) -> None:
    """Options of the recipe that concern references and targets alike."""
    group = parser.add_argument_group("recipe", "options left out are taken from the weights or the task")
    group.add_argument("--recipe", choices=("default", "released"), help="released: the same numbers as the released script")
    group.add_argument(
        "--modality",
        choices=("auto", "ct", "mr", "pet"),
        help="modality of the scans; auto: from the DICOM header, else guessed from the intensities",
    )
    add_reading(group)
    group.add_argument("--spacing", nargs=3, type=float, metavar=("X", "Y", "Z"), help="working voxel size in mm")
    group.add_argument("--interpolation", choices=("linear", "bspline"), help="interpolation of resampled images")
    add_body_margin(group, " of the working size")
    group.add_argument(
        "--window", dest="window_zyx", nargs=3, type=int, metavar=("Z", "Y", "X"), help="size of the sliding window in voxels"
    )


def add_reading(group: argparse._ActionsContainer) -> None:
    """Options of the recipe that concern how any scan is read."""
    group.add_argument(
        "--orientation",
        choices=("RAS", "none"),
        help="RAS: reorient scans to right, anterior, superior first; none: keep the axes as stored",
    )
    clipped = "clip CT values to this range, in HU"
    group.add_argument("--ct-clip", dest="ct_clip_hu", nargs=2, type=float, metavar=("LO", "HI"), help=clipped)
    group.add_argument("--body-crop", choices=("threshold", "none"), help="threshold: crop scans to the body; none: do not crop")
    group.add_argument(
        "--body-threshold", dest="body_threshold_hu", type=float, metavar="HU", help="CT values above this belong to the body"
    )


def add_body_margin(group: argparse._ActionsContainer, where: str = "") -> None:
    """--body-margin."""
    text = f"margin around the body in voxels{where}"
    group.add_argument("--body-margin", dest="body_margin_zyx", nargs=3, type=int, metavar=("Z", "Y", "X"), help=text)


def add_decision(parser: argparse.ArgumentParser) -> None:
    """Options of the recipe for the step from windows to the label map."""
    group = parser.add_argument_group("decision")
    group.add_argument(
        "--align",
        choices=("auto", "off", "only"),
        help="auto: align the references with the target and combine the result with the network's, if the weights support it; "
        "off: network alone; only: alignment alone",
    )
    group.add_argument("--overlap", type=float, metavar="F", help="overlap of neighbouring windows, as a fraction from 0 to below 1")
    group.add_argument("--threshold", type=float, metavar="P", help="minimum probability of a label's voxels")
    group.add_argument("--classes-per-pass", type=int, metavar="N", help="labels decoded together; 0: all that share a working spacing")
    group.add_argument(
        "--keep-largest", action=BooleanOptionalAction, help="keep only the largest connected component of each label, or all"
    )


Kind = TypeVar("Kind", bound=Load)


def as_request(kind: type[Kind], arguments: argparse.Namespace, **more: Any) -> Kind:
    """The request that the options of a command make.

    Args:
        kind: of the request.
        arguments: of a parser with `add_weights` and `add_preparation`, and what else the request takes.
        more: fields that are not options.
    """
    given: dict[str, Any] = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    given["recipe"] = arguments.recipe or "default"
    given["options"] = _recipe_options(arguments)
    given["references"] = [_reference(arguments, *pair) for pair in given.get("reference") or []]
    given["appearance"] = _names_of_datasets(mask for _, mask in given.get("reference") or [])
    given["probabilities"] = given.get("save_probabilities", False)
    return kind(**{field.name: given[field.name] for field in fields(kind) if field.name in given and field.name not in more}, **more)


def chosen_recipe(arguments: argparse.Namespace, base: Recipe) -> Recipe:
    """A recipe with its fields overridden by the command line.

    Args:
        arguments: of a parser with `add_reading` or `add_preparation`, and perhaps `add_decision`.
        base: what the weights or the task record.
    """
    return Load(recipe=vars(arguments).get("recipe") or "default", options=_recipe_options(arguments)).changed(base)


def load(arguments: argparse.Namespace) -> "Model":
    """The network the options name."""
    from ...weights.checkpoint import load_model

    request = as_request(Load, arguments)
    return load_model(request.weights, request.device, ema=request.averaged, use=DeviceUse.without(request.without))


def begin(request: Load, terminal: Output) -> "tuple[Session, Run]":
    """A session without a scan cache, since a command reads each scan once, and its run."""
    from ...devices import choose_device
    from ...jobs.session import Run, Session

    return Session(scan_bytes=0), Run(choose_device(request.device), terminal.progress, stages=False)


def _names_of_datasets(masks: Iterable[Path]) -> dict[str, LabelStyle]:
    """Names of the values of masks in labelsTr or labelsTs, from the dataset.json of nnU-Net or the Decathlon."""
    folders = {mask.parent for mask in masks if mask.parent.name in ("labelsTr", "labelsTs")}
    names: dict[str, LabelStyle] = {}
    for folder in sorted(folders):
        from ...data.label_names import names_beside

        with suppress(InputError):  # names are a courtesy; masks do without
            names |= {str(value): LabelStyle(name=name) for value, name in names_beside(folder).items()}
    return names


def _reference(arguments: argparse.Namespace, image: Path, mask: Path) -> Reference:
    return Reference(
        image=str(image),
        mask=str(mask),
        labels=arguments.labels,
        frame=arguments.reference_frame,
        same_grid=arguments.same_grid,
        threshold=arguments.threshold_mask,
    )


def _recipe_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fields of the recipe that the command line names, in array order."""
    given = vars(arguments)
    options = {field.name: given.get(field.name) for field in fields(Recipe)}
    options["parts"] = {None: None, True: "largest", False: "all"}[given.get("keep_largest")]
    options["spacing_zyx"] = given["spacing"][::-1] if given.get("spacing") else None
    if (options["classes_per_pass"] or 0) < 0:
        raise InputError(f"--classes-per-pass is {options['classes_per_pass']}.", "Choose 0 (all together) or more.")
    return {name: value for name, value in options.items() if value is not None}
