"""mass weights: list, inspect, verify, convert, download and remove networks."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..command_help import examples
from ..errors import OutputError, WeightsError
from ..outputs import check_free, folders_ready
from ..weights import store as weights_store
from .common.options import add_preparation, chosen_recipe

_EXAMPLES = {
    "list": "mass weights list",
    "info": "mass weights info small",
    "verify": "mass weights verify RUN/best.safetensors",
    "convert": "mass weights convert released.pth mass_base.safetensors --dtype float16",
    "export": "mass weights export small encoder.onnx",
    "push": "mass weights push RUN/best.safetensors hf:OWNER/NAME",
    "pull": "mass weights pull hf:OWNER/NAME --name liver",
    "download": "mass weights download mass_base",
    "remove": "mass weights remove mass_base",
}
"""By action."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "weights", help="list, inspect, convert, export, share or download weights", **examples(*_EXAMPLES.values())
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add(actions, "list", "list the weights known by name", run_list)
    _add_reader(actions, "info", "describe the network, preprocessing and origin of weights", run_info)
    _add_reader(actions, "verify", "check that a file is complete and fits its network", run_verify)
    convert = _add_reader(actions, "convert", "convert weights to our file format", run_convert)
    convert.add_argument("output", type=Path, metavar="OUT.safetensors", help="file to write")
    convert.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="number format of the file (default: %(default)s)"
    )
    convert.add_argument(
        "--network",
        nargs="+",
        default=(),
        metavar=("NAME", "ARGUMENT=VALUE"),
        help="the file is of this MONAI network, built with these arguments; it becomes the image encoder of weights to finetune",
    )
    convert.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    add_preparation(convert)
    graph = _add_reader(actions, "export", "write the network, or its encoder, as a graph that other programs run", run_export)
    graph.add_argument("output", type=Path, metavar="OUT.onnx|OUT.pt2", help="file to write: ONNX, or PyTorch's exported program")
    graph.add_argument(
        "--part", choices=("network", "encoder"), help="part to export (default: the network if it has fixed classes, else the encoder)"
    )
    graph.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    push = _add(actions, "push", "share weights through a folder or a repository of the Hugging Face Hub", run_push)
    push.add_argument("weights", metavar="W", help="weights file or name")
    push.add_argument("target", metavar="TARGET", help="a folder, or hf:OWNER/NAME")
    push.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    push.add_argument("--overwrite", action="store_true", help="replace files in the folder")
    pull = _add(actions, "pull", "download shared weights into the user's folder and check them", run_pull)
    pull.add_argument("source", metavar="SOURCE", help="a folder, or hf:OWNER/NAME")
    pull.add_argument("--name", metavar="NAME", help="local name of the weights (default: that of the folder or repository)")
    pull.add_argument("--revision", metavar="REV", help="branch, tag or commit of the repository (default: the newest)")
    pull.add_argument("--overwrite", action="store_true", help="replace weights of this name")
    download = _add(actions, "download", "download weights into the user's folder", run_download)
    for action in (download, _add(actions, "remove", "delete downloaded weights", run_remove)):
        action.add_argument("name", metavar="NAME", help="see `mass weights list`")


def run_list(arguments: argparse.Namespace) -> int:
    """Weights known by name, one a line."""
    for entry in weights_store.entries():
        size = entry.path.stat().st_size if entry.path else None
        text = f"{entry.name:<24} {entry.where:<10} {f'{size / 1e6:.1f} MB' if size else '':>10}  {entry.path or ''}  {entry.about}"
        path = str(entry.path) if entry.path else None
        arguments.terminal.result(text.rstrip(), name=entry.name, where=entry.where, path=path, bytes=size, about=entry.about)
    return 0


def run_info(arguments: argparse.Namespace) -> int:
    """Network, preprocessing and provenance."""
    path = weights_store.locate(arguments.weights)
    held = _of_classifier(path) if weights_store.is_classifier(path) else _of_segmenter(path, arguments.ema)
    lines = [f"{path}: {held['parameters']:,} parameters, {path.stat().st_size / 1e6:.1f} MB, licence {held['licence'] or 'not stated'}"]
    if held["classes"]:
        lines += ["classes", *(f"  {one.get('value', number)}: {one['name']}" for number, one in enumerate(held["classes"]))]
    for title, name in (("network", "model"), ("preprocessing", "recipe"), ("provenance", "provenance")):
        lines += [title, *(f"  {name}: {value}" for name, value in held[name].items())]
    arguments.terminal.result("\n".join(lines), path=str(path), **held)
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Read everything as `mass segment` would, and compare with the checksum of the download."""
    from ..inference.classifier import load_classifier
    from ..weights.checkpoint import load_model

    path = weights_store.locate(arguments.weights)
    if weights_store.verify_checksum(path) is False:
        raise WeightsError(f"{path} is not the file that was downloaded.", f"Run `mass weights remove {path.stem}` and download it again.")
    classifies = weights_store.is_classifier(path)
    model = load_classifier(path, "cpu") if classifies else load_model(path, "cpu", ema=arguments.ema)
    broken = [name for name, value in model.network.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise WeightsError(f"{path} contains infinite or NaN values, in {', '.join(broken[:5])}.", "Get the weights again.")
    arguments.terminal.result(
        f"{path} is complete and intact. Fingerprint {model.fingerprint}", path=str(path), fingerprint=model.fingerprint
    )
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    """Any readable weights to our format."""
    import torch

    from ..weights.checkpoint import load_model, save_weights

    output: Path = arguments.output
    if output.suffix != ".safetensors":
        raise OutputError(f"{output} is not a valid file name for weights.", "End it with .safetensors.")
    check_free([output], overwrite=arguments.overwrite, inputs=[arguments.weights])
    model = load_model(arguments.weights, "cpu", ema=arguments.ema, network=arguments.network)
    provenance = {**model.provenance, "converted_from": model.name}
    kind = getattr(torch, arguments.dtype)
    recipe = chosen_recipe(arguments, model.recipe)
    save_weights(output, model.network, recipe, provenance, dtype=kind, licence=model.licence, task=model.task)
    size = output.stat().st_size
    arguments.terminal.result(f"{output} ({size / 1e6:.1f} MB)", output=str(output), bytes=size)
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    """A network as a graph."""
    from ..weights.checkpoint import load_model
    from ..weights.export import check_export, export

    output: Path = arguments.output
    check_export(output)
    check_free([output], overwrite=arguments.overwrite, inputs=[arguments.weights])
    model = load_model(arguments.weights, "cpu", ema=arguments.ema)
    with folders_ready([output]):
        part = export(model, output, arguments.part)
    size, stride = output.stat().st_size, model.config.stride
    text = f"{output}: {part} of {model.name}, images with sides that are multiples of {stride} ({size / 1e6:.1f} MB)"
    arguments.terminal.result(text, output=str(output), part=part, stride=stride, bytes=size)
    return 0


def run_push(arguments: argparse.Namespace) -> int:
    """Share weights."""
    from ..weights import hub

    data = weights_store.header(hub.shareable(arguments.weights)).get("provenance", {}).get("data", [])
    if data:
        named = data if isinstance(data, str) else ", ".join(map(str, data))
        arguments.terminal.warn(f"The upload discloses the training data: {named}.")
    where = hub.push(arguments.weights, arguments.target, public=arguments.public, overwrite=arguments.overwrite)
    arguments.terminal.result(f"{where}: {', '.join(hub.FILES)}", output=where, files=list(hub.FILES))
    return 0


def run_pull(arguments: argparse.Namespace) -> int:
    """Fetch shared weights."""
    from ..weights import hub

    path = hub.pull(arguments.source, arguments.name, revision=arguments.revision, overwrite=arguments.overwrite)
    arguments.terminal.result(f"{path}; use it as --weights {path.stem}", path=str(path), bytes=path.stat().st_size)
    return 0


def run_download(arguments: argparse.Namespace) -> int:
    """Fetch weights by name."""
    path = weights_store.download(arguments.name, progress=arguments.terminal.progress)
    arguments.terminal.result(str(path), path=str(path), bytes=path.stat().st_size)
    return 0


def run_remove(arguments: argparse.Namespace) -> int:
    """Delete downloaded weights."""
    path = weights_store.remove(arguments.name)
    arguments.terminal.result(f"Removed {path}", path=str(path))
    return 0


def _add(actions: Any, name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, **examples(_EXAMPLES[name]))
    parser.set_defaults(run=run)
    return parser


def _add_reader(actions: Any, name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    """An action that reads one weights file."""
    parser = _add(actions, name, text, run)
    parser.add_argument("weights", metavar="W", help="weights file or name")
    parser.add_argument(
        "--ema", action=argparse.BooleanOptionalAction, help="use the averaged (EMA) weights of a released .pth (default: if there are any)"
    )
    return parser


def _of_segmenter(path: Path, ema: bool | None) -> dict[str, Any]:
    """Contents of weights for segmentation."""
    from ..config import to_dict
    from ..weights.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(path, ema=ema)
    labels = [] if checkpoint.task is None else checkpoint.task.labels
    return {
        "parameters": sum(value.numel() for name, value in checkpoint.tensors.items() if not name.startswith("class_tokens")),
        "licence": checkpoint.licence,
        "model": to_dict(checkpoint.config),
        "recipe": to_dict(checkpoint.recipe),
        "provenance": checkpoint.provenance,
        "classes": [{"value": label.value, "name": label.name, "color": label.color} for label in labels],
    }


def _of_classifier(path: Path) -> dict[str, Any]:
    """Contents of a classifier of whole scans."""
    from ..config import to_dict
    from ..inference.classifier import load_classifier

    classifier = load_classifier(path, "cpu")
    return {
        "parameters": sum(value.numel() for value in classifier.network.parameters()),
        "licence": classifier.licence,
        "model": to_dict(classifier.config.model),
        "recipe": to_dict(classifier.config.recipe),
        "provenance": classifier.provenance,
        "classes": [{"name": name} for name in classifier.config.classes],
        "multi_label": classifier.config.multi_label,
    }
