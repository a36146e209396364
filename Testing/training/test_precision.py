"""float16: losses are scaled, overflow lowers the scale and not the run, and the scale is part of the state. PyTorch has it on CPUs too."""

from dataclasses import replace

import pytest
import torch

from mass_core.errors import InputError
from mass_core.schema import changed
from training.pretrain import loop as pretrain
from training.pretrain import recipes
from training.pretrain.start import start
from training.pretrain.state import State
from training.runs.precision import autocast, scaler
from training.runs.state import saved

TINY = ["model.channels=8,32", "model.stages=1", "model.position_size=16", "preprocess.window_zyx=16,16,16", "episodes.task_slots=2",
        "episodes.smallest_voxels=8", "workers=0", "save_every=3", "log_every=1", "keep_states=9", "precision=float16"]  # fmt: skip
CPU = torch.device("cpu")


def run(data, output, *settings, resume=False):
    words = ["--recipe", "smoke", "--data", str(data), "--output", str(output), "--device", "cpu", *(["--resume"] if resume else [])]
    return pretrain.main([*words, "--set", *TINY, *settings])


def state_of(output):
    return torch.load(saved(output / "state")[0], weights_only=True)


def rounded(monkeypatch, factor):
    """Losses times `factor`, and only the gradient of the logits rounded to float16: on a CPU a whole step in float16 takes seconds."""
    plain = pretrain.mask_loss

    def loss(logits, *rest):
        logits.register_hook(lambda gradient: gradient.half().float())
        value, dice = plain(logits, *rest)
        return value * factor, dice

    monkeypatch.setattr(pretrain, "mask_loss", loss)
    monkeypatch.setattr(pretrain, "autocast", lambda precision, device: autocast("float32", device))


def assert_same(a, b):
    for part in ("network", "average"):
        assert all(torch.equal(value, b[part][name]) for name, value in a[part].items())
    assert a["scaler"] == b["scaler"] and a["bad_steps"] == b["bad_steps"] and a["step"] == b["step"]


def test_a_resumed_run_has_the_weights_and_the_scale_of_one_never_stopped(blob_dataset, tmp_path, monkeypatch):
    """With losses so large that the scale moves."""
    rounded(monkeypatch, 1e6)
    assert run(blob_dataset, tmp_path / "whole", "steps=6") == 0
    assert run(blob_dataset, tmp_path / "parts", "steps=6") == 0
    saved(tmp_path / "parts" / "state")[0].unlink()
    half = state_of(tmp_path / "parts")
    assert half["step"] == 3 and half["scaler"]["scale"] < 65536
    assert run(blob_dataset, tmp_path / "parts", "steps=6", resume=True) == 0
    assert_same(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))


def test_overflow_lowers_the_scale_until_steps_are_good(blob_dataset, tmp_path, monkeypatch):
    rounded(monkeypatch, 1e6)
    assert run(blob_dataset, tmp_path, "steps=20", "optim.most_bad_steps=1") == 0
    state = state_of(tmp_path)
    assert 1 < state["bad_steps"] < 16 and state["scaler"]["scale"] == 65536 / 2 ** state["bad_steps"]
    begun = start(changed(recipes.smoke(), TINY), CPU, None).network.state_dict()
    assert any(not torch.equal(value, begun[name]) for name, value in state["network"].items())


def test_gradients_no_scale_can_mend_stop_the_run(blob_dataset, tmp_path, monkeypatch, capsys):
    """The scale falls from 65536 to 1 in sixteen steps; a run that gets no further has other troubles."""
    rounded(monkeypatch, float("nan"))
    assert run(blob_dataset, tmp_path / "short", "steps=16", "optim.most_bad_steps=3") == 0
    assert state_of(tmp_path / "short")["scaler"]["scale"] == 1
    assert run(blob_dataset, tmp_path / "long", "steps=40", "optim.most_bad_steps=3") == 2
    assert "17 steps had gradients that are not finite" in capsys.readouterr().err


def test_a_step_in_float16_is_close_to_one_in_float32_and_is_resumed(blob_dataset, tmp_path):
    """A scaled loss whose scale was not taken out again would move weights thousands of times as far."""
    settings = ["steps=2", "save_every=1", "batch_size=1", "episodes.task_slots=1"]
    assert run(blob_dataset, tmp_path / "half", *settings) == 0
    assert run(blob_dataset, tmp_path / "full", *settings, "precision=float32") == 0
    half, full = (state_of(tmp_path / name) for name in ("half", "full"))
    begun = start(changed(recipes.smoke(), TINY), CPU, None).network.state_dict()

    def moved(state):
        return torch.cat([(state["network"][name] - value).flatten() for name, value in begun.items() if value.numel()])

    assert torch.nn.functional.cosine_similarity(moved(half), moved(full), dim=0) > 0.9
    assert full["scaler"] == {} and half["scaler"]["scale"] == 65536
    saved(tmp_path / "half" / "state")[0].unlink()
    assert run(blob_dataset, tmp_path / "half", *settings, resume=True) == 0
    assert_same(state_of(tmp_path / "half"), half)


def test_a_state_made_before_there_was_a_scale_is_taken_on(blob_dataset, tmp_path):
    assert run(blob_dataset, tmp_path, "steps=3", "precision=float32") == 0
    path = saved(tmp_path / "state")[0]
    torch.save({name: value for name, value in torch.load(path, weights_only=True).items() if name != "scaler"}, path)
    assert run(blob_dataset, tmp_path, "steps=4", "precision=float32", resume=True) == 0
    assert state_of(tmp_path)["step"] == 4


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize(
    "precision, device, kind",
    [("auto", "cpu", None), ("auto", "cuda", torch.bfloat16), ("float32", "cuda", None), ("bfloat16", "cpu", torch.bfloat16),
     ("float16", "cpu", torch.float16)],
)  # fmt: skip
def test_what_is_rounded_to(precision, device, kind):
    context = autocast(precision, torch.device(device))
    # without a CUDA device PyTorch switches its autocast off
    enabled = kind is not None and (device == "cpu" or torch.cuda.is_available())
    assert context._enabled == enabled and (kind is None or context.fast_dtype == kind)


def test_only_float16_is_scaled():
    assert [scaler(name, CPU).is_enabled() for name in ("auto", "float32", "bfloat16", "float16")] == [False, False, False, True]
    assert not State(None, None, None).scaler.is_enabled()


def test_an_unknown_format_is_refused():
    with pytest.raises(InputError, match="one of: auto, float32, bfloat16, float16"):
        changed(recipes.smoke(), ["precision=half"])
    with pytest.raises(InputError, match="precision is 'half'"):
        replace(recipes.smoke(), precision="half")
