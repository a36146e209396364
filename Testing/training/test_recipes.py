"""The paper's and the released code's runs: their numbers, their parts, and two steps of each with a tiny network."""

import json

import numpy as np
import pytest
import torch

from mass_core.data.dataset import Dataset
from mass_core.errors import InputError
from mass_core.schema import changed
from mass_core.weights.checkpoint import load_model
from training.pretrain import loop as pretrain
from training.pretrain import recipes
from training.pretrain.config import OptimConfig
from training.pretrain.episodes import Episodes
from training.pretrain.released_views import WEAK, overlapping
from training.pretrain.schedule import first_beta, learning_rate
from training.runs.state import saved

TINY = ["model.channels=8,32", "model.stages=1", "model.position_size=16", "preprocess.window_zyx=16,16,16", "episodes.task_slots=3",
        "workers=0", "steps=2", "log_every=1", "batch_size=4"]  # fmt: skip


@pytest.mark.parametrize("recipe", ["paper", "released"])
@pytest.mark.parametrize("settings", [[], ["recompute=activations"], ["accumulate=2", "recompute=blocks"]], ids=["plain", "less", "least"])
def test_two_steps_with_a_tiny_network(blob_dataset, tmp_path, recipe, settings):
    words = ["--recipe", recipe, "--data", str(blob_dataset), "--output", str(tmp_path), "--device", "cpu", "--set", *TINY]
    assert pretrain.main([*words, *settings]) == 0
    state = torch.load(saved(tmp_path / "state")[0], weights_only=True)
    assert state["step"] == 2 and state["bad_steps"] == 0
    assert set(state["optimiser"]["state"][0]) == {"mean", "square"}, "LAMB's"
    assert all(np.isfinite(json.loads(line)["loss"]) for line in (tmp_path / "log.jsonl").read_text().splitlines())


@pytest.mark.parametrize("encoder", ["resnet50", pytest.param("swin", marks=pytest.mark.slow)])
def test_another_encoder_trains(blob_dataset, tmp_path, encoder):
    words = ["--recipe", "smoke", "--data", str(blob_dataset), "--output", str(tmp_path), "--device", "cpu"]
    assert pretrain.main([*words, "--set", *TINY, "model.channels=8,32,32", f"model.encoder={encoder}"]) == 0
    assert load_model(tmp_path / "last.safetensors", "cpu").config.encoder == encoder


def test_the_papers_numbers():
    """Sections 6.4 and 7.4."""
    run = recipes.paper()
    assert (run.optim.optimiser, run.optim.learning_rate, run.optim.weight_decay, run.optim.decay_power) == ("lamb", 2e-3, 1e-5, 0.9)
    assert (run.batch_size, run.precision, run.preprocess.window_zyx) == (32, "bfloat16", (128, 128, 128))
    assert run.preprocess.spacing_zyx == (1.5, 1.5, 1.5) and run.episodes.spacing_limits_mm == (1.5, 1.5)
    episodes, look = run.episodes, run.appearance
    assert (episodes.affine_probability, episodes.scale, episodes.rotation_degrees, episodes.shear) == (0.8, 0.3, 30.0, 0.1)
    assert (look.probability, look.multiply, look.add, look.gamma) == (0.2, (0.8, 1.3), 0.15, (0.8, 1.3))
    assert (look.contrast, look.blur_voxels, look.noise) == ((0.8, 1.3), (0.7, 1.5), 0.04)
    assert episodes.elastic_probability == run.optim.deep_weight == run.optim.muon_ratio == 0


def test_views_of_a_fixed_spacing_keep_it(blob_dataset):
    run = changed(recipes.paper(), ["episodes.affine_probability=0", "preprocess.window_zyx=16,16,16", "episodes.task_slots=3"])
    episodes = Episodes([Dataset.read(blob_dataset)], run.episodes, window=lambda step: 16, batch_size=1, seed=0, steps=9)
    for number in range(9):
        linear = episodes[number].affines[:, :, :3] * np.array([2.0, 1.0, 1.0])[:, None]
        np.testing.assert_allclose(linear, np.broadcast_to(1.5 * np.eye(3), (2, 3, 3)), atol=1e-6)


def test_one_cycle_is_pytorchs():
    optim = recipes.released().optim
    weight = torch.nn.Parameter(torch.ones(1))
    optimiser = torch.optim.AdamW([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=2e-3, total_steps=200, pct_start=0.05, div_factor=25, final_div_factor=1000
    )
    for step in range(200):
        group = optimiser.param_groups[0]
        assert learning_rate(step, 200, optim) == pytest.approx(group["lr"], rel=1e-9)
        assert first_beta(step, 200, optim, 0.9) == pytest.approx(group["betas"][0], rel=1e-9)
        optimiser.step()
        if step < 199:
            theirs.step()
    assert first_beta(7, 200, OptimConfig(), 0.9) == 0.9


def test_overlapping_views_overlap():
    rng = np.random.default_rng(0)
    extent, window, spacing = np.array([300.0, 400.0, 100.0]), 128, 1.5
    pairs = np.array([overlapping(rng, extent, spacing, window, 0.67) for _ in range(500)])
    crop = np.minimum(168 * 1.5, extent)
    assert (pairs >= crop / 2 - 1e-9).all() and (pairs <= extent - crop / 2 + 1e-9).all()
    apart = np.abs(pairs[:, 0] - pairs[:, 1])
    assert (apart <= 0.33 * crop + 1e-9).all() and apart[:, 1].max() > 0.25 * crop[1]
    assert (pairs[:, :, 2] == 50.0).all(), "a scan smaller than the crop is seen from its middle"


def test_one_mask_is_the_whole_scan(blob_dataset):
    run = changed(recipes.released(), ["episodes.task_slots=3"])
    episodes = Episodes([Dataset.read(blob_dataset)], run.episodes, window=lambda step: 16, batch_size=1, seed=0, steps=20)
    whole = []
    for number in range(20):
        bits = episodes[number].bits
        full = [slot for slot in range(3) if (bits >> slot & 1).all()]
        assert len(full) == 1
        whole += full
    assert set(whole) == {0, 1, 2}


def test_references_of_the_released_run_change_less():
    assert WEAK.noise < recipes.released().appearance.noise and WEAK.probability == recipes.released().appearance.probability
    assert not recipes.paper().episodes.weak_reference


@pytest.mark.parametrize("setting", ["optim.optimiser=sgd", "optim.schedule=flat", "optim.loss=focal", "optim.muon_ratio=2"])
def test_words_nothing_is_known_by_are_refused(setting):
    with pytest.raises(InputError):
        changed(recipes.paper(), [setting])
