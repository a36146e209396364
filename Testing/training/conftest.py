"""A small dataset: blobs of their own brightness, one mask each, on an anisotropic grid."""

from pathlib import Path

import numpy as np
import pytest

from mass_core.data.dataset import Case, Dataset, write_case
from mass_core.masks.mask_set import MaskSet

SHAPE, SPACING = (24, 40, 40), (2.0, 1.0, 1.0)


def blobs(rng: np.random.Generator, count: int):
    """Image and masks of a scan with `count` balls of 6 mm radius, brighter the later they come."""
    z, y, x = np.meshgrid(*[np.arange(n) * mm for n, mm in zip(SHAPE, SPACING, strict=True)], indexing="ij")
    image, masks = rng.normal(0, 0.1, SHAPE), []
    for number in range(count):
        centre = rng.uniform(10, [s * mm - 10 for s, mm in zip(SHAPE, SPACING, strict=True)])
        ball = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < 36
        image[ball] = 1 + number
        where = np.argwhere(ball)
        start, stop = tuple(where.min(0).tolist()), tuple((where.max(0) + 1).tolist())
        masks.append(((start, stop), ball[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]))
    return image.astype(np.float16), masks


def write_dataset(folder: Path, scans: int = 3, masks: int = 5) -> Path:
    """Write a dataset of blobs, all of it for training."""
    rng = np.random.default_rng(0)
    cases = []
    for number in range(scans):
        case = Case(
            name=f"case{number}", patient=f"case{number}", modality="mr", shape_zyx=SHAPE, spacing_zyx=SPACING,
            origin_xyz=(0.0, 0.0, 0.0), direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), masks="mask_set.masks",
        )  # fmt: skip
        image, found = blobs(rng, masks)
        write_case(folder, case, image, masks=MaskSet.of(found, SHAPE, SPACING))
        cases.append(case)
    Dataset(folder=folder, name="blobs", cases=tuple(cases), splits={"train": tuple(c.name for c in cases)}).write()
    return folder


@pytest.fixture(scope="session")
def make_dataset():
    """`write_dataset`, for tests that want another number of scans or masks."""
    return write_dataset


@pytest.fixture(scope="session")
def blob_dataset(tmp_path_factory) -> Path:
    """Folder of the dataset."""
    return write_dataset(tmp_path_factory.mktemp("blobs"))


@pytest.fixture
def drawn() -> None:
    """For tests that look at the curves of a run: they are drawn."""


@pytest.fixture(autouse=True)
def plain_runs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw no curves, which would take half of the time of so short ones."""
    if "drawn" not in request.fixturenames:
        for place in ("training.pretrain.loop.draw", "training.finetune.command._draw"):
            monkeypatch.setattr(place, lambda folder: None)
