"""Sliding-window inference: batches, precision, outputs."""

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mass_core.config import Recipe, recipe
from mass_core.errors import DeviceError
from mass_core.inference import blending, sliding_window
from mass_core.inference.sliding_window import kept_labels, sliding_window_inference, split_passes
from mass_core.model.compute import Compute, choose_compute


def test_batches_do_not_change_the_result(tiny_network: Any) -> None:
    array = np.random.default_rng(0).normal(size=(40, 48, 56)).astype(np.float32)
    tokens = tiny_network.class_tokens([0, 1])
    settings = Recipe(window_zyx=(32, 32, 32))
    results = []
    for batch in (1, 3):
        compute = Compute(device=torch.device("cpu"), dtype=torch.float32, batch=batch)
        result = sliding_window_inference(
            tiny_network, array, split_passes(tokens, 0), settings, compute=compute, maps=True, step=lambda *_: None
        )
        results.append(result.maps)
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


def test_blending_behind_the_network_changes_nothing(tiny_network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of windows, some of them air, blended at once or one pass of the network later: the same to the bit."""
    array = np.random.default_rng(0).normal(size=(72, 40, 56)).astype(np.float32)
    array[:, :, 24:] = array[36:] = 0
    settings = Recipe(window_zyx=(32, 32, 32), overlap=0.25, skip_uniform=True)
    compute = Compute(device=torch.device("cpu"), dtype=torch.float32, batch=2)
    found = []
    for ahead in (0, 1, 3):
        monkeypatch.setattr(Compute, "ahead", ahead)
        passes, steps = split_passes(tiny_network.class_tokens([0, 1]), 0), []
        result = sliding_window_inference(
            tiny_network, array, passes, settings, compute=compute, maps=True, step=lambda *s, to=steps: to.append(s)
        )
        found.append([*result.maps, result.best.decide([1, 2], 0.5), result.best.most_probable(), np.array(steps)])
    for later in found[1:]:
        for one, other in zip(found[0], later, strict=True):
            np.testing.assert_array_equal(one, other)
    assert found[0][0].any()


def test_a_device_is_never_waited_for_between_windows(tiny_network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that holds no data, where reading a number is an error, inference runs to its end. What must be read, the boxes labels
    are seen in, is read only when the network has its next windows."""
    events: list[str] = []

    def on_its_way(flags: torch.Tensor) -> Any:
        assert flags.is_meta
        return lambda: (events.append("read"), np.ones(flags.shape, bool))[1]

    network, meta = deepcopy(tiny_network).to("meta"), torch.device("meta")
    encode = network.encode_image
    monkeypatch.setattr(network, "encode_image", lambda batch: (events.append("look"), encode(batch))[1])
    monkeypatch.setattr(blending, "on_its_way", on_its_way)
    monkeypatch.setattr(blending.TopLabels, "on_host", lambda best: best)
    monkeypatch.setattr(Compute, "ahead", 1)
    array = np.random.default_rng(0).normal(size=(48, 32, 48)).astype(np.float32)
    result = sliding_window_inference(
        network,
        array,
        split_passes(network.class_tokens([0, 1]), 0),
        Recipe(window_zyx=(32, 32, 32)),
        compute=Compute(device=meta, dtype=torch.float32, batch=1, blend_device=meta),
        step=lambda *_: None,
    )
    assert result.best.boxes == {label: ((0, 0, 0), array.shape) for label in (0, 1)}
    assert events == ["look", *["look", "read"] * 3, "read"]


def swept_maps(network: Any, settings: Recipe, compute: Compute) -> list[np.ndarray]:
    """Probabilities of two labels in noise of three rows of windows, the last portion of each a single one."""
    array = np.random.default_rng(0).normal(size=(48, 32, 48)).astype(np.float32)
    passes = split_passes(network.class_tokens([0, 1]), 1)
    return list(sliding_window_inference(network, array, passes, settings, compute=compute, maps=True, step=lambda *_: None).maps)


def test_compiled_passes_are_all_of_one_shape(tiny_network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, memory = set(), {}

    def compiled(network: Any, batch: torch.Tensor, passes: Any) -> torch.Tensor:
        """Answers in the same memory every time, as a CUDA graph does."""
        shapes.add(batch.shape)
        found = sliding_window.window_probabilities(network, batch, passes)
        return memory.setdefault("here", torch.empty_like(found)).copy_(found)

    monkeypatch.setattr(sliding_window, "compiled", lambda: compiled)
    monkeypatch.setattr(Compute, "ahead", 1)
    settings, compute = Recipe(window_zyx=(32, 32, 32)), Compute(device=torch.device("cpu"), dtype=torch.float32, batch=3, compile=True)
    found, expected = (swept_maps(tiny_network, settings, one) for one in (compute, compute.frugal()))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert shapes == {(3, 1, 32, 32, 32)}
    assert not compute.frugal().compile


@pytest.mark.slow
def test_compiled_passes_find_the_same(tiny_network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by PyTorch's compiler in one graph without a break, but run as it is."""
    traced = torch.compile(sliding_window.window_probabilities, backend="eager", dynamic=False, fullgraph=True)
    monkeypatch.setattr(sliding_window, "compiled", lambda: traced)
    settings, compute = Recipe(window_zyx=(32, 32, 32)), Compute(device=torch.device("cpu"), dtype=torch.float32, batch=3, compile=True)
    found, expected = (swept_maps(tiny_network, settings, one) for one in (compute, compute.frugal()))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_worker_keeps_kernels_beside_the_weights(tmp_path: Path) -> None:
    """It says so to PyTorch before an optimiser loads the compiler; a folder the user has set stays."""
    code = "import os, sys\nfrom mass_core.cli import main\nmain(['worker'])\nsys.stderr.write(os.environ['TORCHINDUCTOR_CACHE_DIR'])"
    for name, value, wanted in (("MASS_HOME", "home", "home/compiled"), ("TORCHINDUCTOR_CACHE_DIR", "own", "own")):
        others = {key: text for key, text in os.environ.items() if key != "TORCHINDUCTOR_CACHE_DIR"}  # PyTorch may have set it here
        environment = {**others, "MASS_HOME": str(tmp_path / "other"), name: str(tmp_path / value)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, input="", capture_output=True, text=True, check=True)
        assert done.stderr == str(tmp_path / wanted)


def test_a_compiler_that_fails_says_what_to_do(tiny_network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no C compiler was found")

    monkeypatch.setattr(sliding_window, "compiled", lambda: broken)
    compute = Compute(device=torch.device("cpu"), dtype=torch.float32, compile=True)
    with pytest.raises(DeviceError, match="no C compiler was found") as caught:
        swept_maps(tiny_network, Recipe(window_zyx=(32, 32, 32)), compute)
    assert caught.value.cure == "Leave out --compile."


def test_windows_of_air_are_not_computed(tiny_network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three windows along x the last holds a single value. The network is not asked about it, and nothing is found there."""
    array = np.full((32, 32, 80), -1, np.float32)
    array[:, :, :40] = np.random.default_rng(0).normal(size=(32, 32, 40))
    encode, seen = tiny_network.encode_image, []
    monkeypatch.setattr(tiny_network, "encode_image", lambda batch: (seen.append(len(batch)), encode(batch))[1])
    found = {}
    for skip in (False, True):
        settings = Recipe(window_zyx=(32, 32, 32), overlap=0.25, skip_uniform=skip)
        compute = Compute(device=torch.device("cpu"), dtype=torch.float32)
        passes = split_passes(tiny_network.class_tokens([0]), 0)
        found[skip] = sliding_window_inference(
            tiny_network, array, passes, settings, compute=compute, maps=True, step=lambda *_: None
        ).maps[0]
    assert len(seen) == 3 + 2
    np.testing.assert_array_equal(found[True][:, :, :48], found[False][:, :, :48])
    assert found[False][:, :, 56:].any() and not found[True][:, :, 56:].any()


def test_large_volumes_keep_the_three_most_probable_labels_small_ones_all() -> None:
    """Mend 51: 104 labels of a scan of 81 million voxels take 1 GB, not 34."""
    assert [kept_labels(Recipe(), 104, voxels) for voxels in (4 * 300 * 250 * 270, 100**3)] == [3, 104]
    assert kept_labels(recipe("released"), 104, 100**3) == 1


def test_cpu_computes_in_float32_unless_asked(tiny_network: Any) -> None:
    for precision, dtype in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        compute = choose_compute(torch.device("cpu"), precision, tiny_network, Recipe(), 1)
        assert (compute.dtype, compute.batch) == (dtype, 1)


def test_gpu_takes_as_many_windows_as_fit(tiny_network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    batches = []
    for free in (1 << 20, 1 << 29, 1 << 37):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 1 << 37))
        compute = choose_compute(torch.device("cuda"), "auto", tiny_network, Recipe(window_zyx=(64, 64, 64)), 1)
        assert compute.dtype == torch.bfloat16
        batches.append(compute.batch)
    assert batches[0] == 1 < batches[1] < batches[2] == 8
    small = choose_compute(torch.device("cuda"), "auto", tiny_network, Recipe(window_zyx=(32, 32, 32)), 1)
    assert small.batch == 64, "as many voxels"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 20, 1 << 37))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1 << 36)
    again = choose_compute(torch.device("cuda"), "auto", tiny_network, Recipe(window_zyx=(64, 64, 64)), 1)
    assert again.batch == 8, "what an earlier run left to PyTorch is free for this one"
    assert (small.ahead, small.frugal().ahead, Compute(device=torch.device("cpu"), dtype=torch.float32).ahead) == (1, 0, 0)
    assert (compute.frugal().batch, compute.frugal().blend_device.type) == (1, "cpu")


def test_half_precision_is_close_and_runs_on_the_cpu(tiny_network: Any) -> None:
    array = np.random.default_rng(0).normal(size=(32, 32, 32)).astype(np.float32)
    settings = Recipe(window_zyx=(32, 32, 32))
    maps = []
    for precision in ("float32", "bfloat16"):
        compute = choose_compute(torch.device("cpu"), precision, tiny_network, settings, 1)
        passes = split_passes(tiny_network.class_tokens([0]), 0)
        maps.append(sliding_window_inference(tiny_network, array, passes, settings, compute=compute, maps=True, step=lambda *_: None).maps)
    assert 0 < np.abs(maps[0][0] - maps[1][0]).max() < 0.2
