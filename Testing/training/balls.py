"""Labelled scans a tiny network can learn from: a bright ball, label 1, and a dark one, label 2; and the weights of such a network."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from mass_core.config import ModelConfig, Recipe
from mass_core.data.dataset import Case, Dataset, write_case
from mass_core.masks.mask_set import MaskSet
from mass_core.model import MASS
from mass_core.volumes.boxes import label_boxes
from mass_core.volumes.volume import Geometry, Volume
from mass_core.weights.checkpoint import save_weights

SHAPE, SPACING = (24, 32, 32), (2.0, 1.0, 1.0)
SPLITS = {"train": ("a", "b", "c"), "val": ("d", "e"), "test": ("f",)}
NAMES = {1: "bright ball", 2: "dark ball"}


def scan(seed: int, values: Sequence[int] = (1, 2)) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels [z,y,x]; balls of 6 mm radius."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.arange(n) * mm for n, mm in zip(SHAPE, SPACING, strict=True)], indexing="ij")
    image, labels = rng.normal(0, 0.1, SHAPE), np.zeros(SHAPE, np.uint8)
    for value in values:
        centre = rng.uniform((10, 8, 8), (38, 14, 24)) + (0, 0 if value == 1 else 10, 0)
        ball = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < 36
        image[ball] += 2 if value == 1 else -2
        labels[ball] = value
    return image, labels


def write_dataset(
    folder: Path, splits: Mapping[str, Sequence[str]] = SPLITS, shown: Mapping[str, Sequence[int]] | None = None, *, masked: bool = False
) -> Path:
    """A dataset of such scans; `shown` says which balls a case has, if not both, `masked` gives each ball as a class-agnostic mask too."""
    cases = []
    for seed, name in enumerate(sum(map(tuple, splits.values()), ())):
        case = Case(
            name=name, patient=name, modality="mr", shape_zyx=SHAPE, spacing_zyx=SPACING, origin_xyz=(0.0, 0.0, 0.0),
            direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), labels="labels.npy", masks="mask_set.masks" if masked else None,
        )  # fmt: skip
        image, labels = scan(seed, (shown or {}).get(name, (1, 2)))
        found = [(box, labels[box.slices()] == value) for value, box in label_boxes(labels).items()]
        write_case(folder, case, image.astype(np.float16), labels=labels, masks=MaskSet.of(found, SHAPE, SPACING) if masked else None)
        cases.append(case)
    Dataset(folder=folder, name="balls", cases=tuple(cases), splits=dict(splits), label_names=NAMES).write()
    return folder


def write_files(folder: Path, count: int) -> tuple[Path, Path]:
    """Such scans as files: folders of images and of label maps."""
    images, labels = folder / "images", folder / "labels"
    for place in (images, labels):
        place.mkdir(parents=True)
    geometry = Geometry(shape_zyx=SHAPE, spacing_xyz=SPACING[::-1])
    for seed in range(count):
        image, truth = scan(seed)
        Volume((image * 100).astype(np.int16), geometry).write(images / f"scan{seed}.nii.gz")
        Volume(truth, geometry).write(labels / f"scan{seed}.nii.gz")
    return images, labels


def write_weights(path: Path, **recipe: object) -> Path:
    """A tiny network with 16-voxel windows and random weights."""
    torch.manual_seed(0)
    network = MASS(ModelConfig(channels=(8, 32), stages=1, position_size=16, task_rows=0))
    whole = {"window_zyx": (16, 16, 16), "spacing_zyx": (2.0, 2.0, 2.0), "body_margin_zyx": (2, 2, 2), **recipe}
    save_weights(path, network, Recipe(**whole), {"recipe": "tests"}, licence="CC0-1.0")  # type: ignore[arg-type]
    return path
