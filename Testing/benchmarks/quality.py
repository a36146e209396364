"""Calibration of the estimated quality against the true Dice; the source of the numbers in mass_core/evaluation/quality.py.

    python -m Testing.benchmarks.quality collect --data FOLDER --split val --draws 2 --output features.jsonl
    python -m Testing.benchmarks.quality fit features.jsonl
    python -m Testing.benchmarks.quality report features.jsonl --figure FILE.png

FOLDER holds images/, labels/ (same names) and split.json with `labels`, `train`, `val` and `test`. `collect` segments every scan of a split
after references drawn anew for it among the training patients that have all structures (one reference, every fourth time three), and
appends a line for each structure. Three more kinds of lines: `absent`, the scan cut off so that a structure lies outside; `cut`, the scan
ends in the middle of a structure; `other`, scans of another folder (--other) that show none of the structures. `fit` prints the
coefficients, `report` judges.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, stats

from mass_core import Segmenter, Task, Volume, load_model
from mass_core.evaluation import quality
from mass_core.evaluation.evidence import Evidence, QualityProbe
from mass_core.evaluation.metrics import dice
from mass_core.progress import Steps
from mass_core.volumes.boxes import Box, label_boxes

from .one_shot import Collection

Row = dict[str, Any]
Pairs = list[tuple[Volume, Volume]]
Array = NDArray[Any]
SIGNS = ("cycle", "own", "scaled", "aligned")
KNOWLEDGE = {
    "references, aligned": ("scaled",),
    "references": ("scaled", "aligned"),
    "a task": ("scaled", "aligned", "cycle"),
    "fixed classes": ("aligned", "cycle", "own"),
}
"""Available inputs, and the signs unknown in each case."""
_LEAST = 16
"""Voxels along each side a cut-off scan must keep."""
_RIDGE = 1e-3
"""Keeps weights small that the data do not decide on."""


def collect(args: argparse.Namespace) -> None:
    """Append the evidence about every result to a file."""
    collection = Collection.read(args.data)
    segmenter = Segmenter(load_model(args.weights, args.device), precision=args.precision)
    values = args.labels or list(collection.labels)
    others = Collection.read(args.other) if args.other else None
    patients = collection.splits[args.split][: args.patients or None]
    with args.output.open("a") as file:
        for turn in range(*(args.turns or (0, args.draws * len(patients)))):
            rng = np.random.default_rng((args.seed, turn))
            name = patients[turn % len(patients)]
            references = _drawn(collection, 3 if turn % 4 == 3 else 1, rng)
            task = segmenter.encode(references, values)
            scans = list(_scans(collection.case(name), values[turn % len(values)], cut=turn // len(values) % 2 == 0))
            if others is not None:
                image, labels = others.case(str(rng.choice(others.splits[args.split])))
                scans.append(("other", values, image, Volume(np.zeros_like(labels.array), labels.geometry)))
            for kind, some, image, truth in scans:
                common = {"data": args.data.name, "split": args.split, "case": name, "kind": kind, "references": len(references)}
                for row in _rows(segmenter, task.only(some or values), references, image, truth):
                    file.write(json.dumps({**common, **row}) + "\n")
            file.flush()
            print(f"{name}: {time.process_time():.0f} s of processor time so far", flush=True)


def _drawn(collection: Collection, count: int, rng: np.random.Generator) -> Pairs:
    """References among the training patients that have all structures."""
    found: Pairs = []
    for name in rng.permutation(collection.splits["train"]):
        image, labels = collection.case(str(name))
        if set(collection.labels) <= set(np.unique(labels.array)):
            found.append((image, labels))
        if len(found) == count:
            break
    return found


def _scans(case: tuple[Volume, Volume], value: int, *, cut: bool) -> Iterator[tuple[str, list[int], Volume, Volume]]:
    """A scan as it is (no values: all structures), and without one structure or with half of it."""
    image, labels = case
    yield "whole", [], image, labels
    box = label_boxes(labels.array).get(value)
    if box is not None:
        part = _up_to_the_middle(box, image.array.shape) if cut else _beside(box, image.array.shape)
        if min(b - a for a, b in zip(*part, strict=True)) >= _LEAST:
            yield "cut" if cut else "absent", [value], image.cropped(part), labels.cropped(part)


def _beside(box: Box, shape: Sequence[int]) -> Box:
    """The largest part of a scan on one side of a box, two voxels away."""
    parts = []
    for axis in range(3):
        for low, high in ((0, box[0][axis] - 2), (box[1][axis] + 2, shape[axis])):
            start, stop = [0, 0, 0], list(shape)
            start[axis], stop[axis] = low, max(low, high)
            parts.append((tuple(start), tuple(stop)))
    return max(parts, key=lambda part: np.prod(np.subtract(part[1], part[0])))  # type: ignore[return-value]


def _up_to_the_middle(box: Box, shape: Sequence[int]) -> Box:
    """The scan from its first plane to the middle of a box."""
    return (0, 0, 0), ((box[0][0] + box[1][0]) // 2, shape[1], shape[2])


def _rows(segmenter: Segmenter, task: Task, references: Pairs, image: Volume, truth: Volume) -> Iterator[Row]:
    """Evidence on each label of a result, with its true Dice: 0 for what was found where nothing is, null for nothing there."""
    began = time.process_time()
    segmented = segmenter.segment(image, task)
    found = segmented.labels
    between = time.process_time()
    known = QualityProbe(segmenter, task, image, found).gather(references, Steps())
    ended = time.process_time()
    fixed = QualityProbe(_with_fixed_classes(segmenter, task), task, image, found).gather((), Steps())
    for label in task.labels:
        a, b = truth.array == label.value, found.array == label.value
        yield {
            "label": label.value,
            "dice": float(dice(a, b)) if a.any() or b.any() else None,
            "present": bool(a.any()),
            "spacing_mm": label.spacing_zyx[0],
            "segment_s": between - began,
            "assess_s": ended - between,
            **asdict(quality.with_decision(known[label.value], segmented.decisions[label.value])),
            "scaled": fixed[label.value].scaled,
        }


def _with_fixed_classes(segmenter: Segmenter, task: Task) -> Segmenter:
    """The same network as if it had been finetuned: it takes no references, so that other questions are put to it."""
    network = segmenter.model.network.with_fixed_classes(task.tokens(range(len(task.labels))))
    return Segmenter(replace(segmenter.model, network=network), segmenter.recipe, precision=segmenter.precision)


def fit(args: argparse.Namespace) -> None:
    """The numbers of evaluation/quality.py: logistic formulas for what is known with references, with a task, with fixed classes."""
    rows = _found(args.features)
    signs = [quality.signs(_evidence(row)) for row in rows]
    typical = {name: round(float(np.mean([s[name] for s in signs if s[name] is not None])), 3) for name in signs[0]}
    sets = Counter(row["data"] for row in rows)
    weights = np.array([len(rows) / len(sets) / sets[row["data"]] for row in rows])  # every dataset counts alike
    truth = np.array([row["dice"] for row in rows])
    print(f"_TYPICAL = {typical}")
    for absent in KNOWLEDGE.values():
        names = [name for name in typical if name not in absent]
        values = np.array([[typical[n] if s[n] is None else s[n] for n in names] for s in signs])
        found = _logistic(values, truth, weights, names)
        print({"": round(found[0], 2), **{name: round(x, 2) for name, x in zip(names, found[1:], strict=True)}})


def _logistic(values: Array, truth: Array, weights: Array, names: Sequence[str]) -> Array:
    """Intercept and weights of least cross-entropy with the true Dice; none has the sign that common sense forbids."""

    def loss(x: Array) -> float:
        total = x[0] + values @ x[1:]
        return float(np.sum(weights * (np.logaddexp(0, total) - truth * total)) / len(truth) + _RIDGE * np.sum(x[1:] ** 2))

    signs = [(0, None) if name in ("cycle", "own", "scaled", "aligned") else (None, 0) for name in names]
    return optimize.minimize(loss, np.zeros(1 + len(names)), method="L-BFGS-B", bounds=[(None, None), *signs]).x


def report(args: argparse.Namespace) -> None:
    """Print tables: how well the expected Dice predicts the true one, flags, structures that are not there, cost."""
    rows = _found(args.features)
    shown = [row for row in rows if row["kind"] == "whole" and row["present"]]
    for title, some in (("structures that are there, whole scans", shown), ("everything found", rows)):
        print(f"\n{title}\n\n| scans | known | results | Pearson | Spearman | AUC, Dice < 0.5 | calibration error | mean error |")
        print("|---|---|" + "--:|" * 6)
        for data in (*sorted({row["data"] for row in some}), "both"):
            for known, absent in KNOWLEDGE.items():
                print(f"| {data} | {known} | " + _measures([r for r in some if data in (r["data"], "both")], absent) + " |")
    print("\nsingle signs, structures that are there\n")
    for name in SIGNS:
        known = [(row[name], row["dice"]) for row in shown if row[name] is not None]
        print(f"{name}: {len(known)} results, Pearson {np.corrcoef(*zip(*known, strict=True))[0, 1]:.2f}")
    _flags(rows)
    _seconds(rows)
    if args.figure:
        _draw(rows, args.figure)


def _measures(rows: list[Row], absent: Sequence[str]) -> str:
    truth = np.array([row["dice"] for row in rows])
    expected = np.array([quality.expected_dice(replace(_evidence(row), **dict.fromkeys(absent))) for row in rows])
    low = truth < 0.5
    auc = stats.mannwhitneyu(expected[~low], expected[low]).statistic / (low.sum() * (~low).sum()) if 0 < low.sum() < len(low) else np.nan
    bins = np.minimum((expected * 10).astype(int), 9)
    error = sum(abs(expected[bins == b].mean() - truth[bins == b].mean()) * np.mean(bins == b) for b in np.unique(bins))
    both = (np.corrcoef(expected, truth)[0, 1], stats.spearmanr(expected, truth)[0], auc, error, np.abs(expected - truth).mean())
    return " | ".join([str(len(rows)), *(f"{x:.2f}" for x in both)])


def _flags(rows: list[Row]) -> None:
    """Flags against the true Dice, and by what the scan shows."""
    shown = [row for row in rows if row["kind"] == "whole" and row["present"]]
    groups = {
        "Dice at least 0.7": [r for r in shown if r["dice"] >= 0.7],
        "Dice 0.5 to 0.7": [r for r in shown if 0.5 <= r["dice"] < 0.7],
        "Dice below 0.5": [r for r in shown if r["dice"] < 0.5],
        "cut off by the scan's end": [r for r in rows if r["kind"] == "cut" and r["present"]],
        "not in the scan (patient without it)": [r for r in rows if r["kind"] == "whole" and not r["present"]],
        "not in the scan (cut off)": [r for r in rows if r["kind"] == "absent"],
        "not in the scan (another body part and modality)": [r for r in rows if r["kind"] == "other"],
    }
    print("\n| results | number | good | check | unreliable | mean expected Dice | mean true Dice |\n|---|" + "--:|" * 6)
    for name, some in groups.items():
        judged = [quality.quality_from(_evidence(row)) for row in some]
        flags = Counter(one.flag for one in judged)
        cells = [f"{flags[flag]}" for flag in ("good", "check", "unreliable")]
        means = [f"{np.mean(x):.2f}" if x else "" for x in ([one.expected_dice for one in judged], [row["dice"] for row in some])]
        print(f"| {name} | {len(some)} | {' | '.join([*cells, *means])} |")


def _seconds(rows: list[Row]) -> None:
    for data in sorted({row["data"] for row in rows}):
        runs = {(r["case"], r["segment_s"], r["assess_s"]) for r in rows if r["data"] == data and r["kind"] == "whole"}
        print(f"{data}: {np.mean([r[1] for r in runs]):.2f} s to segment a scan, {np.mean([r[2] for r in runs]):.2f} s more to judge it")


def _draw(rows: list[Row], path: Path) -> None:
    """Expected against true Dice, a panel for each dataset."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = sorted({row["data"] for row in rows})
    figure, axes = plt.subplots(1, len(names), figsize=(3.4 * len(names), 3.5), sharey=True, squeeze=False)
    kinds = (("in the scan", "#2c6fbb", lambda r: r["present"]), ("not in the scan", "#d1495b", lambda r: not r["present"]))
    for name, axis in zip(names, axes[0], strict=True):
        axis.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
        for label, color, belongs in kinds:
            some = [row for row in rows if row["data"] == name and belongs(row)]
            expected = [quality.expected_dice(_evidence(row)) for row in some]
            axis.scatter(expected, [row["dice"] for row in some], s=9, color=color, alpha=0.6, linewidths=0, label=label)
        axis.set(title=name, xlabel="expected Dice", xlim=(0, 1), ylim=(-0.02, 1), aspect="equal")
    axes[0][0].set_ylabel("true Dice")
    axes[0][0].legend(frameon=False, fontsize=8, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def _found(files: Sequence[Path]) -> list[Row]:
    """The lines about labels of which something was found; tells of the others."""
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    empty = [row for row in rows if not row["ml"]]
    print(f"{len(rows)} results, {len(empty)} of them empty; in {sum(not row['present'] for row in empty)} of those nothing was there")
    return [row for row in rows if row["ml"]]


def _evidence(row: Row) -> Evidence:
    return Evidence(**{field.name: row[field.name] for field in fields(Evidence)})


def main() -> None:
    """Run a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(required=True)
    step = steps.add_parser("collect")
    step.add_argument("--data", type=Path, required=True)
    step.add_argument("--other", type=Path, help="folder of scans that show none of the structures")
    step.add_argument("--split", default="val")
    step.add_argument("--weights", default="small")
    step.add_argument("--draws", type=int, default=1)
    step.add_argument("--turns", type=int, nargs=2, metavar=("FIRST", "END"), help="some of the scans times draws, for several processes")
    step.add_argument("--labels", type=int, nargs="+")
    step.add_argument("--patients", type=int, default=0, help="only the first so many")
    step.add_argument("--device", default="cpu")
    step.add_argument("--precision", default="auto")
    step.add_argument("--seed", type=int, default=0)
    step.add_argument("--output", type=Path, required=True)
    step.set_defaults(run=collect)
    for name, run in (("fit", fit), ("report", report)):
        step = steps.add_parser(name)
        step.add_argument("features", type=Path, nargs="+")
        step.set_defaults(run=run)
    step.add_argument("--figure", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.run(args)


if __name__ == "__main__":
    main()
