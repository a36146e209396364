"""The comparison with the released code, on a small stand-in for its tree: calls and printed results."""

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("h5py", reason="h5py is not installed: pip install h5py")

from mass_core.data.dataset import Case, Dataset, write_case
from mass_core.data.released_layout import export_case, join_masks
from mass_core.masks.mask_set import MaskSet
from Testing.benchmarks import beside_released as benchmark

SHAPE, EDGE = (60, 84, 90), 32
"""Of the scan, and of a view; at full size a sample takes seconds."""
SMALL = ["model.channels=8,32,32,32", "model.position_size=32", "model.task_rows=0", "episodes.smallest_voxels=1"]
"""Settings of a network and of masks that suit it."""
THEIRS = {
    "data.py": """
        import h5py, torch
        class MaskGuidedSelfSupervisedDataset:
            def __init__(self, data_root, datasets, training_size, augmentation_config, max_in_batch, aug_device):
                assert (augmentation_config, max_in_batch, aug_device) == ({"aug": 1}, 4, "cpu")
                self.size = training_size
                with h5py.File(f"{data_root}/{datasets[0]}/dataset.h5") as file:
                    assert list(file) == ["one"]
            def __getitem__(self, number):
                masks = torch.zeros(4, *self.size)
                masks[: 1 + number] = 1
                image = torch.zeros(1, *self.size)
                return image, masks, image, masks.flip(0) * 0 if number else masks
    """,
    **{f"{name}.py": "import utils.registry\nutils.registry.READY.add(__name__)\n" for name in ("models", "metrics", "training")},
    "utils/__init__.py": "",
    "utils/registry.py": """
        import torch
        READY = set()
        class Network(torch.nn.Module):
            def __init__(self, start):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.tensor(start))
            def forward(self, target, reference, masks, update_buffer):
                assert len(READY) == 3 and not update_buffer and target.shape == reference.shape
                return target + self.weight * masks
        get_model = {"net": Network}.__getitem__
        get_criterion = {"mse": torch.nn.MSELoss}.__getitem__
        get_optimizer = {"sgd": torch.optim.SGD}.__getitem__
    """,
    "yaml.py": "from json import loads as safe_load\n",
}
"""A tree with the names of the released one; its configuration is JSON, so that nothing has to be installed to read it."""


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


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    config = {
        "data": {"train": {"max_in_batch": 4}},
        "augmentation": {"aug": 1},
        "model": {"type": "net", "start": 0.5},
        "loss": {"one": {"type": "mse", "weight": 1.0}},
        "optimizer": {"type": "sgd", "lr": 0.1},
        "ema": {"decay": 0.9},
    }
    files = {**THEIRS, "config/pretrain/mask_guided_self_supervised.yaml": json.dumps(config)}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder


@pytest.mark.slow
def test_both_are_timed_each_with_its_own_packages(exported, tree, monkeypatch, capsys):
    """Both trees have a package `training`; only the right one lets the other's network be built."""
    words = ["--data", str(exported[0]), "--exported", str(exported[1]), "--released-tree", str(tree)]
    monkeypatch.setattr("sys.argv", ["beside_released", *words, "--samples", "2", "--edge", str(EDGE), "--step", "--set", *SMALL])
    assert benchmark.main() == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {name.strip(): [float(cell) for cell in rest] for name, *rest in (line.strip("|").split("|") for line in lines[2:])}
    assert len(cells) == 7 and all(np.isfinite(found[:2]).all() for found in cells.values())
    # Of four slots the stand-in leaves three and two empty in the target, three and four in the reference.
    assert cells["slots empty in the target"][1] == 0.625 and cells["slots empty in the reference"][1] == 0.875
    assert cells["slots empty in the reference"][0] < 0.3
    assert cells["step, CPU s"][0] > 0 and min(cells["peak memory, GiB"][:2]) > 0.05


def test_ratios_are_of_the_released_to_ours():
    mine, theirs = {"loader": 0.1, "views": 0.5, "lost": 0.0, "empty": 0.1}, {"loader": 5.0, "lost": 0.3, "empty": 0.4}
    told = benchmark.table(mine, theirs)
    assert "| loader, CPU s a sample | 0.100 | 5.000 | 50.00 |" in told and "cut and changed | 0.500 | 5.000 | 10.00 |" in told
    assert "| slots empty in the target | 0.100 | 0.400 | 4.00 |" in told and "step" not in told


def test_without_the_tree_it_says_what_to_give(exported, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["beside_released", "--data", str(exported[0])])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "give --exported and --released-tree" in capsys.readouterr().err
