"""Alignment beside the package convexadam, in one run: seconds a pair and Dice, the same pairs and the same labels.

    pip install --target SITE --no-deps convexadam nibabel
    python -m Testing.benchmarks.alignment --data FOLDER --package SITE --references 3 --targets 4

FOLDER holds images/, labels/ and split.json. References come from `train`, targets from `val`. The package gets the shift our
alignment ends with and is charged the search for it (in MR it starts with the middles of both scans on each other, which suits it
better), 4 mm voxels (1 mm in scans below 100 mm) around the structures, its defaults otherwise, and 60 steps.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mass_core import Volume
from mass_core.alignment.align import Target, align, candidate_shifts
from mass_core.alignment.atlas import Atlas, distance_at, intensity_limits, make_atlas
from mass_core.alignment.fields import sample
from mass_core.alignment.locate import aligned_labels
from mass_core.alignment.prior import combined, points_mm_of
from mass_core.alignment.scan import aligned_scan, averaged, lattice
from mass_core.config import Recipe
from mass_core.evaluation.metrics import dice

from .fit_alignment import complete_references
from .one_shot import Collection

RECIPE, CPU = Recipe(ct_clip_hu=(-500.0, 500.0)), torch.device("cpu")


def ours(atlas: Atlas, image: Volume, labels: Sequence[int]) -> tuple[np.ndarray, torch.Tensor]:
    """Label map of our alignment alone, trusted or not, and its shift."""
    target = Target(image, RECIPE, CPU)
    found = align(atlas, target)
    priors = {value: combined([found], value, target, (0, 1, 1, 0, 0)) for value in labels}
    trusted = {value: replace(prior, trust=1.0) for value, prior in priors.items() if prior is not None}
    return aligned_labels(trusted, image, np.dtype(np.uint8)), found.shift


def package(atlas: Atlas, reference: Volume, image: Volume, labels: Sequence[int], mm: float, shift: torch.Tensor) -> np.ndarray:
    """Label map of the package after a shift."""
    from convexAdam.convex_adam_MIND import convex_adam_pt  # type: ignore[import-not-found]

    candidate_shifts(atlas, Target(image, RECIPE, CPU))  # the time it would take to find the shift
    if atlas.modality != "ct":
        middles = [np.mean(volume.geometry.box_mm, axis=0)[::-1] for volume in (reference, image)]
        shift = torch.from_numpy(np.subtract(*middles).astype(np.float32))
    target, source = (
        aligned_scan(averaged(volume, mm), lattice(volume.geometry, mm), intensity_limits(volume, atlas.modality, RECIPE), CPU)
        for volume in (image, reference)
    )
    index = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in target.values.shape], indexing="ij"))
    moved = sample(source.values[None], source.index(target.points_mm(index) + shift.view(3, 1, 1, 1)))[0]
    near = sample(atlas.near[None], atlas.scan.index(target.points_mm(index) + shift.view(3, 1, 1, 1)))[0] > 0.5
    where = near.nonzero()
    margin = int(60 / mm)
    low = (where.amin(0) - margin).clamp(min=0)
    high = torch.minimum(where.amax(0) + margin + 1, torch.tensor(near.shape))
    part = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    pad = [(0, -n % 8) for n in target.values[part].shape]
    fixed, moving = (torch.from_numpy(np.pad(v[part].numpy(), pad, mode="edge")) for v in (target.values, moved))
    step = 4 if mm > 2 else 2
    field = convex_adam_pt(fixed, moving, grid_sp=step, disp_hw=4, selected_niter=60, grid_sp_adam=2, dtype=torch.float32, device=CPU)
    whole = np.zeros((3, *target.values.shape), np.float32)
    whole[(slice(None), *part)] = np.moveaxis(field, -1, 0)[(slice(None), *(slice(0, p.stop - p.start) for p in part))]
    points = points_mm_of(image.geometry, CPU)
    there = points + shift.view(3, 1, 1, 1) + sample(torch.from_numpy(whole), target.index(points)) * mm
    result = np.zeros(image.array.shape, np.uint8)
    for value in labels:
        result[(distance_at(atlas.distances[value], there) > 0).numpy()] = value
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--package", type=Path, help="folder with convexadam; left out: ours alone")
    parser.add_argument("--references", type=int, default=3)
    parser.add_argument("--targets", type=int, default=4)
    parser.add_argument("--labels", type=int, nargs="+", help="structures (default: all)")
    arguments = parser.parse_args()
    if arguments.package:
        sys.path.insert(0, str(arguments.package))
    collection = Collection.read(arguments.data)
    labels = arguments.labels or list(collection.labels)
    methods = ["ours", *(["package"] if arguments.package else [])]
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    scores: dict[str, list[float]] = {method: [] for method in methods}
    for name in complete_references(collection, arguments.references, 0):
        reference, mask = collection.case(name)
        atlas = make_atlas(reference, mask, labels, RECIPE, CPU)
        for case in collection.splits["val"][: arguments.targets]:
            image, truth = collection.case(case)
            mm = 4.0 if max(np.subtract(*image.geometry.box_mm[::-1])) > 100 else 1.0
            shift = torch.zeros(3)
            for method in methods:
                began = time.perf_counter()
                if method == "ours":
                    found, shift = ours(atlas, image, labels)
                else:
                    found = package(atlas, reference, image, labels, mm, shift)
                seconds[method].append(time.perf_counter() - began)
                scores[method].append(
                    float(np.mean([dice(found == value, truth.array == value) for value in labels if (truth.array == value).any()]))
                )
            print(name, case, {method: (round(seconds[method][-1], 1), round(scores[method][-1], 3)) for method in methods}, flush=True)
    for method in methods:
        print(f"{method}: {np.mean(seconds[method]):.2f} s a pair, Dice {np.mean(scores[method]):.3f}")
    if arguments.package:
        print(f"ours takes {np.mean(seconds['ours']) / np.mean(seconds['package']):.2f} of the package's time")


if __name__ == "__main__":
    main()
