"""mass evaluate --self-reference: segment every scan with an augmented copy of itself as the reference."""

import argparse
import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from statistics import mean
from typing import TYPE_CHECKING

from ..outputs import check_free, folders_ready
from ..progress import Steps
from .options import chosen_recipe, load

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..evaluation.self_reference import Recognition

NAME = "self-reference"
_FILE = "self_reference.csv"


def run(arguments: argparse.Namespace, dataset: "Dataset", cases: Sequence[str], labels: Sequence[int]) -> int:
    """Run the self-reference test on every scan, write and print the results."""
    from ..evaluation.scoring import segmenter_for
    from ..evaluation.self_reference import recognise
    from ..files import write_bytes
    from ..inference.segmenter import Segmenter

    output = arguments.output / _FILE
    check_free([output], overwrite=arguments.overwrite, inputs=[arguments.dataset, arguments.weights])
    with folders_ready([output]):
        model = load(arguments)
        recipe = chosen_recipe(arguments, model.recipe, name=arguments.recipe)
        segmenter = segmenter_for(Segmenter(model, recipe, precision=arguments.precision), dataset)
        steps, found = Steps(arguments.terminal.progress), list["Recognition"]()
        for number, case in enumerate(cases, 1):
            found += recognise(dataset, segmenter, case, labels, arguments.repeats, arguments.seed)
            steps.at(NAME, number, len(cases))
        write_bytes(output, _as_csv(found, arguments.seed).encode())
    rows = _rows(found, dataset)
    arguments.terminal.result(_table(rows), method=NAME, seed=arguments.seed, rows=rows, output=str(output))
    return 0


def _rows(found: Sequence["Recognition"], dataset: "Dataset") -> list[dict[str, object]]:
    """A row for each structure: how many scans show it, mean and least Dice over scans and draws."""
    rows: list[dict[str, object]] = []
    for label in sorted({one.label for one in found}):
        some = [one for one in found if one.label == label]
        scores = [one.dice for one in some]
        name = dataset.label_names.get(label, f"label {label}")
        scans = len({one.case for one in some})
        rows.append({"method": NAME, "label": label, "name": name, "scans": scans, "dice": mean(scores), "least": min(scores)})
    return rows


def _table(rows: Sequence[dict[str, object]]) -> str:
    lines = ["| method | structure | scans | Dice | least |", "|---|---|--:|--:|--:|"]
    lines += [f"| {NAME} | {row['name']} | {row['scans']} | {row['dice']:.3f} | {row['least']:.3f} |" for row in rows]
    return "\n".join(lines)


def _as_csv(found: Sequence["Recognition"], seed: int) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["method", "seed", "draw", "case", "label", "dice"], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"method": NAME, "seed": seed, **asdict(one)} for one in found)
    return text.getvalue()
