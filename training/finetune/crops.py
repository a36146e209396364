"""Crops of labelled scans, for finetuning: each laid into a scan by one affine, like a view of an episode, and read from the stored arrays.

Every step trains one group of classes, those of one working spacing, as segmentation decodes them together. Which group, and every crop,
depends on the run's seed and the crop's number alone, so a resumed run sees what an uninterrupted one would have seen.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mass_core.augmentation.batch import Batch
from mass_core.augmentation.poses import Pose, Vector, random_linear, seen_part
from mass_core.config import Triple
from mass_core.data.dataset import Dataset
from mass_core.encoding.task import Task

from ..runs.distributed import ProcessGroup
from ..runs.loading import loaded, own_numbers
from .config import FinetuneConfig


@dataclass(frozen=True)
class Crop:
    """A crop before resampling."""

    image: NDArray[np.float16]
    """[z,y,x] part of the scan, normalised."""
    numbers: NDArray[np.int32]
    """[z,y,x] 0, or k + 1 for class k of the group."""
    affine: NDArray[np.float32]
    """[1,3,4], from voxel of the crop to voxel of `image`."""
    group: int
    """Classes the step trains: an index into `Crops.groups`."""


@dataclass(frozen=True)
class ClassGroup:
    """Classes that are trained, and decoded, together."""

    spacing_zyx: Triple
    rows: tuple[int, ...]
    """Their places in the task."""
    values: tuple[int, ...]
    """In label maps."""
    voxels: tuple[float, ...]
    """Mean size of each class in voxels at the working spacing."""


class Crops(torch.utils.data.Dataset[Crop]):
    """Endless supply of crops; number `i` is the same whenever and wherever it is requested.

    Args:
        dataset: holds the scans.
        planes: of each training scan, for each class it shows, the class's voxels in each plane (`voxels_by_plane`).
        task: the classes.
        config: how crops are laid.
        window: edge of a crop in voxels.
    """

    def __init__(
        self, dataset: Dataset, planes: Mapping[str, Mapping[int, NDArray[np.int64]]], task: Task, config: FinetuneConfig, window: int
    ) -> None:
        self.dataset, self.planes, self.config, self.window = dataset, planes, config, window
        self.names = sorted(planes)
        self.groups = [self._group(task, spacing, rows) for spacing, rows in task.groups().items()]
        sizes = np.array([len(group.rows) for group in self.groups])
        self.chance = sizes / sizes.sum()

    def __len__(self) -> int:
        return self.config.steps * self.config.batch_size

    def __getitem__(self, number: int) -> Crop:
        config, step = self.config, number // self.config.batch_size
        chosen = int(np.random.default_rng((config.seed, 1, step)).choice(len(self.groups), p=self.chance))
        rng = np.random.default_rng((config.seed, number))
        name, pose = self._laid(rng, self.groups[chosen])
        return self._cut(name, pose, chosen)

    def _group(self, task: Task, spacing: Triple, rows: Sequence[int]) -> ClassGroup:
        values = tuple(task.labels[row].value for row in rows)
        sizes = [np.mean([self._mm3(name, value) for name in self._showing(value)]) / np.prod(spacing) for value in values]
        return ClassGroup(spacing, tuple(rows), values, tuple(float(size) for size in sizes))

    def _showing(self, value: int) -> list[str]:
        return [name for name in self.names if value in self.planes[name]]

    def _mm3(self, name: str, value: int) -> float:
        return float(self.planes[name][value].sum() * np.prod(self.dataset.spacing_zyx(name)))

    def _laid(self, rng: np.random.Generator, group: ClassGroup) -> tuple[str, Pose]:
        """A scan and a crop in it: near a voxel of a class, or anywhere; inside the scan as far as the scan is large enough."""
        crops = self.config.crops
        linear = random_linear(rng, np.asarray(group.spacing_zyx), crops, 1.0)
        side = np.asarray(group.spacing_zyx) * self.window
        near = rng.random() < crops.foreground_share
        value = int(rng.choice(group.values))
        name = str(rng.choice(self._showing(value) if near else self.names))
        spacing = np.asarray(self.dataset.spacing_zyx(name))
        extent = np.asarray(self.dataset.case(name).shape_zyx) * spacing
        low, high = np.minimum(side / 2, extent - side / 2), np.maximum(side / 2, extent - side / 2)
        centre = rng.uniform(low, high)
        if near:
            jitter = rng.uniform(-crops.jitter, crops.jitter, 3) * side
            centre = np.clip((self._voxel(rng, name, value) + 0.5) * spacing + jitter, low, high)
        return name, Pose(linear, centre - spacing / 2, (self.window,) * 3)

    def _voxel(self, rng: np.random.Generator, name: str, value: int) -> Vector:
        """Index [3] of a voxel of a class, all alike; only its plane is read."""
        counts = self.planes[name][value]
        z = int(rng.choice(len(counts), p=counts / counts.sum()))
        y, x = np.nonzero(labels_of(self.dataset, name)[z] == value)
        place = int(rng.integers(len(y)))
        return np.array([z, y[place], x[place]], dtype=float)

    def _cut(self, name: str, pose: Pose, chosen: int) -> Crop:
        """The part of a scan the crop can see."""
        shape = self.dataset.case(name).shape_zyx
        affine = pose.to_voxels(np.asarray(self.dataset.spacing_zyx(name)))[None]
        start, stop = seen_part(affine, pose.window, shape, self.config.crops)
        part = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        labels, classes = labels_of(self.dataset, name)[part], np.zeros(stop - start, np.int32)
        for number, value in enumerate(self.groups[chosen].values, 1):
            classes[labels == value] = number
        affine[:, :, 3] -= start
        return Crop(np.ascontiguousarray(self.dataset.image(name)[part], np.float16), classes, affine.astype(np.float32), chosen)


def labels_of(dataset: Dataset, name: str) -> NDArray[np.integer]:
    """The label map [z,y,x] of a scan that has one."""
    labels = dataset.labels(name)
    assert labels is not None
    return labels


def voxels_by_plane(labels: NDArray[np.integer]) -> dict[int, NDArray[np.int64]]:
    """Voxels of each value above 0 in every plane [z] of a label map, which is read plane by plane."""
    found: dict[int, NDArray[np.int64]] = {}
    for z, plane in enumerate(labels):
        counts = np.bincount(plane.reshape(-1))
        for value in np.flatnonzero(counts[1:]) + 1:
            found.setdefault(int(value), np.zeros(len(labels), np.int64))[z] = counts[value]
    return found


def collate(crops: Sequence[Crop]) -> Batch:
    """Crops of one step or a part of it."""
    return Batch.of([[(crop.image, crop.numbers)] for crop in crops], [crop.affine for crop in crops], 1)


def steps_of(crops: Crops, start: int, group: ProcessGroup) -> Iterator[list[Crop]]:
    """The crops this process computes in each step from `start` on: its share of the batch."""
    config = crops.config
    yield from loaded(crops, own_numbers(range(start, config.steps), config.batch_size, group), config.workers, group, list)
