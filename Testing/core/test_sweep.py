"""Sliding-window inference: batches, precision, outputs."""

from typing import Any

import numpy as np
import pytest
import torch

from mass_core.config import Recipe, recipe
from mass_core.inference.sliding_window import Wanted, split_passes, sweep
from mass_core.model.compute import Compute, choose_compute


def test_batches_do_not_change_the_result(tiny_network: Any) -> None:
    array = np.random.default_rng(0).normal(size=(40, 48, 56)).astype(np.float32)
    tokens = tiny_network.class_tokens([0, 1])
    settings = Recipe(window_zyx=(32, 32, 32))
    results = []
    for batch in (1, 3):
        compute = Compute(device=torch.device("cpu"), dtype=torch.float32, batch=batch)
        wanted = Wanted.for_recipe(settings, 2, array.size, maps=True)
        swept = sweep(tiny_network, array, split_passes(tokens, 0), settings, compute=compute, wanted=wanted, step=lambda *_: None)
        results.append(swept.maps)
    assert results[0] is not None and results[1] is not None
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


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
        wanted = Wanted(exact=False, depth=1, maps=True)
        passes = split_passes(tiny_network.class_tokens([0]), 0)
        found[skip] = sweep(tiny_network, array, passes, settings, compute=compute, wanted=wanted, step=lambda *_: None).maps[0]
    assert len(seen) == 3 + 2
    np.testing.assert_array_equal(found[True][:, :, :48], found[False][:, :, :48])
    assert found[False][:, :, 56:].any() and not found[True][:, :, 56:].any()


def test_large_volumes_keep_the_three_most_probable_labels_small_ones_all() -> None:
    """Mend 51: 104 labels of a scan of 81 million voxels take 1 GB, not 34."""
    large, small = (Wanted.for_recipe(Recipe(), 104, voxels, maps=False) for voxels in (4 * 300 * 250 * 270, 100**3))
    assert (large.depth, small.depth) == (3, 104)
    assert Wanted.for_recipe(recipe("released"), 104, 100**3, maps=False).depth == 1


def test_cpu_computes_in_float32_unless_asked(tiny_network: Any) -> None:
    for precision, dtype in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        compute = choose_compute(torch.device("cpu"), precision, tiny_network, Recipe(), 1)
        assert (compute.dtype, compute.batch) == (dtype, 1)


def test_gpu_takes_as_many_windows_as_fit(tiny_network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    batches = []
    for free in (1 << 20, 1 << 29, 1 << 37):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 1 << 37))
        compute = choose_compute(torch.device("cuda"), "auto", tiny_network, Recipe(window_zyx=(64, 64, 64)), 1)
        assert compute.dtype == torch.bfloat16
        batches.append(compute.batch)
    assert batches[0] == 1 < batches[1] < batches[2] == 8
    assert (compute.frugal().batch, compute.frugal().blend_device.type) == (1, "cpu")


def test_half_precision_is_close_and_runs_on_the_cpu(tiny_network: Any) -> None:
    array = np.random.default_rng(0).normal(size=(32, 32, 32)).astype(np.float32)
    settings, wanted = Recipe(window_zyx=(32, 32, 32)), Wanted(exact=True, depth=1, maps=True)
    maps = []
    for precision in ("float32", "bfloat16"):
        compute = choose_compute(torch.device("cpu"), precision, tiny_network, settings, 1)
        passes = split_passes(tiny_network.class_tokens([0]), 0)
        maps.append(sweep(tiny_network, array, passes, settings, compute=compute, wanted=wanted, step=lambda *_: None).maps)
    assert 0 < np.abs(maps[0][0] - maps[1][0]).max() < 0.2
