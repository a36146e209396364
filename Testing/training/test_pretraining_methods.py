"""Other ways to pretrain the encoder: each learns, goes on where it stopped, and leaves weights of which only the encoder has changed."""

import json

import pytest
import torch

from mass_core import load_model
from mass_core.config import ModelConfig
from mass_core.model import build_model
from Testing.benchmarks import pretraining_methods
from Testing.benchmarks.pretraining_methods import BLOCK, Mae, SimClr, configured
from training.runs.state import saved

TINY = ["model.channels=8,32", "model.stages=1", "model.position_size=16", "preprocess.window_zyx=16,16,16", "early_window=16",
        "episodes.task_slots=2", "episodes.smallest_voxels=8", "log_every=1", "batch_size=4",
        "precision=float32"]  # fmt: skip
CHANNELS = (8, 32)


def run(method, data, output, *settings, steps=2):
    words = ["pretrain", "--method", method, "--steps", str(steps), "--data", str(data), "--output", str(output), "--set", *TINY]
    return pretraining_methods.main([*words, *settings])


def tensors(path):
    return load_model(path, "cpu").network.state_dict()


@pytest.fixture(scope="module")
def random_start(blob_dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("none") / "none.safetensors"
    assert run("none", blob_dataset, path) == 0
    return tensors(path)


@pytest.mark.parametrize("method", ["mae", "simclr", "mass"])
def test_two_steps_change_the_encoder(blob_dataset, tmp_path, random_start, method):
    path = tmp_path / "weights.safetensors"
    assert run(method, blob_dataset, path) == 0
    changed = {name.split(".")[0] for name, value in tensors(path).items() if not torch.equal(value, random_start[name])}
    assert "encoder" in changed and (changed == {"encoder"}) == (method != "mass")
    assert load_model(path, "cpu").provenance["recipe"] == f"small {method}"
    assert all(torch.isfinite(torch.tensor(json.loads(line)["loss"])) for line in (tmp_path / "weights.run" / "log.jsonl").open())


@pytest.mark.parametrize("method", ["mae", "simclr"])
def test_a_stopped_run_goes_on_to_the_same_weights(blob_dataset, tmp_path, method):
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    for path in (whole, parts):
        assert run(method, blob_dataset, path, "save_every=2", steps=3) == 0
    parts.unlink()
    saved(tmp_path / "parts.run" / "state")[0].unlink()
    assert run(method, blob_dataset, parts, "save_every=2", steps=3) == 0
    assert load_model(whole, "cpu").fingerprint == load_model(parts, "cpu").fingerprint


def encoder():
    return build_model(ModelConfig(channels=CHANNELS, stages=1, position_size=16, task_rows=0)).encoder


def test_hidden_blocks_are_not_seen_and_alone_are_charged():
    """The encoder's input is zero in whole blocks, three quarters of them; predicting zeros for an image of zeros costs nothing."""
    learner, shown = Mae(encoder(), CHANNELS), []
    learner.encoder.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    views = torch.rand(4, 2, 1, 16, 16, 16) + 1
    learner(views, torch.Generator().manual_seed(0)).backward()
    hidden = (shown[0] == 0).float()
    blocks = torch.nn.functional.avg_pool3d(hidden, BLOCK)
    assert set(blocks.unique().tolist()) == {0.0, 1.0} and 0.65 < blocks.mean() < 0.85
    assert torch.equal(shown[0][hidden == 0], views.flatten(0, 1)[hidden == 0])
    torch.nn.init.zeros_(learner.out.conv.conv.weight), torch.nn.init.zeros_(learner.out.conv.conv.bias)
    expected = (views.flatten(0, 1)[hidden == 1] ** 2).mean()
    torch.testing.assert_close(learner(views, torch.Generator().manual_seed(0)), expected)


def test_views_of_one_scan_that_look_alike_cost_less_than_those_that_do_not():
    learner = SimClr(encoder(), CHANNELS)
    scans = torch.randn(6, 1, 1, 16, 16, 16)
    same = scans.expand(-1, 2, -1, -1, -1, -1)
    mixed = torch.stack([scans[:, 0], scans.roll(1, 0)[:, 0]], 1)
    generator = torch.Generator()
    assert learner(same, generator) < learner(mixed, generator)


def test_contrast_goes_without_far_views_and_nothing_else_differs():
    mae, simclr = (configured(method, 5, []).as_json() for method in ("mae", "simclr"))
    assert simclr["episodes"].pop("far_share") == 0 < mae["episodes"].pop("far_share")
    assert {**simclr, "name": ""} == {**mae, "name": ""}


def test_tables_are_joined(tmp_path, monkeypatch):
    asked = []

    def evaluate(command, check):
        asked.append(command)
        folder = tmp_path / command[command.index("--weights") + 1].split(".")[0]
        folder.mkdir()
        dice = 0.75 if folder.name == "mae" else 0.375
        cells = [{"shots": shots, "method": "finetuned", "dice": dice, "dice_sd": 0.01} for shots in (5, 1)]
        (folder / "summary.json").write_text(json.dumps({"means": cells if folder.name == "mae" else cells[1:]}))

    monkeypatch.setattr(pretraining_methods.subprocess, "run", evaluate)
    paths = [pretraining_methods.Path(name) for name in ("none.safetensors", "mae.safetensors")]
    table = pretraining_methods.compare(paths, tmp_path / "data", tmp_path, ["--shots", "1"])
    assert table.splitlines() == [
        "| pretraining | finetuned, 1-shot | finetuned, 5-shot |", "|---|--:|--:|",
        "| none | 0.375 (0.010) |  |", "| mae | 0.750 (0.010) | 0.750 (0.010) |",
    ]  # fmt: skip
    assert all(command[-4:] == ["--methods", "finetuned", "--shots", "1"] for command in asked)
    for folder in ("none", "mae"):
        (tmp_path / folder / "summary.json").unlink(), (tmp_path / folder).rmdir()
    pretraining_methods.compare(paths, tmp_path / "data", tmp_path, ["--methods", "adapted"])
    assert all(command[-2:] == ["--methods", "adapted"] and command.count("--methods") == 1 for command in asked[2:])


def test_bad_settings_are_told(blob_dataset, tmp_path, capsys):
    assert run("mae", blob_dataset, tmp_path / "w.safetensors", "stepz=1") == 2
    assert "stepz" in capsys.readouterr().err
