"""A stand-in for the released code's loader: its reads, crops and affine on the CPU, written anew from what is known about it.

It reads a folder of the released layout (`mass dataset export`): of each sample 13 masks by a list of indices and the image, both once for
each of the two views, crops of 168 voxels that overlap by 0.67, an affine by `grid_sample` and a crop of 128. Intensity changes are left
out, so the real loader takes longer. `--released-tree` of `Testing.benchmarks.training` runs the released code itself, where it is at hand.
"""

from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from mass_core.masks.released_masks import STACK

MASKS, EDGE, MARGIN, OVERLAP = 13, 128, 40, 0.67
"""Masks of a task, edge of a view, what a crop is wider by, and the share of their crops two views have in common."""
AFFINE = ((0.5, 0.0), (0.8, 0.1))
"""Share of the views that are turned and scaled, and largest shear: reference, then target."""
DEGREES, SCALE = 30, 0.3


class ReleasedWay:
    """Samples of cases with masks; number `i` is the same whenever it is asked for.

    Args:
        folder: of the released layout.
        one_by_one: read masks one after the other, as our importer does, instead of by a list of indices.
        edge: of a view in voxels.
    """

    def __init__(self, folder: Path, *, one_by_one: bool = False, edge: int = EDGE) -> None:
        self.folder, self.one_by_one, self.edge = folder, one_by_one, edge
        with h5py.File(folder / "dataset.h5", "r") as file:
            self.cases = [(name, file[name][STACK].shape) for name in sorted(file) if len(file[name][STACK])]

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Reference image [1,E,E,E] and masks [13,E,E,E], target image and masks, float32."""
        rng = np.random.default_rng(number)
        name, (count, *shape) = self.cases[number % len(self.cases)]
        chosen = np.sort(rng.choice(count, min(MASKS, count), replace=False))
        size = np.minimum(self.edge + MARGIN, shape)
        whole = int(rng.integers(len(chosen)))
        views: list[Tensor] = []
        for start, (share, shear) in zip(_starts(rng, np.array(shape), size), AFFINE, strict=True):
            image, masks = self._crop(name, chosen, start, size)
            masks[whole] = 1
            views += _posed(rng, image, masks, (share, shear), self.edge)
        return views[0], views[1], views[2], views[3]

    def _crop(self, name: str, chosen: NDArray[np.intp], start: NDArray[np.int64], size: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Part of the image [1,z,y,x] and of the masks [13,z,y,x]."""
        where = tuple(slice(int(a), int(a + n)) for a, n in zip(start, size, strict=True))
        image = np.load(self.folder / f"{name}_image.npy", mmap_mode="r")[where]
        with h5py.File(self.folder / "dataset.h5", "r") as file:
            stack = file[name][STACK]
            masks = np.stack([stack[(k, *where)] for k in chosen.tolist()]) if self.one_by_one else stack[(chosen, *where)]
        return torch.from_numpy(image.copy())[None], torch.from_numpy(masks).float()


def _starts(rng: np.random.Generator, shape: NDArray[np.int64], size: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Corners of two crops: the first around any voxel, the second within the overlap of it."""
    half = size // 2
    anchor = rng.integers(half, np.maximum(shape - half, half + 1))
    first = rng.integers(np.maximum(0, anchor - size + 1), np.minimum(anchor, shape - size) + 1)
    reach = size - (size * OVERLAP).astype(int)
    second = rng.integers(np.maximum(0, first - reach), np.minimum(shape - size, first + reach) + 1)
    return first, second


def _posed(rng: np.random.Generator, image: Tensor, masks: Tensor, affine: tuple[float, float], edge: int) -> tuple[Tensor, Tensor]:
    """A view of a crop: by an affine and from its middle, or from anywhere in it."""
    size = np.array(image.shape[1:])
    start = rng.integers(0, np.maximum(size - edge, 0) + 1)
    if rng.random() < affine[0]:
        grid = affine_grid(_affine(rng, affine[1]), [1, 1, *image.shape[1:]], align_corners=True)
        image = grid_sample(image[None], grid, mode="bilinear", align_corners=True)[0]
        masks = (grid_sample(masks[None], grid, mode="nearest", align_corners=True)[0].long() > 0).float()
        start = np.maximum(size - edge, 0) // 2
    where = (slice(None), *(slice(int(a), int(a) + edge) for a in start))
    return image[where].contiguous(), masks[where].contiguous()


def _affine(rng: np.random.Generator, shear: float) -> Tensor:
    """[1,3,4], from output to input in normalised coordinates."""
    scale = np.diag(rng.uniform(1 - SCALE, 1 / (1 - SCALE), 3))
    matrix = scale + rng.uniform(-shear, shear, (3, 3)) * (1 - np.eye(3))
    for axis, angle in enumerate(np.radians(rng.integers(-DEGREES, DEGREES, 3))):
        i, j = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return torch.from_numpy(np.column_stack([matrix, np.zeros(3)])).float()[None]
