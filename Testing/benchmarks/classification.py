"""Benefit of pretraining for classification, on two stand-ins for data that cannot be shipped (the paper's are RSNA hemorrhage and trauma).

    python -m Testing.benchmarks.classification --data headneck_ct --output FOLDER [--seeds 3] [--weights small]

organs: which organs a box of 130 mm out of a head-and-neck CT shows, several labels. Real scans, labels from the organs' contours.
lesion: whether 120 mm of the liver of a phantom hold a small bright ball. Not a real disease: a test of the machinery on balanced classes.

Four ways each: a frozen encoder, pretrained or random, and the whole network learning from either. AUC on the split test, mean and
standard deviation over seeds; test scans come from subjects that neither this training nor that of the bundled weights saw. Scans, labels
and runs are kept in FOLDER: started again, it goes on.
"""

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mass_core.data import phantoms
from mass_core.volumes.boxes import label_boxes
from mass_core.volumes.volume import Volume
from training.classify.loop import main as train

ORGANS = {1: "brainstem", 3: "right parotid", 4: "left parotid", 6: "larynx", 7: "mandible"}
BOX_MM = 130.0
LESIONS = {"train": 100, "val": 40, "test": 100}
LIVER_VOXELS, LIVER_MM = 24, 5.0
FROZEN = ["epochs=50", "head_rate=2e-3"]
FULL = ["frozen=false", "epochs=3", "batch_size=4", "head_rate=2e-3", "precision=bfloat16", "schedule=cosine"]
WAYS = {
    "frozen, pretrained": FROZEN,
    "frozen, random": [*FROZEN, "random_encoder=true"],
    "full, pretrained": [*FULL, "encoder_rate=1e-4"],
    "full, random": [*FULL, "encoder_rate=1e-3", "random_encoder=true"],
}
Row = dict[str, Any]


def main() -> int:
    """Make the scans, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="head-and-neck CT: images/, labels/, split.json")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--weights", default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=["organs", "lesion"], choices=("organs", "lesion"))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    arguments = parser.parse_args()
    for task in arguments.tasks:
        folder = arguments.output / task
        if not (folder / "labels.csv").exists():
            write(folder, organ_boxes(arguments.data) if task == "organs" else livers())
        for way in arguments.ways:
            found = [run(folder, arguments.weights, way, seed) for seed in range(arguments.seeds)]
            for split in ("val", "test"):
                values = [one[split]["auc"] for one in found]
                print(
                    f"{task:8} {way:20} {split:5} {np.mean(values):.3f} ± {np.std(values):.3f}  {[round(v, 3) for v in values]}", flush=True
                )
            print(f"{'':29} {json.dumps(mean_by_class(found))}", flush=True)
    return 0


def run(folder: Path, weights: str, way: str, seed: int) -> dict[str, Any]:
    """Scores of one run, made now or before."""
    output = folder / f"{way.replace(', ', '_')}_{seed}"
    if not (output / "metrics.json").exists():
        words = ["--weights", weights, "--labels", str(folder / "labels.csv"), "--images", str(folder / "images"), "--output", str(output)]
        words += ["--recipe", "small", "--device", "cpu", "--resume", "auto", "--set", "size_zyx=24,24,24", "save_every=50"]
        if train([*words, f"seed={seed}", *WAYS[way]]):
            raise SystemExit(2)
    return json.loads((output / "metrics.json").read_text())


def mean_by_class(found: list[dict[str, Any]]) -> dict[str, float]:
    """AUC of every class on test, mean over runs."""
    names = found[0]["test"]["auc_by_class"]
    return {name: round(float(np.mean([one["test"]["auc_by_class"][name] for one in found])), 3) for name in names}


def write(folder: Path, cases: Iterator[tuple[Row, Volume]]) -> None:
    """Images, then the table of their labels."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for row, image in cases:
        image.write(folder / "images" / f"{row['filename']}.nii.gz")
        rows.append(row)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def organ_boxes(data: Path) -> Iterator[tuple[Row, Volume]]:
    """Boxes at random places, three of each patient, six of the few for validation and test; only patients all of whose organs were drawn.

    An organ is there if at least half of it lies in the box. Ten patients for validation are taken from those for training.
    """
    rng = np.random.default_rng(0)
    splits = {name: split for split in ("train", "val", "test") for name in json.loads((data / "split.json").read_text())[split]}
    patients = []
    for name, split in splits.items():
        labels = Volume.read(data / "labels" / f"{name}.nii.gz")
        if set(ORGANS) <= set(label_boxes(labels.array)):
            patients.append((name, split, labels))
    training = [name for name, split, _ in patients if split == "train"]
    moved = set(training[:: max(1, len(training) // 10)][:10])
    for name, split, labels in patients:
        image = Volume.read(data / "images" / f"{name}.nii.gz")
        side = "val" if name in moved else split
        for number in range(3 if side == "train" else 6):
            box = _box(labels, rng)
            inside = labels.cropped(box).array
            shown = {f"label_{organ}": int(2 * (inside == v).sum() >= (labels.array == v).sum()) for v, organ in ORGANS.items()}
            yield {"filename": f"{name}_{number}", "split": side, "patient": name, **shown}, image.cropped(box)


def _box(labels: Volume, rng: np.random.Generator) -> Any:
    """A box around a random place between the outermost organs, moved into the scan."""
    size = np.minimum(np.round(BOX_MM / np.array(labels.geometry.spacing_zyx)).astype(int), labels.array.shape)
    where = np.argwhere(labels.array)
    low, high = where.min(0), where.max(0)
    start = np.clip(np.round(rng.uniform(low, high) - size / 2).astype(int), 0, np.array(labels.array.shape) - size)
    return tuple(start.tolist()), tuple((start + size).tolist())


def livers() -> Iterator[tuple[Row, Volume]]:
    """A cube of 120 mm around the middle of a phantom's liver, every second one with a bright ball of 10 to 15 mm radius in it."""
    number = 0
    for split, count in LESIONS.items():
        for _ in range(count):
            image, labels = phantoms.subject(10_000 + number, shape_zyx=(44, 56, 64), spacing_zyx=(LIVER_MM,) * 3)
            middle = np.argwhere(labels.array == 1).mean(0)
            start = np.clip(np.round(middle - LIVER_VOXELS / 2).astype(int), 0, np.array(labels.array.shape) - LIVER_VOXELS)
            z, y, x = start.tolist()
            box = ((z, y, x), (z + LIVER_VOXELS, y + LIVER_VOXELS, x + LIVER_VOXELS))
            scan, liver, ill = image.cropped(box), labels.cropped(box).array == 1, number % 2
            yield {"filename": f"p{number:03}", "split": split, "label": ill}, _with_lesion(scan, liver, number) if ill else scan
            number += 1


def _with_lesion(image: Volume, liver: np.ndarray, seed: int) -> Volume:
    """The scan with 150 to 250 HU more in a ball, as far as it lies in the liver, whose centre does; its edge is as soft as a voxel."""
    rng = np.random.default_rng([seed, 7])
    centre = rng.choice(np.argwhere(liver))
    distance = np.sqrt(sum((index - c) ** 2 for index, c in zip(np.indices(image.array.shape), centre, strict=True))) * LIVER_MM
    ball = np.clip((rng.uniform(10, 15) - distance) / LIVER_MM + 0.5, 0, 1) * liver
    return Volume((image.array + rng.uniform(150, 250) * ball).astype(np.float32), image.geometry, image.modality)


if __name__ == "__main__":
    raise SystemExit(main())
