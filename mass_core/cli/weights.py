"""mass weights: what networks there are, and what a file holds."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import weights_store
from ..errors import OutputError, WeightsError

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser("weights", help="list, inspect, convert, download weights")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add(actions, "list", "weights known by name", run_list)
    _add_reader(actions, "info", "what a file holds", run_info)
    _add_reader(actions, "verify", "check that a file is whole and fits its network", run_verify)
    convert = _add_reader(actions, "convert", "write any weights as one of our files", run_convert)
    convert.add_argument("output", type=Path, metavar="OUT.safetensors")
    convert.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="of the numbers in the file (default: %(default)s)"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    for name, text, run in (
        ("download", "fetch weights into the user's folder", run_download),
        ("remove", "delete downloaded weights", run_remove),
    ):
        _add(actions, name, text, run).add_argument("name", metavar="NAME", help="see `mass weights list`")


def run_list(arguments: argparse.Namespace) -> int:
    """Weights known by name, one a line."""
    for entry in weights_store.entries():
        size = entry.path.stat().st_size if entry.path else None
        text = f"{entry.name:<16} {entry.where:<10} {f'{size / 1e6:.1f} MB' if size else '':>10}  {entry.path or ''}  {entry.about}"
        path = str(entry.path) if entry.path else None
        arguments.terminal.result(text.rstrip(), name=entry.name, where=entry.where, path=path, bytes=size, about=entry.about)
    return 0


def run_info(arguments: argparse.Namespace) -> int:
    """Network, preprocessing and provenance."""
    from ..config import to_dict

    path, checkpoint = _read(arguments)
    model, recipe = to_dict(checkpoint.config), to_dict(checkpoint.recipe)
    count = sum(value.numel() for name, value in checkpoint.tensors.items() if not name.startswith("class_tokens"))
    lines = [f"{path}: {count:,} parameters, {path.stat().st_size / 1e6:.1f} MB, licence {checkpoint.licence or 'not stated'}"]
    classes = [] if checkpoint.task is None else [{"value": x.value, "name": x.name, "color": x.color} for x in checkpoint.task.labels]
    if classes:
        lines += ["classes", *(f"  {one['value']}: {one['name']}" for one in classes)]
    for title, values in (("network", model), ("preprocessing", recipe), ("provenance", checkpoint.provenance)):
        lines += [title, *(f"  {name}: {value}" for name, value in values.items())]
    arguments.terminal.result(
        "\n".join(lines),
        path=str(path),
        parameters=count,
        licence=checkpoint.licence,
        model=model,
        recipe=recipe,
        provenance=checkpoint.provenance,
        classes=classes,
    )
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """Read everything as `mass segment` would, and compare with the checksum of the download."""
    from ..checkpoint import load_model

    path = weights_store.locate(arguments.weights)
    if weights_store.verify_checksum(path) is False:
        raise WeightsError(f"{path} is not what was downloaded.", f"Run `mass weights remove {path.stem}` and download it again.")
    model = load_model(path, "cpu", ema=arguments.ema)
    broken = [name for name, value in model.network.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise WeightsError(f"{path} holds numbers that are infinite or none, in {', '.join(broken[:5])}.", "Get the weights again.")
    arguments.terminal.result(f"{path} is whole. Fingerprint {model.fingerprint}", path=str(path), fingerprint=model.fingerprint)
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    """Any readable weights to our format."""
    import torch

    from ..checkpoint import load_model, save_weights

    output: Path = arguments.output
    if output.suffix != ".safetensors":
        raise OutputError(f"{output} is no name for weights.", "End it with .safetensors.")
    if output.exists() and not arguments.overwrite:
        raise OutputError(f"{output} exists.", "Choose another name, or add --overwrite.")
    model = load_model(arguments.weights, "cpu", ema=arguments.ema)
    provenance = {**model.provenance, "converted_from": model.name}
    kind = getattr(torch, arguments.dtype)
    save_weights(output, model.network, model.recipe, provenance, dtype=kind, licence=model.licence, task=model.task)
    size = output.stat().st_size
    arguments.terminal.result(f"{output} ({size / 1e6:.1f} MB)", output=str(output), bytes=size)
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
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text)
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)
    return parser


def _add_reader(actions: Any, name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    """An action that reads one weights file."""
    parser = _add(actions, name, text, run)
    parser.add_argument("weights", metavar="W", help="weights file or name")
    parser.add_argument(
        "--ema", action=argparse.BooleanOptionalAction, help="averaged weights of a released .pth (default: if there are any)"
    )
    return parser


def _read(arguments: argparse.Namespace) -> "tuple[Path, Checkpoint]":
    from ..checkpoint import read_checkpoint

    path = weights_store.locate(arguments.weights)
    return path, read_checkpoint(path, ema=arguments.ema)
