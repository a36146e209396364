"""Datasets a run cannot use, and unusual ones it can."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mass_core.data.dataset import Case, Dataset, write_case
from mass_core.masks.mask_set import MaskSet
from training.pretrain import loop as pretrain

TINY = ["model.channels=8,32", "model.stages=1", "model.position_size=16", "preprocess.window_zyx=16,16,16", "workers=0", "log_every=1",
        "steps=2", "episodes.smallest_voxels=1"]  # fmt: skip


def words(data, output, *settings, recipe="smoke"):
    return ["--recipe", recipe, "--data", str(data), "--output", str(output), "--device", "cpu", "--set", *TINY, *settings]


def losses(output):
    return [json.loads(line)["loss"] for line in (output / "log.jsonl").read_text().splitlines()]


def small_scan(folder, shape, masks):
    """A dataset of one scan of `shape`, with masks given as boxes (start, stop)."""
    case = Case(
        name="tiny", patient="tiny", modality="mr", shape_zyx=shape, spacing_zyx=(1.5, 1.5, 1.5), origin_xyz=(0.0, 0.0, 0.0),
        direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), masks="mask_set.masks",
    )  # fmt: skip
    found = [((start, stop), np.ones(np.subtract(stop, start), bool)) for start, stop in masks]
    image = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    write_case(folder, case, image, masks=MaskSet.of(found, shape, (1.5, 1.5, 1.5)))
    Dataset(folder=folder, name="tiny", cases=(case,), splits={"train": ("tiny",)}).write()
    return folder


def test_a_dataset_without_scans_is_refused(tmp_path, capsys):
    (tmp_path / "none").mkdir()
    Dataset(folder=tmp_path / "none", name="none", cases=(), splits={}).write()
    assert pretrain.main(words(tmp_path / "none", tmp_path / "run")) == 2
    assert "No scan of the split 'train' has masks" in capsys.readouterr().err


def test_no_run_folder_is_left_by_a_run_that_cannot_start(blob_dataset, make_dataset, tmp_path, capsys):
    other = make_dataset(tmp_path / "other", scans=1)
    for data, told in (
        ([f"{blob_dataset}=0.5", str(other)], "has none"),
        ([f"{blob_dataset}=much"], "'much'"),
        ([f"{blob_dataset}=0"], "above zero"),
        ([str(tmp_path / "nowhere")], "nowhere"),
    ):
        assert pretrain.main(["--data", *data, "--output", str(tmp_path / "run"), "--set", *TINY]) == 2
        assert told in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_run_that_fails_in_its_first_step_leaves_no_folder_and_takes_none_away(blob_dataset, tmp_path, capsys):
    settings = ["preprocess.window_zyx=32,32,32", "model.position_size=16"]
    assert pretrain.main(words(blob_dataset, tmp_path / "run", *settings)) == 2
    assert "at most 16" in capsys.readouterr().err and not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    assert pretrain.main(words(blob_dataset, tmp_path / "mine", *settings)) == 2 and (tmp_path / "mine").exists()


def test_scans_without_masks_are_refused_when_there_are_no_others(tmp_path, capsys):
    assert pretrain.main(words(small_scan(tmp_path / "bare", (9, 9, 9), []), tmp_path / "run")) == 2
    assert "mass masks" in capsys.readouterr().err


def test_training_scans_without_masks_are_refused_by_name(make_dataset, tmp_path, capsys):
    data = make_dataset(tmp_path / "data", scans=2)
    dataset = Dataset.read(data)
    replace(dataset, cases=(replace(dataset.cases[0], masks=None), dataset.cases[1])).write()
    assert pretrain.main(words(data, tmp_path / "run")) == 2
    assert "no masks: case0 of blobs." in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", ["smoke", "paper", "released"])
def test_a_scan_smaller_than_the_view_with_fewer_masks_than_a_task_trains(tmp_path, recipe):
    data = small_scan(tmp_path / "data", (5, 9, 12), [((1, 2, 3), (4, 6, 8))])
    assert pretrain.main(words(data, tmp_path / "run", "episodes.task_slots=4", "batch_size=2", recipe=recipe)) == 0
    assert np.isfinite(losses(tmp_path / "run")).all() and len(losses(tmp_path / "run")) == 2
