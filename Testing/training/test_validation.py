"""Validation: on labelled scans of the split val, by the users' segmenter; the best weights are kept and the test scans never opened."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mass_core import load_model
from mass_core.data.dataset import Case, Dataset, case_folder, write_case
from mass_core.masks.mask_set import MaskSet
from mass_core.schema import changed
from training import curves
from training.pretrain import loop as pretrain
from training.pretrain import recipes
from training.pretrain.start import start
from training.pretrain.validation import labelled, validate
from training.run_log import read_log
from training.runs.distributed import ProcessGroup
from training.runs.sources import open_sources

from .conftest import SHAPE, SPACING, blobs

TINY = ["model.channels=8,32", "model.stages=1", "model.position_size=16", "preprocess.window_zyx=16,16,16", "episodes.task_slots=2",
        "episodes.smallest_voxels=8", "workers=0", "steps=4", "log_every=1", "validate_every=2"]  # fmt: skip
CPU = torch.device("cpu")
SPLITS = {"train": ("a", "b"), "val": ("c", "d"), "test": ("e",)}


@pytest.fixture
def labelled_dataset(tmp_path) -> Path:
    """Scans with two labelled balls; a third label is in the validation scans alone. The files of the test scan are gone."""
    folder, rng, cases = tmp_path / "labelled", np.random.default_rng(0), []
    for name in sum(SPLITS.values(), ()):
        case = Case(
            name=name, patient=name, modality="mr", shape_zyx=SHAPE, spacing_zyx=SPACING, origin_xyz=(0.0, 0.0, 0.0),
            direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), masks="mask_set.masks", labels="labels.npy",
        )  # fmt: skip
        image, found = blobs(rng, 3)
        labels = np.zeros(SHAPE, np.uint8)
        for value, ((low, high), mask) in enumerate(found[: 3 if name in SPLITS["val"] else 2], 1):
            labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))][mask] = value
        write_case(folder, case, image, labels=labels, masks=MaskSet.of(found, SHAPE, SPACING))
        cases.append(case)
    Dataset(folder=folder, name="balls", cases=tuple(cases), splits=SPLITS, label_names={1: "one", 2: "two"}).write()
    for path in case_folder(folder, "e").iterdir():
        path.unlink()
    return folder


def run(data, output, *settings):
    words = ["--recipe", "smoke", "--data", *map(str, data), "--output", str(output), "--device", "cpu", "--set", *TINY, *settings]
    return pretrain.main(words)


def logged(output, name):
    return {line["step"]: line[name] for line in map(json.loads, (output / "log.jsonl").read_text().splitlines()) if name in line}


def test_a_run_is_judged_and_keeps_its_best(labelled_dataset, tmp_path, capsys, drawn):
    assert run([labelled_dataset], tmp_path / "run") == 0
    assert "shows label 3; it is not validated" in capsys.readouterr().err
    scores = logged(tmp_path / "run", "val_dice")
    assert list(scores) == [2, 4] and all(0 <= score <= 1 for score in scores.values())
    assert logged(tmp_path / "run", "val_balls") == scores
    best = load_model(tmp_path / "run" / "best.safetensors", "cpu")
    assert best.provenance["steps"] == max(scores, key=lambda step: (scores[step], -step))
    assert (tmp_path / "run" / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_the_best_survives_a_pause(labelled_dataset, tmp_path, monkeypatch):
    """A later, worse score replaces nothing, in the same run or after a resumption."""
    scores = iter([0.5, 0.7, 0.6, 0.65])
    monkeypatch.setattr(pretrain, "validate", lambda *_: {"val_dice": next(scores)})
    assert run([labelled_dataset], tmp_path / "run", "steps=6") == 0
    words = ["--recipe", "smoke", "--data", str(labelled_dataset), "--output", str(tmp_path / "run"), "--device", "cpu", "--resume"]
    assert pretrain.main([*words, "--set", *TINY, "steps=8"]) == 0
    assert load_model(tmp_path / "run" / "best.safetensors", "cpu").provenance["steps"] == 4
    assert load_model(tmp_path / "run" / "last.safetensors", "cpu").provenance["steps"] == 8


def test_no_validation_scans_are_said(blob_dataset, tmp_path, capsys):
    assert run([blob_dataset], tmp_path) == 0
    told = capsys.readouterr().err
    assert "blobs has no labelled scans in its split val" in told and "last weights are kept as the best" in told
    assert not (tmp_path / "best.safetensors").exists() and (tmp_path / "last.safetensors").exists()


def test_processes_share_the_scans(labelled_dataset, monkeypatch):
    config = changed(recipes.smoke(), TINY)
    state = start(config, CPU, None)
    sets, _ = labelled(config, open_sources([str(labelled_dataset)]))
    gathered = []
    monkeypatch.setattr(ProcessGroup, "gather", lambda self, mine: gathered.append(mine) or mine)
    for group in (ProcessGroup(0, 1, CPU), ProcessGroup(0, 2, CPU), ProcessGroup(1, 2, CPU)):
        validate(config, sets, state, group)
    whole, first, second = gathered
    assert {score.case for score in first} == {"c"} and {score.case for score in second} == {"d"}
    assert first + second == whole


def test_a_dataset_of_several_modalities_is_judged_and_said(labelled_dataset, tmp_path, capsys):
    dataset = Dataset.read(labelled_dataset)
    replace(dataset, cases=(replace(dataset.cases[0], modality="ct"), *dataset.cases[1:])).write()
    assert run([labelled_dataset], tmp_path / "run", "steps=2") == 0
    assert "balls mixes ct, mr: scans may be segmented with references of another modality" in capsys.readouterr().err
    assert 0 <= logged(tmp_path / "run", "val_dice")[2] <= 1


def test_curves_take_the_last_of_repeated_steps_and_skip_a_torn_line(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 9.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
    assert read_log(tmp_path / "log.jsonl") == {"loss": {1: 3.0, 2: 2.0}}
    assert curves.main([str(tmp_path)]) == 0 and (tmp_path / "curves.png").stat().st_size > 1000


def test_curves_of_no_run_are_refused(tmp_path, capsys):
    assert curves.main([str(tmp_path)]) == 2
    assert "log.jsonl" in capsys.readouterr().err


def test_tensorboard_hears_the_log(blob_dataset, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run([blob_dataset], tmp_path, "tensorboard=true") == 0
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {event.step: pytest.approx(event.value, rel=1e-6) for event in events.Scalars("loss")} == logged(tmp_path, "loss")
