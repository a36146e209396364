"""In-context Dice on held-out patients, beside two baselines: the reference mask copied over, and the network untrained.

    python -m Testing.benchmarks.one_shot --data FOLDER --weights small --shots 1 3 --draws 5 --output table.json

FOLDER holds images/, labels/ (same names) and split.json with `labels`, `train` and `test`. References are drawn from `train` among the
patients that have all structures; one task holds all of them. Every draw is judged on all `test` patients that have the structure. The
spread is the standard deviation over draws of references.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from mass_core import Segmenter, Task, Volume, load_model
from mass_core.errors import InputError
from mass_core.evaluation.metrics import dice
from mass_core.model import build_model
from mass_core.weights.checkpoint import Model

Scores = dict[str, dict[str, list[list[float]]]]
"""Dice [draw][patient] by structure and method."""


@dataclass(frozen=True)
class Collection:
    """Labelled scans with patient-level splits."""

    folder: Path
    labels: dict[int, str]
    splits: dict[str, list[str]]

    @classmethod
    def read(cls, folder: Path) -> "Collection":
        """Open `folder`/split.json."""
        split = json.loads((folder / "split.json").read_text())
        labels = {int(value): name for value, name in split["labels"].items()}
        return cls(folder, labels, {part: split[part] for part in ("train", "val", "test")})

    def case(self, name: str) -> tuple[Volume, Volume]:
        """Image and label map."""
        return Volume.read(self.folder / "images" / f"{name}.nii.gz"), Volume.read(self.folder / "labels" / f"{name}.nii.gz")


def draw_references(collection: Collection, shots: int, draws: int, seed: int) -> list[list[str]]:
    """`draws` sets of `shots` training patients that have all structures; no patient twice in a set, no set twice."""
    rng = np.random.default_rng((seed, shots))
    complete = []
    for name in rng.permutation(collection.splits["train"]):
        if set(collection.labels) <= set(np.unique(collection.case(str(name))[1].array)):
            complete.append(str(name))
        if len(complete) == 30:
            break
    if math.comb(len(complete), shots) < draws:
        raise InputError(f"Only {len(complete)} training patients have all structures.", f"Ask for fewer than {draws} draws.")
    sets: dict[frozenset[str], list[str]] = {}
    while len(sets) < draws:
        names = [str(name) for name in rng.choice(complete, shots, replace=False)]
        sets.setdefault(frozenset(names), names)
    return list(sets.values())


def copied(labels: Volume, target: Volume) -> np.ndarray:
    """The reference's label map laid over the target, image centre on image centre."""
    mask = labels.to_sitk()
    grid = target.to_sitk()

    def centre(image: sitk.Image) -> np.ndarray:
        return np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))

    shift = sitk.TranslationTransform(3, (centre(mask) - centre(grid)).tolist())
    return sitk.GetArrayFromImage(sitk.Resample(mask, grid, shift, sitk.sitkNearestNeighbor))


def untrained(model: Model, seed: int) -> Model:
    """The same network and preprocessing with random weights."""
    torch.manual_seed(seed)
    return replace(model, network=build_model(model.config).to(model.device).eval(), fingerprint="untrained", name="untrained")


def measure(collection: Collection, segmenters: dict[str, Segmenter], shots: Sequence[int], draws: int, seed: int, jobs: int = 1) -> Scores:
    """Dice [draw][patient] per structure and method, `jobs` patients at a time."""
    sets = {count: draw_references(collection, count, draws, seed) for count in {1, *shots}}
    tasks: dict[str, tuple[Segmenter, list[Task]]] = {}
    for name, segmenter in segmenters.items():
        # Without training one draw tells enough.
        for count, some in [(1, 1)] if name == "untrained" else [(count, draws) for count in shots]:
            method = f"{name}, {count} reference{'s' * (count > 1)}"
            tasks[method] = segmenter, [segmenter.encode([collection.case(n) for n in names]) for names in sets[count][:some]]
    scores: Scores = {name: {} for name in collection.labels.values()}
    copies = [collection.case(names[0])[1] for names in sets[1]]

    def found_in(patient: str) -> dict[str, list[np.ndarray]]:
        started, image = time.monotonic(), collection.case(patient)[0]
        found = {"copied mask, 1 reference": [copied(labels, image) for labels in copies]}
        for method, (segmenter, some) in tasks.items():
            own = Segmenter(segmenter.model, segmenter.recipe, precision=segmenter.precision)  # what it keeps is not shared by threads
            found[method] = [own.segment(image, task).labels.array for task in some]
        print(f"{patient}: {time.monotonic() - started:.0f} s", flush=True)
        return found

    with ThreadPoolExecutor(jobs) as pool:
        for patient, found in zip(collection.splits["test"], pool.map(found_in, collection.splits["test"]), strict=True):
            truth = collection.case(patient)[1].array
            for method, results in found.items():
                for draw, result in enumerate(results):
                    _judge(scores, collection, truth, method, draw, result)
    return scores


def _judge(scores: Scores, collection: Collection, truth: np.ndarray, method: str, draw: int, found: np.ndarray) -> None:
    """Note the Dice of every structure the patient has."""
    for value, name in collection.labels.items():
        mask = truth == value
        if mask.any():
            column = scores[name].setdefault(method, [])
            column.extend([] for _ in range(draw + 1 - len(column)))
            column[draw].append(float(dice(found == value, mask)))


def table(scores: Scores) -> str:
    """Markdown: structures down, methods across, mean ± standard deviation over draws."""
    methods = sorted({method for columns in scores.values() for method in columns})
    lines = ["| structure | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    means: dict[str, list[float]] = {method: [] for method in methods}
    for name, columns in scores.items():
        cells = []
        for method in methods:
            per_draw = [np.mean(d) for d in columns.get(method, [])]
            means[method].append(float(np.mean(per_draw)))
            cells.append(f"{np.mean(per_draw):.3f} ± {np.std(per_draw, ddof=min(1, len(per_draw) - 1)):.3f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "| **mean** | " + " | ".join(f"{np.mean(means[m]):.3f}" for m in methods) + " |"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", default="small")
    parser.add_argument("--shots", type=int, nargs="+", default=[1])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--patients", type=int, default=0, help="use only the first so many test patients")
    parser.add_argument("--untrained", action="store_true")
    parser.add_argument("--split", default="test")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="patients at a time, each on one thread")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    collection = Collection.read(args.data)
    collection.splits["test"] = collection.splits[args.split][: args.patients or None]
    model = load_model(args.weights, args.device)
    segmenters = {"MASS": Segmenter(model, precision=args.precision)}
    if args.untrained:
        segmenters["untrained"] = Segmenter(untrained(model, args.seed), precision=args.precision)
    if args.jobs > 1:
        torch.set_num_threads(1)
    scores = measure(collection, segmenters, args.shots, args.draws, args.seed, args.jobs)
    print(table(scores))
    if args.output:
        args.output.write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
