"""Switches of inference on a GPU (`devices.DeviceUse`): on and off, the same is found by a CPU that goes the GPU's way through the code."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mass_core.config import Recipe
from mass_core.devices import DeviceUse
from mass_core.errors import InputError
from mass_core.inference import blending, sliding_window
from mass_core.inference.segmenter import Segmenter
from mass_core.inference.sliding_window import sliding_window_inference, split_passes
from mass_core.inference.upload import through_buffers
from mass_core.jobs.session import Run, Session
from mass_core.model import blocks, slabs
from mass_core.model.compute import Compute, choose_compute
from mass_core.weights import checkpoint
from mass_core.weights.checkpoint import load_model
from mass_core.worker.requests import Features, Load

CPU = torch.device("cpu")
DOCS = Path(__file__).resolve().parents[2] / "docs"


class Mark:
    """A CUDA event's stand-in: what was given before is done."""

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


@pytest.fixture
def found(tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[DeviceUse], tuple[dict[str, Any], list[np.ndarray]]]:
    """Segments noise as with a GPU of a lot of memory, and tells the way it went: what is the GPU's is computed by this CPU."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 37, 1 << 37))
    monkeypatch.setattr(checkpoint, "prefers_channels_last", lambda device: True)
    monkeypatch.setattr(slabs, "apply_to", lambda x: False)
    plain, attention, ahead = blocks.norm_relu, F.scaled_dot_product_attention, Compute.ahead.fget
    assert ahead is not None

    def run(use: DeviceUse) -> tuple[dict[str, Any], list[np.ndarray]]:
        way: dict[str, Any] = {"batches": set(), "fused": set()}
        network, recipe = load_model(tiny_weights, "cpu", use=use).network, Recipe(window_zyx=(32, 32, 32), overlap=0.25)
        gpu = choose_compute(torch.device("cuda"), "float32", network, recipe, 2, use)
        there = gpu.blend_device.type == "cuda"
        way |= {"blended there": there, "ahead": ahead(gpu)}
        weight = next(weight for weight in network.parameters() if weight.ndim == 5 and weight.shape[1] > 1)
        way["channels last"] = weight.is_contiguous(memory_format=torch.channels_last_3d)

        def norm_relu(x: torch.Tensor, eps: float = slabs.EPS) -> torch.Tensor:
            last = x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous()
            return blocks.norm_relu_one_by_one(x, eps) if last else plain(x, eps)

        def attend(*args: Any, **options: Any) -> torch.Tensor:
            way["fused"].add(torch.backends.cuda.flash_sdp_enabled())
            return attention(*args, **options)

        def uploaded(volume: torch.Tensor, compute: Compute) -> torch.Tensor:
            way["pinned"] = there and compute.use.pinned_upload
            target = torch.empty_like(volume)
            return through_buffers(volume, target, pinned=torch.empty_like, mark=Mark, size=8000) if way["pinned"] else volume

        encode = network.encode_image
        monkeypatch.setattr(network, "encode_image", lambda batch: (way["batches"].add(len(batch)), encode(batch))[1])
        monkeypatch.setattr(blocks, "norm_relu", norm_relu)
        monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
        monkeypatch.setattr(sliding_window, "uploaded", uploaded)
        monkeypatch.setattr(blending, "at_hand", lambda device: not there)
        monkeypatch.setattr(Compute, "ahead", way["ahead"])
        array = np.random.default_rng(0).normal(size=(56, 32, 56)).astype(np.float32)
        result = sliding_window_inference(
            network,
            array,
            split_passes(network.class_tokens([0, 1]), 0),
            recipe,
            compute=replace(gpu, device=CPU, blend_device=CPU),
            maps=True,
            step=lambda *_: None,
        )
        return way, [*result.maps, result.best.decide([1, 2], 0.5), result.best.most_probable()]

    return run


ALL = {"batches": {2}, "fused": {True}, "blended there": True, "ahead": 1, "channels last": True, "pinned": True}
OFF: dict[str, dict[str, Any]] = {
    "channels-last": {"channels last": False},
    "batches": {"batches": {1}},
    "pinned-upload": {"pinned": False},
    "gpu-blending": {"blended there": False, "ahead": 0, "pinned": False},
    "run-ahead": {"ahead": 0},
    "fused-attention": {"fused": {False}},
}
"""How the way changes without a switch."""


def test_without_each_switch_the_same_is_found(found: Callable[[DeviceUse], tuple[dict[str, Any], list[np.ndarray]]]) -> None:
    way, expected = found(DeviceUse())
    assert way == ALL and expected[0].any() and expected[1].any()
    assert list(OFF) == DeviceUse.names()
    for name, changed in OFF.items():
        way, others = found(DeviceUse.without([name]))
        assert way == ALL | changed, name
        *maps, labels, most = zip(expected, others, strict=True)
        for one, other in [*maps, most]:
            np.testing.assert_allclose(one, other, atol=1e-3, err_msg=name)
        assert np.mean(labels[0] != labels[1]) < 1e-3, name


def test_a_buffer_is_filled_again_only_when_it_was_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that fetches a buffer only when it is waited for: what was written over too early would arrive."""
    late: list[tuple[torch.Tensor, torch.Tensor]] = []
    done: list[int] = []
    copy = torch.Tensor.copy_

    class Late(Mark):
        due = 0

        def record(self) -> None:
            self.due = len(late)

        def synchronize(self) -> None:
            for target, buffer in late[len(done) : self.due]:
                copy(target, buffer)
                done.append(len(done))

    def copying(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        return late.append((target, source)) or target if non_blocking else copy(target, source)  # type: ignore[func-returns-value]

    monkeypatch.setattr(torch.Tensor, "copy_", copying)
    marks: list[Late] = []
    volume = torch.arange(7 * 6 * 5, dtype=torch.float32).reshape(7, 6, 5)
    there = torch.full_like(volume, -1)
    made: list[torch.Tensor] = []
    options = {"pinned": lambda like: made.append(torch.empty_like(like)) or made[-1], "mark": lambda: marks.append(Late()) or marks[-1]}
    assert through_buffers(volume, there, size=2 * 6 * 5 * 4, **options) is there  # type: ignore[arg-type]
    for mark in sorted(marks, key=lambda mark: mark.due):
        mark.synchronize()
    assert torch.equal(there, volume)
    assert [buffer.shape for buffer in made] == [(2, 6, 5)] * 2 and len(late) == 4


def test_switches_reach_the_segmenter_from_command_and_worker(tiny_weights: Path) -> None:
    run = Run(CPU, lambda *_: None)
    session = Session()
    base = {"weights": str(tiny_weights), "device": "cpu"}
    one = session.segmenter(Features(**base, target="x", output="y", without=["batches", "run-ahead"]), run)
    assert one.model.use == DeviceUse(batches=False, run_ahead=False) == one.compute(1).use
    other = session.segmenter(Features(**base, target="x", output="y"), run)
    assert other.model.use == DeviceUse() and other.model is not one.model
    with pytest.raises(InputError, match="no GPU optimisation called warp.\n.*channels-last"):
        session.model(Load(**base, without=["warp"]), run)


def test_docs_explain_every_switch() -> None:
    text = (DOCS / "speed.md").read_text(encoding="utf-8")
    assert [name for name in DeviceUse.names() if f"| `{name}` |" not in text] == []


def test_a_segmenter_takes_the_switches_of_its_model(tiny_weights: Path) -> None:
    model = load_model(tiny_weights, "cpu", use=DeviceUse(fused_attention=False))
    with Segmenter(model).compute(1).autocast():
        assert not torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
