"""From objects carried through a volume to masks: one connected part each, duplicates dropped, beside the released way.

    python -m Testing.benchmarks.mask_merging [--shape 150 512 512] [--objects 40]

The released way labels the parts of every object on the whole volume (`scipy.ndimage.label`), counts those that show on the seed slice,
and compares all pairs of masks on the whole volume. Ours works in the boxes the objects came in, and on bits. Both must keep the same
voxels and the same masks. Objects are bent ellipsoids with crumbs beside them, as SAM2 leaves them; every fourth repeats the one before.
"""

import argparse
import time

import numpy as np
from scipy import ndimage

from mass_core.masks.packed import Found
from mass_core.masks.slicewise.merge import distinct, part_at_seed
from mass_core.volumes.boxes import bounding_box

MOST_IOU = 0.9


def main() -> int:
    """Make the objects, time both ways, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(150, 512, 512), metavar=("Z", "Y", "X"))
    parser.add_argument("--objects", type=int, default=40)
    arguments = parser.parse_args()
    shape, rng = tuple(arguments.shape), np.random.default_rng(0)
    carried: list[tuple[Found, int]] = []
    for number in range(arguments.objects):
        carried.append(carried[-1] if number % 4 == 3 else carried_object(shape, rng))
    print(f"{len(carried)} objects on {shape}")
    whole = [(full(found, shape), seed) for found, seed in carried]

    released, released_s = timed(lambda: [largest_on_seed(mask, seed) for mask, seed in whole])
    ours, ours_s = timed(lambda: [part_at_seed(found, 0, seed) for found, seed in carried])
    if not all(found is not None and np.array_equal(full(found, shape), mask) for found, mask in zip(ours, released, strict=True)):
        raise SystemExit("The two ways keep different parts.")
    report("one connected part", released_s, ours_s, len(carried))

    kept = [found for found in ours if found is not None]
    pairs, released_s = timed(lambda: distinct_on_whole(released))
    mine, ours_s = timed(lambda: distinct(kept, MOST_IOU, keep="larger"))
    if pairs != mine:
        raise SystemExit("The two ways keep different masks.")
    report("duplicates dropped", released_s, ours_s, len(carried))
    return 0


def carried_object(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Found, int]:
    """An ellipsoid of an organ's size with crumbs around it, in its box, and the seed slice through its middle."""
    radii = rng.uniform(0.03, 0.14, 3) * shape
    centre = [int(rng.uniform(r + 1, n - r - 1)) for r, n in zip(radii, shape, strict=True)]
    z, y, x = np.ogrid[tuple(slice(0, n) for n in shape)]
    mask = ((z - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + ((x - centre[2]) / radii[2]) ** 2 < 1
    for _ in range(20):
        mask[tuple(int(c + r * f) for c, r, f in zip(centre, radii, rng.uniform(-1.2, 1.2, 3), strict=True))] = True
    box = bounding_box(mask)
    assert box is not None
    return (box, mask[box.slices()]), centre[0]


def full(found: Found, shape: tuple[int, ...]) -> np.ndarray:
    """A mask on the whole grid."""
    result = np.zeros(shape, bool)
    result[found[0].slices()] = found[1]
    return result


def largest_on_seed(mask: np.ndarray, seed: int) -> np.ndarray:
    """The released way: parts of the whole volume, each of those on the seed slice counted on the whole volume."""
    numbers, _ = ndimage.label(mask)
    on_seed = [number for number in np.unique(numbers[seed]) if number]
    return numbers == max(on_seed, key=lambda number: np.count_nonzero(numbers == number))


def distinct_on_whole(masks: list[np.ndarray]) -> list[int]:
    """From large to small, every mask beside all that stayed, on the whole volume."""
    order = sorted(range(len(masks)), key=lambda number: -np.count_nonzero(masks[number]))
    stayed: list[int] = []
    for number in order:
        if all(iou(masks[number], masks[other]) <= MOST_IOU for other in stayed):
            stayed.append(number)
    return sorted(stayed)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union."""
    return np.count_nonzero(first & second) / np.count_nonzero(first | second)


def timed(action):
    """Result of an action and its CPU seconds, which depend less on other work on the machine than the clock does."""
    began = time.process_time()
    return action(), time.process_time() - began


def report(what: str, released_s: float, ours_s: float, objects: int) -> None:
    """Milliseconds an object, and the ratio."""
    times = f"{1000 * released_s / objects:8.1f} ms an object on the whole volume, {1000 * ours_s / objects:7.2f} ms in boxes"
    print(f"{what:<20} {times}: {released_s / ours_s:.0f} times")


if __name__ == "__main__":
    raise SystemExit(main())
