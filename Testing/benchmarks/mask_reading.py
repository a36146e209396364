"""Reading the masks of one training sample: our mask set beside the way the released loader reads its HDF5 file.

    python -m Testing.benchmarks.mask_reading [--masks 500] [--edge 160] [--repeats 5]

A sample is 13 masks in two crops of 168 voxels, which a grid of 160 cuts to its own size: the released sizes. The released way asks h5py
for a list of masks once a view and copies them as float32; ours pastes the bits of each mask into one integer volume a view, which is
what training hands on (a row tells what a volume for each mask would take). Both files hold the same masks, and every view is compared
voxel for voxel. Needs h5py. CPU seconds count: they bear other work on the machine better than the clock does.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mass_core.data.released_masks import STACK, write_masks
from mass_core.masks.mask_set import MaskSet
from mass_core.volumes.boxes import Box, bounding_box

CHOSEN, CROP = 13, 168
CASE = "case"


def main() -> int:
    """Make the files, time both ways on the same samples, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=500)
    parser.add_argument("--edge", type=int, default=160, help="of the grid in voxels")
    parser.add_argument("--repeats", type=int, default=5, help="samples; the median counts")
    arguments = parser.parse_args()
    import h5py

    with tempfile.TemporaryDirectory() as place:
        ours, released = Path(place) / "case.masks", Path(place) / "dataset.h5"
        masks = MaskSet.of(random_masks(arguments.masks, arguments.edge), (arguments.edge,) * 3, (1.5,) * 3)
        masks.write(ours)
        write_masks(released, CASE, masks)
        describe(masks, ours, released)
        with h5py.File(released, "r") as file:
            compare(MaskSet.read(ours), file[CASE][STACK], arguments.repeats)
    return 0


def random_masks(count: int, edge: int) -> Any:
    """Bent ellipsoids of log-normal volume, from a few hundred voxels to a good part of the grid, as SAM2 leaves them."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.arange(edge, dtype=np.float32)] * 3, indexing="ij", sparse=True)
    for _ in range(count):
        volume = np.clip(0.004 * np.exp(rng.normal(0, 1.55)), 1e-4, 0.2) * edge**3
        radii = np.exp(rng.normal(0, 0.3, 3))
        radii *= (volume / (4 / 3 * np.pi * radii.prod())) ** (1 / 3)
        centre = rng.uniform(0.15, 0.85, 3) * edge
        z, y, x = ((axis - c) / r for axis, c, r in zip(axes, centre, radii, strict=True))
        mask = z**2 + (y + 0.4 * np.sin(3 * z)) ** 2 + (x + 0.4 * np.sin(3 * y)) ** 2 < 1
        box = bounding_box(mask)
        if box is not None:
            yield box, mask[box.slices()]


def describe(masks: MaskSet, ours: Path, released: Path) -> None:
    """Description of the test data."""
    fill = masks.voxels / np.prod(masks.shape_zyx)
    sizes = ours.stat().st_size / 1e6, released.stat().st_size / 1e6
    print(f"{len(masks)} masks on {masks.shape_zyx}, fill mean {fill.mean():.2%}, median {np.median(fill):.2%}")
    print(f"files: ours {sizes[0]:.1f} MB, released {sizes[1]:.1f} MB", flush=True)


def compare(masks: MaskSet, stack: Any, repeats: int) -> None:
    """Print the median of each way and how many times longer the released one takes."""
    ways: dict[str, Callable[[list[int], np.ndarray], list[np.ndarray]]] = {
        "released: list of masks for each view, as float32": lambda chosen, starts: [by_list(stack, chosen, s) for s in starts],
        "the same file, mask by mask": lambda chosen, starts: [one_by_one(stack, chosen, s) for s in starts],
        "ours, a volume of bytes for each mask": lambda chosen, starts: [apart(masks, chosen, s) for s in starts],
        "ours": lambda chosen, starts: [masks.rasterise(chosen, [s, np.minimum(s + CROP, masks.shape_zyx)]) for s in starts],
    }
    rng = np.random.default_rng(1)
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    for number in range(repeats + 1):
        chosen = np.sort(rng.choice(len(masks), CHOSEN, replace=False)).tolist()
        starts = rng.integers(0, np.maximum(np.array(masks.shape_zyx) - CROP, 0) + 1, (2, 3))
        views = {}
        for name, read in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            views[name] = read(chosen, starts)
            if number:  # the first one warms up
                seconds[name][0].append(time.process_time() - cpu)
                seconds[name][1].append(time.perf_counter() - wall)
        check(*views.values())
    report(seconds)


def by_list(stack: Any, chosen: list[int], start: np.ndarray) -> np.ndarray:
    """[13,z,y,x] float32, and the copy the released loader makes of it."""
    z, y, x = start.tolist()
    return stack[chosen, z : z + CROP, y : y + CROP, x : x + CROP].astype(np.float32).copy()


def one_by_one(stack: Any, chosen: list[int], start: np.ndarray) -> np.ndarray:
    """[13,z,y,x] uint8."""
    z, y, x = start.tolist()
    return np.stack([stack[index, z : z + CROP, y : y + CROP, x : x + CROP] for index in chosen])


def apart(masks: MaskSet, chosen: list[int], start: np.ndarray) -> np.ndarray:
    """[13,z,y,x] uint8 from our file."""
    stop = np.minimum(start + CROP, masks.shape_zyx)
    return np.stack([masks.full(index)[Box.of(start, stop).slices()] for index in chosen]).view(np.uint8)


def check(released: list[np.ndarray], single: list[np.ndarray], apart: list[np.ndarray], ours: list[np.ndarray]) -> None:
    """All ways must give the same voxels."""
    for *others, bits in zip(released, single, apart, ours, strict=True):
        unpacked = np.stack([bits >> bit & 1 for bit in range(CHOSEN)])
        if not all(np.array_equal(other, unpacked) for other in others) or not unpacked.any():
            raise SystemExit("The ways of reading disagree.")


def report(seconds: dict[str, tuple[list[float], list[float]]]) -> None:
    """Milliseconds and ratio to ours."""
    ours = statistics.median(seconds["ours"][0])
    for name, (cpu, wall) in seconds.items():
        median = statistics.median(cpu)
        print(f"{name:<50} {1000 * median:8.1f} ms CPU {1000 * statistics.median(wall):8.1f} ms wall  {median / ours:7.1f} times ours")
    print("All views agree voxel for voxel.")


if __name__ == "__main__":
    raise SystemExit(main())
