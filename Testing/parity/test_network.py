"""The released network's numbers, from the same weights (golden/README.md says how they came about)."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from mass_core.model import slabs

from .golden import LOGITS, SALT, TOKENS, network, recipe


@pytest.fixture(scope="module")
def golden(shared: Path) -> ModuleType:
    return recipe(shared)


def differs(ours: torch.Tensor, expected: np.ndarray) -> float:
    assert ours.shape == expected.shape
    return float(np.abs(ours.numpy() - expected).max())


@pytest.mark.parametrize("path", ["slabs", "plain"])
@pytest.mark.parametrize(
    "case", ["tiny64", "tiny_aniso", pytest.param("base64", marks=pytest.mark.slow), pytest.param("base128", marks=pytest.mark.slow)]
)
def test_same_numbers(case: str, path: str, golden: ModuleType, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "plain":  # what training, CUDA and autocast compute
        monkeypatch.setattr(slabs, "apply_to", lambda x: False)
    model = network(golden, golden.CASES[case][0])
    query, reference, masks = (torch.from_numpy(array) for array in golden.inputs(case, SALT))
    expected = np.load(shared / f"golden/{case}.npz")
    with torch.inference_mode():
        tokens = model.encode_reference(reference, masks)
        features = model.encode_image(query)
        logits = model.decode(features, tokens)
        by_number = model.decode(features, model.class_tokens([0, 2]))
    for stage, token in enumerate(tokens):
        assert differs(token, expected[f"tokens{stage}"]) < TOKENS
    assert differs(features[0][:, :, ::2, ::2, ::2], expected["encoder_deepest_every_2nd"]) < LOGITS
    assert differs(features[-1].mean((2, 3, 4)), expected["encoder_shallowest_mean"]) < TOKENS
    assert differs(logits[:, :, ::4, ::4, ::4], expected["logits_every_4th"]) < LOGITS
    assert differs(logits.mean((2, 3, 4)), expected["logits_mean"]) < TOKENS
    assert differs(by_number[:, :, ::4, ::4, ::4], expected["buffer_rows_0_2_logits_every_4th"]) < LOGITS
