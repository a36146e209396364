"""Carrying masks through a volume: SAM2's own video predictor object by object, and ours in lock step, with random weights.

    python -m Testing.benchmarks.sam2_masks [--configuration configs/sam2.1/sam2.1_hiera_l.yaml --image-size 1024 --slices 150 --size 512]

Prints passes of the image encoder, tracked slices, calls of the tracker, seconds and memory for both, and how many voxels differ. Random
weights keep objects alive to the ends of the volume, so stopping early brings nothing here.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mass_core.devices import Peak, choose_device
from mass_core.masks.slicewise.propagate import Seed
from mass_core.masks.slicewise.sam2 import Sam2
from Testing.core.random_sam2 import by_stock, in_lock_step, random_network, stock_predictor


class Counted:
    """Counts of the calls of a watched network."""

    def __init__(self) -> None:
        self.encoded = self.tracked = self.calls = 0
        self.seconds = 0.0
        self.peak: int | None = None

    @contextmanager
    def watch(self, network: Any) -> Iterator[None]:
        look, track = network.forward_image, network.track_step

        def counted_look(picture: torch.Tensor) -> Any:
            self.encoded += len(picture)
            return look(picture)

        def counted_track(**inputs: Any) -> Any:
            if not inputs["is_init_cond_frame"]:
                self.calls += 1
                self.tracked += inputs["current_vision_feats"][-1].shape[1]
            return track(**inputs)

        network.forward_image, network.track_step = counted_look, counted_track
        peak, began = Peak(next(network.parameters()).device), time.perf_counter()
        yield
        self.seconds, self.peak = time.perf_counter() - began, peak.measured()
        network.forward_image, network.track_step = look, track

    def row(self, name: str) -> str:
        memory = "?" if self.peak is None else f"{self.peak / 2**20:.0f} MiB"
        return f"| {name} | {self.encoded} | {self.tracked} | {self.calls} | {self.seconds:.1f} s | {memory} |"


def scene(slices: int, size: int, places: list[int], objects: int) -> tuple[np.ndarray, list[Seed]]:
    """Noise with drifting balls, and the balls as seeds."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 60, (slices, size, size, 3), dtype=np.uint8)
    y, x = np.mgrid[:size, :size]
    seeds = []
    for number in range(objects):
        row, column, radius = (generator.uniform(a, b) * size for a, b in ((0.2, 0.8), (0.2, 0.6), (0.04, 0.15)))
        for index in range(slices):
            ball = (y - row) ** 2 + (x - column - index * 0.2 * size / slices) ** 2 < radius**2
            images[index][ball] += np.uint8(180 * (number + 1) // objects)
            if index in places:
                seeds.append(Seed(index, ball))
    return images, sorted(seeds, key=lambda seed: seed.at)


def compared(
    *,
    configuration: str,
    image_size: int,
    slices: int,
    size: int,
    seeds: int,
    objects: int,
    together: int,
    device: torch.device,
    precision: str,
) -> tuple[Counted, Counted, float, float]:
    """The package's predictor, ours, the share of voxels in which they differ, and the share that is set."""
    network = random_network(configuration, image_size).to(device)
    # The package fills holes with its CUDA extension only; so that both do the same, neither does.
    ours = Sam2(network, getattr(torch, precision), fill_holes=0)
    predictor = stock_predictor(network, configuration, image_size)
    predictor.fill_hole_area = 0
    places = np.linspace(0, slices - 1, seeds + 2).astype(int)[1:-1].tolist()
    images, found = scene(slices, size, places, objects)
    theirs, mine = Counted(), Counted()
    with mine.watch(network):
        ours_masks, _ = in_lock_step(ours, images, found, together)
    with theirs.watch(predictor):
        stock_masks = by_stock(predictor, ours, images, found)
    for number, seed in enumerate(found):  # the package shows a seed through its low resolution, we as it was given
        stock_masks[number, seed.at] = ours_masks[number, seed.at]
    return theirs, mine, np.count_nonzero(ours_masks != stock_masks) / ours_masks.size, float(ours_masks.mean())


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configuration", default="configs/sam2.1/sam2.1_hiera_t.yaml")
    for name, default in (("image-size", 128), ("slices", 24), ("size", 128), ("seeds", 3), ("objects", 4), ("together", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options = vars(parser.parse_args())
    theirs, mine, different, held = compared(**options | {"device": choose_device(options["device"])})
    print("| | slices encoded | slices tracked | calls | time | peak memory |\n|---|--:|--:|--:|--:|--:|")
    print(theirs.row("the package's predictor"), mine.row("lock step"), sep="\n")
    print(f"{different:.3%} of the voxels differ; {held:.3f} are set")


if __name__ == "__main__":
    main()
