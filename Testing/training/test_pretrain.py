"""Pretraining end to end with a tiny network: it learns, it resumes exactly, its weights load, bad input is refused."""

import itertools
import json

import numpy as np
import pytest
import torch

from mass_core import load_model
from mass_core.schema import changed
from training.pretrain import loop as pretrain
from training.pretrain import recipes
from training.runs.distributed import ProcessGroup
from training.runs.sources import open_sources
from training.runs.state import saved

TINY = ["model.channels=8,32", "model.stages=1", "model.position_size=16", "preprocess.window_zyx=16,16,16", "episodes.task_slots=2",
        "episodes.smallest_voxels=8", "workers=0", "save_every=5", "log_every=5"]  # fmt: skip


def run(data, output, *settings, resume=False, recipe="smoke", init=None):
    words = ["--recipe", recipe, "--data", str(data), "--output", str(output), "--device", "cpu", "--set", *TINY, *settings]
    return pretrain.main([*words, *(["--resume"] if resume else []), *(["--init", str(init)] if init else [])])


def state_of(output):
    return torch.load(saved(output / "state")[0], weights_only=True)


@pytest.mark.parametrize("optimiser, moment", [("optim.muon_ratio=0", "exp_avg"), ("optim.muon_ratio=2", "momentum")])
def test_ten_steps_are_five_and_five_more(blob_dataset, tmp_path, optimiser, moment):
    """Bit-identical: weights, average and optimiser."""
    assert run(blob_dataset, tmp_path / "whole", "steps=10", optimiser) == 0
    config = changed(recipes.named("smoke"), [*TINY, "steps=10", optimiser])
    clock = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain.time, "monotonic", lambda: float(next(clock)))  # two looks a step
        pretrain.train(
            config,
            open_sources([str(blob_dataset)]),
            tmp_path / "parts",
            ProcessGroup(0, 1, torch.device("cpu")),
            resume="",
            minutes=10 / 60,
        )
    assert state_of(tmp_path / "parts")["step"] == 5
    assert run(blob_dataset, tmp_path / "parts", "steps=10", optimiser, resume=True) == 0
    whole, parts = state_of(tmp_path / "whole"), state_of(tmp_path / "parts")
    assert whole["step"] == parts["step"] == 10
    for part in ("network", "average"):
        for name, value in whole[part].items():
            assert torch.equal(value, parts[part][name]), name
    kept = {number: moments[moment] for number, moments in whole["optimiser"]["state"].items() if moment in moments}
    assert kept and all(torch.equal(value, parts["optimiser"]["state"][number][moment]) for number, value in kept.items())


def test_the_weights_load_and_answer(blob_dataset, tmp_path):
    assert run(blob_dataset, tmp_path, "steps=3", "licence=CC0-1.0") == 0
    model = load_model(tmp_path / "last.safetensors", "cpu")
    assert model.provenance["recipe"] == "smoke" and model.provenance["steps"] == 3 and model.licence == "CC0-1.0"
    assert model.recipe.window_zyx == (16, 16, 16) and model.recipe.spacing_zyx is None
    image = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        assert model.network(image, image, (image > 0).float()).isfinite().all()


@pytest.mark.slow
def test_it_learns(blob_dataset, tmp_path):
    assert run(blob_dataset, tmp_path, "steps=200", "batch_size=4", "optim.learning_rate=2e-3", "episodes.pose_warmup=1000") == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert np.mean([line["dice"] for line in lines[-5:]]) > lines[0]["dice"] + 0.15, "the first report is the mean of five steps"


def test_a_bad_step_is_skipped_and_counted(blob_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "mask_loss", lambda logits, *rest: (logits.sum() * float("nan"), logits.sum() * 0))
    assert run(blob_dataset, tmp_path, "steps=4", "optim.most_bad_steps=10") == 0
    state = state_of(tmp_path)
    assert state["bad_steps"] == 4
    assert all(value.isfinite().all() for value in state["network"].values())


def test_too_many_bad_steps_stop_the_run(blob_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "mask_loss", lambda logits, *rest: (logits.sum() * float("nan"), logits.sum() * 0))
    assert run(blob_dataset, tmp_path, "steps=9", "optim.most_bad_steps=3") == 2
    assert "not finite" in capsys.readouterr().err


def test_a_run_is_not_overwritten(blob_dataset, tmp_path, capsys):
    assert run(blob_dataset, tmp_path, "steps=1") == 0
    assert run(blob_dataset, tmp_path, "steps=1") == 2
    assert "--resume" in capsys.readouterr().err


def test_resuming_another_network_is_refused(blob_dataset, tmp_path, capsys):
    assert run(blob_dataset, tmp_path, "steps=1") == 0
    assert run(blob_dataset, tmp_path, "steps=2", "model.channels=16,32", resume=True) == 2
    assert "recipe" in capsys.readouterr().err


def test_a_run_starts_from_given_weights(blob_dataset, tmp_path, capsys):
    """With a step size of zero they stay what they were; weights of another network are refused."""
    assert run(blob_dataset, tmp_path / "first", "steps=2") == 0
    weights = tmp_path / "first" / "last.safetensors"
    assert run(blob_dataset, tmp_path / "second", "steps=1", "seed=7", "optim.learning_rate=0", init=weights) == 0
    assert load_model(tmp_path / "second" / "last.safetensors", "cpu").fingerprint == load_model(weights, "cpu").fingerprint
    assert run(blob_dataset, tmp_path / "third", "model.channels=16,32", init=weights) == 2
    assert "another network" in capsys.readouterr().err


def test_resuming_nothing_is_refused(blob_dataset, tmp_path, capsys):
    assert run(blob_dataset, tmp_path, resume=True) == 2
    assert "resume" in capsys.readouterr().err.lower()


@pytest.mark.parametrize("words", [["--recipe", "huge"], ["--set", "steps=x"], ["--set", "nothing=1"]])
def test_bad_words_exit_with_two(blob_dataset, tmp_path, words):
    assert pretrain.main(["--data", str(blob_dataset), "--output", str(tmp_path), "--device", "cpu", *words]) == 2
