"""Numbers and scans that no other command gives: python -m training.reproduce.measure masks|corpus|parameters|scans."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mass_core.command_help import examples
from mass_core.data.dataset import Dataset, shown_labels, write_json
from mass_core.data.opening import open_dataset
from mass_core.errors import InputError
from mass_core.evaluation.scoring import scan
from mass_core.masks.statistics import averages, label_scores, mean_known
from mass_core.model import build_model

from ..failures import answered
from ..pretrain import recipes
from ..runs.logbook import progress_bar


def masks(datasets: Sequence[Dataset]) -> dict[str, float]:
    """The paper's table 4a in %: masks of a dataset's training scans beside their labels, on its grid."""
    rows, dataset = [], datasets[0]
    for name in progress_bar(dataset.splits["train"], desc="masks beside labels", unit="scan"):
        _, labels = scan(dataset, name)
        found = dataset.masks(name)
        # Both lie on the grid of the dataset, so the masks get the place of the label map.
        found.meta.update({"origin_xyz": labels.geometry.origin_xyz, "direction": labels.geometry.direction})
        rows.append(averages(label_scores(found, labels)))
    means = (mean_known(column) for column in zip(*rows, strict=True))
    return {key: 100 * value for key, value in zip(("best", "mean", "above_40"), means, strict=False) if value is not None}


def corpus(datasets: Sequence[Dataset]) -> dict[str, Any]:
    """Number and modalities of the training scans."""
    cases = [dataset.case(name) for dataset in datasets for name in dataset.splits["train"]]
    return {"samples": len(cases), "modalities": ", ".join(sorted({case.modality.upper() for case in cases}))}


def parameters(_: Sequence[Dataset]) -> dict[str, float]:
    """Millions of parameters of the paper's network, by part."""
    with torch.device("meta"):
        network = build_model(recipes.paper().model)
    sizes = {name: sum(value.numel() for value in part.parameters()) / 1e6 for name, part in network.named_children()}
    total = sum(value.numel() for value in network.parameters()) / 1e6
    return {
        "Encoder": sizes["encoder"],
        "Decoder": sizes["decoder"],
        "Task encoding module": total - sizes["encoder"] - sizes["decoder"],
        "Total": total,
    }


def write_scans(dataset: Dataset, folder: Path) -> None:
    """The training scan that shows most structures, with its labels, and the first test scan, as files; intensities are normalised.

    Raises:
        InputError: if there is no test scan, or no training scan with labels.
    """
    shown = shown_labels(dataset, dataset.splits["train"])
    if not shown or not dataset.splits["test"]:
        raise InputError(f"{dataset.folder} has no labelled training scan or no test scan.", "Prepare it with --shares 0.75 0.05 0.2.")
    image, labels = scan(dataset, max(sorted(shown), key=lambda name: len(shown[name])))
    target, _ = scan(dataset, dataset.splits["test"][0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, volume in {"reference": image, "reference_labels": labels, "target": target}.items():
        volume.write(folder / f"{name}.nii.gz")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="training.reproduce.measure",
        description="Compute the numbers and scans of the paper's tables and figures that no other command gives.",
        **examples("python -m training.reproduce.measure masks --dataset DATASET --output masks.json"),
    )
    parser.add_argument(
        "what",
        choices=("masks", "corpus", "parameters", "scans"),
        help="masks: table 4a; corpus: table 7; parameters: table 8; scans: figures 6 and 7",
    )
    parser.add_argument("--dataset", nargs="+", default=[], type=Path, metavar="DIR", help="prepared datasets")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write; for scans, a folder")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 done, 2 bad input, 130 interrupted."""
    return answered(lambda: _command(argv))


def _command(argv: Sequence[str] | None) -> None:
    args = build_parser().parse_args(argv)
    if not args.dataset and args.what != "parameters":
        raise InputError("--dataset is missing.", "Give folders that mass prepare made.")
    datasets = [open_dataset(folder) for folder in args.dataset]
    if args.what == "scans":
        write_scans(datasets[0], args.output)
        return
    numbers: dict[str, Callable[[Sequence[Dataset]], dict[str, Any]]] = {"masks": masks, "corpus": corpus, "parameters": parameters}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.output, numbers[args.what](datasets))


if __name__ == "__main__":
    sys.exit(main())
