"""Image encoders of MONAI's: their levels fit the decoder, every weight learns, and they survive a weights file."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("monai", reason="MONAI is not installed: pip install '.[train]'")

from mass_core.config import ModelConfig, Recipe
from mass_core.errors import InputError, WeightsError
from mass_core.inference.segmenter import Segmenter
from mass_core.model import MASS, build_model
from mass_core.model.backbones import NAMES
from mass_core.weights.checkpoint import load_model, save_weights
from Testing.core.worker_process import scan


def tiny(encoder: str, channels: tuple[int, ...] = (8, 32, 32)) -> MASS:
    torch.manual_seed(0)
    return build_model(ModelConfig(channels=channels, stages=2, position_size=32, task_rows=0, encoder=encoder))


@pytest.mark.parametrize("encoder", NAMES)
def test_every_weight_learns(encoder: str) -> None:
    """Distributed training refuses weights that get no gradient."""
    network = tiny(encoder).train()
    image, reference = torch.randn(2, 1, 1, 16, 24, 32)
    masks = (torch.rand(1, 2, 16, 24, 32) > 0.7).float()
    logits = network(image, reference, masks)
    assert logits.shape == (1, 2, 16, 24, 32)
    torch.nn.functional.binary_cross_entropy_with_logits(logits, masks).backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []
    assert all(weight.grad.isfinite().all() for weight in network.parameters())


@pytest.mark.parametrize("encoder", ["resnet50", "swin"])
def test_levels_halve_and_have_the_channels_asked_for(encoder: str) -> None:
    channels = (4, 8, 32, 32, 32, 32)
    features = tiny(encoder, channels).encoder(torch.randn(1, 1, 64, 32, 32))
    assert [tuple(level.shape) for level in features[::-1]] == [
        (1, c, 64 >> level, 32 >> level, 32 >> level) for level, c in enumerate(channels)
    ]


@pytest.mark.parametrize("encoder", ["resnet50", "swin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_they_survive_a_weights_file(encoder: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Indices into tables of positions among them, which no 16-bit number holds."""
    network = tiny(encoder).eval()
    save_weights(tmp_path / "weights.safetensors", network, Recipe(window_zyx=(32, 32, 32)), {}, dtype=dtype)
    model = load_model(tmp_path / "weights.safetensors", "cpu")
    assert model.config.encoder == encoder
    for (name, before), after in zip(network.state_dict().items(), model.network.state_dict().values(), strict=True):
        if dtype == torch.float32 or not before.is_floating_point():
            assert torch.equal(before, after), name
        torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("encoder", ["resnet50", "swin"])
def test_they_segment(encoder: str, tmp_path: Path) -> None:
    save_weights(tmp_path / "weights.safetensors", tiny(encoder), Recipe(window_zyx=(32, 32, 32), spacing_zyx=(6.0, 6.0, 6.0)), {})
    model = load_model(tmp_path / "weights.safetensors", "cpu")
    segmenter = Segmenter(model, model.recipe.changed(modality="ct"))
    found = segmenter.segment(scan(1)[0], segmenter.encode([scan()]))
    assert found.labels.array.shape == scan(1)[0].array.shape


def test_too_many_levels_and_a_missing_library_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match="2 to 6 levels, but 7"):
        tiny("swin", (8, 32, 32, 32, 32, 32, 32))
    monkeypatch.setitem(sys.modules, "monai.networks.nets.resnet", None)
    with pytest.raises(InputError, match=r"needs monai"):
        tiny("resnet50")
