"""Numbers and scans that no other command gives: python -m training.reproduce.measure masks|corpus|parameters|scans."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mass_core.data.dataset import Dataset, write_json
from mass_core.data.opening import open_dataset
from mass_core.errors import InputError, MassError
from mass_core.evaluation.scoring import scan, shown_labels
from mass_core.masks.statistics import averages, label_scores, mean_known
from mass_core.model import build_model
from mass_core.volumes.volume import Volume

from ..pretrain import recipes


def masks(dataset: Dataset) -> dict[str, float]:
    """The paper's table 4a in %: masks of the training scans beside their labels, on the grid of the dataset."""
    rows = []
    for name in dataset.splits["train"]:
        _, labels = scan(dataset, name)
        found = dataset.masks(name)
        found.meta.update(_place(labels))
        rows.append(averages(label_scores(found, labels)))
    means = (mean_known(column) for column in zip(*rows, strict=True))
    return {key: 100 * value for key, value in zip(("best", "mean", "above_40"), means, strict=False) if value is not None}


def corpus(datasets: Sequence[Dataset]) -> dict[str, Any]:
    """Number and modalities of the training scans."""
    cases = [dataset.case(name) for dataset in datasets for name in dataset.splits["train"]]
    return {"samples": len(cases), "modalities": ", ".join(sorted({case.modality.upper() for case in cases}))}


def parameters() -> dict[str, float]:
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


def _place(labels: Volume) -> dict[str, Any]:
    """Origin and direction of a label map, as a mask set keeps them."""
    return {"origin_xyz": labels.geometry.origin_xyz, "direction": labels.geometry.direction}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="training.reproduce.measure", description="Numbers and scans of the paper's tables and figures.")
    parser.add_argument("what", choices=("masks", "corpus", "parameters", "scans"))
    parser.add_argument("--dataset", nargs="+", default=[], type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, help="JSON file; of scans a folder")
    args = parser.parse_args(argv)
    try:
        datasets = [open_dataset(folder) for folder in args.dataset]
        if args.what == "scans":
            write_scans(datasets[0], args.output)
            return 0
        numbers: dict[str, Callable[[], dict[str, Any]]] = {
            "masks": lambda: masks(datasets[0]),
            "corpus": lambda: corpus(datasets),
            "parameters": parameters,
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.output, numbers[args.what]())
    except MassError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
