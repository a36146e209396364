"""The stand-in for the released loader and the comparison with it: what it yields, what is told, and whose packages are timed."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("h5py", reason="h5py is not installed: pip install h5py")

from mass_core.dataset import Case, Dataset, write_case
from mass_core.masks.mask_set import MaskSet
from mass_core.released_layout import export_case, join_masks
from Testing.benchmarks import training as benchmark
from Testing.benchmarks.released_way import MASKS, ReleasedWay, _starts
from training import recipes
from training.config import changed

SHAPE, EDGE = (60, 84, 90), 32
"""Of the scan, and of a view; at full size a sample takes seconds."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, Path]:
    """A scan whose voxels in a mask hold that mask's number, and the same in the released layout."""
    folder, released = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("released")
    rng, image, masks = np.random.default_rng(0), np.zeros(SHAPE, np.float16), []
    for number in range(20):
        start = rng.integers(0, np.array(SHAPE) - 12)
        place = tuple(slice(a, a + 12) for a in start.tolist())
        image[place] = number + 1
        masks.append((tuple(place), number + 1))
    boxes = [((tuple(s.start for s in place), tuple(s.stop for s in place)), image[place] == number) for place, number in masks]
    case = Case(
        name="one", patient="one", modality="ct", shape_zyx=SHAPE, spacing_zyx=(1.5, 1.5, 1.5), origin_xyz=(0.0, 0.0, 0.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), masks="mask_set.masks",
    )  # fmt: skip
    found = MaskSet.of([one for one in boxes if one[1].any()], SHAPE, (1.5, 1.5, 1.5))
    write_case(folder, case, image, masks=found)
    dataset = Dataset(folder=folder, name="ours", cases=(case,), splits={"train": ("one",)})
    dataset.write()
    export_case(dataset, "one", released)
    join_masks(released, ["one"])
    return folder, released


def test_views_of_the_stand_in_keep_image_and_masks_together(exported):
    """Where a mask is, its number is the brightest and commonest value of the image; one mask of each task is the whole crop."""
    samples, seen = ReleasedWay(exported[1], edge=EDGE), 0
    for number in range(9):
        reference, first, target, second = samples[number]
        for image, masks in ((reference, first), (target, second)):
            assert image.shape == (1, EDGE, EDGE, EDGE) and masks.shape == (MASKS, EDGE, EDGE, EDGE)
            assert set(masks.unique().tolist()) <= {0.0, 1.0}
            sizes = masks.flatten(1).sum(1)
            assert sizes.max() > 0.4 * EDGE**3
            for mask in masks[(sizes > 500) & (sizes < 5000)]:
                values = image[0][mask.bool()]
                assert (values - values.median()).abs().median() < 0.05 and values.median() >= 1
                seen += 1
    assert seen > 10


def test_masks_read_one_by_one_are_the_same(exported):
    at_once, one_by_one = (ReleasedWay(exported[1], one_by_one=flag, edge=EDGE)[3] for flag in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(at_once, one_by_one, strict=True))


def test_crops_overlap_as_released():
    rng, shape, size = np.random.default_rng(0), np.array([100, 300, 400]), np.array([100, 168, 168])
    pairs = np.array([_starts(rng, shape, size) for _ in range(300)])
    assert (pairs >= 0).all() and (pairs <= shape - size).all()
    apart = np.abs(pairs[:, 0] - pairs[:, 1])
    assert (apart[:, 0] == 0).all() and 40 < apart[:, 1].max() <= 168 - int(168 * 0.67)


def test_ours_takes_less_time_and_leaves_fewer_slots_empty(exported):
    config = changed(recipes.paper(), ["batch_size=1", "steps=9", "episodes.smallest_voxels=1", "preprocess.window_zyx=32,32,32"])
    ours = benchmark.our_way(config, [exported[0]], 9)
    theirs = benchmark.released_way(ReleasedWay(exported[1], edge=EDGE), 9)
    assert ours["loader"] < ours["views"] and ours["loader"] < theirs["loader"]
    assert ours["lost"] < theirs["lost"] and 0 <= theirs["empty"] < 1


def test_the_released_tree_is_timed_with_its_own_packages(tmp_path):
    """A tree whose package is called as ours; it would not be found beside ours."""
    (tmp_path / "tree" / "training").mkdir(parents=True)
    (tmp_path / "tree" / "training" / "__init__.py").write_text("THEIRS = True\n")
    setup = tmp_path / "setup.py"
    setup.write_text(
        "import torch, training\n"
        "assert training.THEIRS\n"
        "dataset = [torch.full((2,), float(sum(range(10**5)) > 0)) for _ in range(9)]\n"
        "batch_size = 4\n"
        "def step(batch):\n"
        "    assert batch.shape == (4, 2) and batch.eq(1).all()\n"
    )
    found = benchmark.released_tree(tmp_path / "tree", setup, 3)
    assert found["samples_per_cpu_s"] > 0 and found["step_cpu_s"] >= 0


def test_without_the_tree_it_is_said(exported, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "our_way", lambda config, data, samples: {"loader": 0.1, "views": 0.5, "lost": 0.0, "empty": 0.1})
    monkeypatch.setattr(benchmark, "released_way", lambda way, samples: {"loader": 5.0, "lost": 0.3, "empty": 0.4})
    monkeypatch.setattr("sys.argv", ["training", "--data", str(exported[0]), "--exported", str(exported[1])])
    assert benchmark.main() == 0
    told = capsys.readouterr().out
    assert "the released code itself  not compared" in told
    assert "50 and 10.0 times ours; 30% of the slots empty in the reference, 40% in the target" in told
