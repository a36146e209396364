"""Other ways to pretrain the encoder: each learns, goes on where it stopped, and leaves weights of which only the encoder has changed."""

import json
import os
import signal
import sys

import pytest
import torch

from mass_core import load_model
from mass_core.config import ModelConfig
from mass_core.model import build_model
from training.baselines import learners
from training.baselines.command import configured, main
from training.baselines.learners import BLOCK, Genesis, Mae, S3d, SimClr, bend, boxes, curves, deformed, shuffled
from training.pretrain import loop
from training.runs.state import saved

TINY = ["model.channels=8,32", "model.stages=1", "model.position_size=16", "preprocess.window_zyx=16,16,16", "early_window=16",
        "episodes.task_slots=2", "episodes.smallest_voxels=8", "log_every=1", "batch_size=4",
        "precision=float32"]  # fmt: skip
CHANNELS = (8, 32)


def run(method, data, output, *settings, steps=2):
    words = ["--method", method, "--steps", str(steps), "--data", str(data), "--output", str(output), "--device", "cpu", "--set", *TINY]
    return main([*words, *settings])


def tensors(path):
    return load_model(path, "cpu").network.state_dict()


@pytest.fixture(scope="module")
def random_start(blob_dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("none") / "none.safetensors"
    assert run("none", blob_dataset, path) == 0
    return tensors(path)


@pytest.mark.parametrize("method", ["mae", "simclr", "mg", "s3d", "mass"])
def test_two_steps_change_the_encoder(blob_dataset, tmp_path, random_start, method):
    path = tmp_path / "weights.safetensors"
    assert run(method, blob_dataset, path) == 0
    changed = {name.split(".")[0] for name, value in tensors(path).items() if not torch.equal(value, random_start[name])}
    assert "encoder" in changed and (changed == {"encoder"}) == (method != "mass")
    assert load_model(path, "cpu").provenance["recipe"] == f"small {method}"
    assert all(torch.isfinite(torch.tensor(json.loads(line)["loss"])) for line in (tmp_path / "weights.run" / "log.jsonl").open())


@pytest.mark.parametrize(
    ("name", "told"), [("dataset.json", "is not a valid file name for weights"), ("theirs.safetensors", "already exists")]
)
def test_files_of_the_user_are_not_replaced(blob_dataset, tmp_path, capsys, name, told):
    (tmp_path / name).write_bytes(b"precious")
    assert run("none", blob_dataset, tmp_path / name) == 2
    assert told in capsys.readouterr().err and (tmp_path / name).read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [tmp_path / name]


@pytest.mark.parametrize("method", ["mae", "simclr", "mg", "s3d"])
def test_a_stopped_run_goes_on_to_the_same_weights(blob_dataset, tmp_path, method):
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    for path in (whole, parts):
        assert run(method, blob_dataset, path, "save_every=2", steps=3) == 0
    parts.unlink()
    saved(tmp_path / "parts.run" / "state")[0].unlink()
    assert run(method, blob_dataset, parts, "save_every=2", steps=3) == 0
    assert load_model(whole, "cpu").fingerprint == load_model(parts, "cpu").fingerprint


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends programs without asking them")
def test_a_run_told_to_stop_saves_and_goes_on_to_the_same_weights(blob_dataset, tmp_path, monkeypatch, capsys):
    whole, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    assert run("mae", blob_dataset, whole, "seed=3", steps=3) == 0
    advance = loop.advance

    def told(config, state):
        os.kill(os.getpid(), signal.SIGTERM)
        return advance(config, state)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "advance", told)
        assert run("mae", blob_dataset, stopped, "seed=3", steps=3) == 0
    assert "Saved at step 1 of 3; the same command continues from there." in capsys.readouterr().err
    assert not stopped.exists() and saved(tmp_path / "stopped.run" / "state")
    assert run("mae", blob_dataset, stopped, "seed=3", steps=3) == 0
    assert load_model(whole, "cpu").fingerprint == load_model(stopped, "cpu").fingerprint
    assert load_model(stopped, "cpu").provenance["config"]["seed"] == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method", "mae", "--output", "w.safetensors"], "--data is missing: mae learns from scans."),
        (["--method", "none", "--output", "w.pth"], "w.pth is not a valid file name for weights."),
        (["--method", "mae", "--data", "D", "--output", "w.safetensors", "--set", "step=3"], "Did you mean"),
    ],
)
def test_bad_orders_are_told(words, told, capsys):
    assert main(words) == 2
    assert told in capsys.readouterr().err


def test_a_batch_may_be_computed_in_parts(blob_dataset, tmp_path):
    losses = []
    for parts in (1, 2):
        assert run("mae", blob_dataset, tmp_path / f"{parts}.safetensors", f"accumulate={parts}") == 0
        losses.append(json.loads((tmp_path / f"{parts}.run" / "log.jsonl").read_text().splitlines()[0])["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.5)  # the same samples, other hidden blocks


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


def s3d(channels=(8, 16, 32)):
    torch.manual_seed(0)
    return S3d(build_model(ModelConfig(channels=channels, stages=1, position_size=16, task_rows=0)).encoder, channels)


def test_hidden_voxels_do_not_leak_into_sparse_features():
    """Not one bit, at no level; what is visible counts, and with everything visible the encoder is the one that is kept."""
    learner, generator = s3d(), torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, 16, 16, 16)
    visible = learner.some_visible(images, generator)
    assert visible.mean() == 0.25 and torch.equal(torch.nn.functional.avg_pool3d(visible, 4).unique(), torch.tensor([0.0, 1.0]))
    before = learner.sparse_levels(images, visible)
    other = learner.sparse_levels(torch.where(visible > 0, images, 100 * torch.randn(images.shape)), visible)
    assert all(torch.equal(a, b) for a, b in zip(before, other, strict=True))
    for level in before:
        there = torch.nn.functional.interpolate(visible, size=level.shape[2:])
        assert (level * (1 - there) == 0).all() and (level * there != 0).any()
    changed = learner.sparse_levels(images + visible * torch.randn(images.shape), visible)
    assert not any(torch.equal(a, b) for a, b in zip(before, changed, strict=True))


def test_with_everything_visible_the_sparse_encoder_is_the_dense_one():
    images, learner = torch.randn(2, 1, 16, 16, 16), s3d()
    torch.manual_seed(0)
    dense = build_model(ModelConfig(channels=(8, 16, 32), stages=1, position_size=16, task_rows=0)).encoder
    for sparse, expected in zip(learner.sparse_levels(images, torch.ones_like(images)), dense(images), strict=True):
        torch.testing.assert_close(sparse, expected, atol=1e-4, rtol=1e-4)


def test_the_sparse_method_is_charged_for_hidden_voxels_alone_and_everything_learns():
    learner = s3d()
    views = torch.rand(2, 2, 1, 16, 16, 16) + 1
    learner(views, torch.Generator().manual_seed(0)).backward()
    assert [name for name, weight in learner.named_parameters() if weight.grad is None] == []
    torch.nn.init.zeros_(learner.out.conv.conv.weight), torch.nn.init.zeros_(learner.out.conv.conv.bias)
    hidden = learner.some_visible(views.flatten(0, 1), torch.Generator().manual_seed(0)) == 0
    torch.testing.assert_close(learner(views, torch.Generator().manual_seed(0)), (views.flatten(0, 1)[hidden] ** 2).mean())


def test_a_bent_image_is_bent_back_by_the_same_curve_the_other_way_round():
    images = torch.rand(6, 1, 12, 12, 12)
    places, values = curves(6, torch.Generator().manual_seed(0))
    bent = bend(images, places, values)
    rising = values[:, 0] < values[:, -1]
    assert 0 < rising.sum() < 6 and 0 <= bent.min() and bent.max() <= 1 and (bent - images).abs().mean() > 0.05
    back = bend(bent, torch.where(rising[:, None], values, values.flip(1)), torch.where(rising[:, None], places, places.flip(1)))
    torch.testing.assert_close(back, images, atol=1e-3, rtol=0)


def test_shuffling_keeps_the_voxels_of_every_cube_and_the_rest():
    images = torch.arange(2 * 25**3).float().view(2, 1, 25, 25, 25)
    mixed = shuffled(images, torch.Generator().manual_seed(0))
    for z, y, x in ((0, 0, 0), (2, 10, 22), (22, 22, 22)):
        cube = (slice(None), slice(None), slice(z, z + 2), slice(y, y + 2), slice(x, x + 2))
        assert torch.equal(mixed[cube].flatten(1).sort().values, images[cube].flatten(1).sort().values)
    assert not torch.equal(mixed, images)
    assert torch.equal(mixed[..., 24], images[..., 24]) and torch.equal(mixed[:, :, 24], images[:, :, 24])


@pytest.mark.parametrize("edges", [(1 / 6, 1 / 3), (3 / 7, 4 / 7)])
def test_boxes_lie_inside_and_have_the_sizes_asked_for(edges):
    """A single box spans its three edges; none touches the border."""
    inside = boxes(torch.zeros(40, 1, 24, 24, 24), edges, torch.Generator().manual_seed(0))
    spans = torch.stack([inside.flatten(1, 2).any(a).any(1).sum(-1) for a in (2, 3)])
    assert inside.flatten(1).any(1).all() and spans.min() >= round(24 * edges[0])
    rim = inside.clone()
    rim[:, :, 3:-3, 3:-3, 3:-3] = False
    assert not rim.any()


def test_what_is_neither_bent_nor_shuffled_nor_painted_stays(monkeypatch):
    images = torch.randn(8, 1, 24, 24, 24)

    def deform(**shares):
        for name in ("BENT", "SHUFFLED", "PAINTED", "OUTSIDE"):
            monkeypatch.setattr(learners, name, shares.get(name, 0))
        return deformed(images, torch.Generator().manual_seed(0))

    assert torch.equal(deform(), images)
    for outside, least, most in ((0, 0.005, 0.3), (1, 0.3, 0.95)):
        painted = deform(PAINTED=1, OUTSIDE=outside)
        share = (painted != images).float().flatten(1).mean(1)
        assert share.min() > least and share.max() < most
        assert painted.min() >= images.min() and painted.max() <= images.max()
    bent = deform(BENT=1)
    assert (bent != images).float().mean() > 0.9
    low, high = (images.flatten(1).min(1).values, images.flatten(1).max(1).values)
    torch.testing.assert_close(torch.stack([bent.flatten(1).min(1).values, bent.flatten(1).max(1).values]), torch.stack([low, high]))
    mixed = deform(SHUFFLED=1)
    assert torch.equal(mixed.flatten(1).sort().values, images.flatten(1).sort().values) and not torch.equal(mixed, images)


def test_genesis_is_charged_for_the_view_as_it_was():
    learner, shown = Genesis(encoder(), CHANNELS), []
    learner.encoder.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    torch.nn.init.zeros_(learner.out.conv.conv.weight), torch.nn.init.zeros_(learner.out.conv.conv.bias)
    views = torch.randn(2, 2, 1, 16, 16, 16)
    torch.testing.assert_close(learner(views, torch.Generator().manual_seed(0)), (views**2).mean())
    assert not torch.equal(shown[0], views.flatten(0, 1))


def test_views_of_one_scan_that_look_alike_cost_less_than_those_that_do_not():
    learner = SimClr(encoder(), CHANNELS)
    scans = torch.randn(6, 1, 1, 16, 16, 16)
    same = scans.expand(-1, 2, -1, -1, -1, -1)
    mixed = torch.stack([scans[:, 0], scans.roll(1, 0)[:, 0]], 1)
    generator = torch.Generator()
    assert learner(same, generator) < learner(mixed, generator)


def test_contrast_goes_without_far_views_and_nothing_else_differs():
    mae, simclr = (configured(method, "small", []).as_json() for method in ("mae", "simclr"))
    assert simclr["episodes"].pop("far_share") == 0 < mae["episodes"].pop("far_share")
    assert {**simclr, "name": ""} == {**mae, "name": ""}


def test_bad_settings_are_told(blob_dataset, tmp_path, capsys):
    assert run("mae", blob_dataset, tmp_path / "w.safetensors", "stepz=1") == 2
    assert "stepz" in capsys.readouterr().err
