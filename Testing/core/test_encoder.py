"""The encoder as a module of its own: the numbers of the network it comes from, all parameters learn, the page's examples run."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import mass_core
from mass_core.errors import GeometryError, InputError, WeightsError
from mass_core.volumes.intensity import Intensity
from mass_core.weights.checkpoint import load_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "encoder.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_features_are_those_of_the_network_finest_first(tiny_weights: Path) -> None:
    model, encoder = load_model(tiny_weights, "cpu"), mass_core.encoder(tiny_weights)
    image = torch.randn(2, 1, *[4 * encoder.reduction] * 3)
    features, expected = encoder(image), model.network.encode_image(image)[::-1]
    assert len(features) == len(encoder.output_channels) == len(encoder.strides) and encoder.recipe == model.recipe
    for level, (found, wanted) in enumerate(zip(features, expected, strict=True)):
        assert torch.allclose(found, wanted, atol=1e-5)
        assert found.shape[1:] == (encoder.output_channels[level], *[4 * encoder.reduction >> level] * 3)
    assert features[-1].shape[-1] == 4


def test_all_parameters_learn(tiny_weights: Path) -> None:
    encoder = mass_core.encoder(tiny_weights)
    sum(level.square().mean() for level in encoder(torch.randn(1, 1, *[2 * encoder.reduction] * 3))).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in encoder.parameters())


def test_images_that_do_not_fit_are_refused(tiny_weights: Path) -> None:
    encoder = mass_core.encoder(tiny_weights)
    side = 2 * encoder.reduction
    for shape in ((1, 2, side, side, side), (1, side, side, side)):
        with pytest.raises(InputError, match=r"takes \[batch, 1, depth"):
            encoder(torch.zeros(shape))
    with pytest.raises(GeometryError, match=f"{side} x {side + 1} x {side}") as caught:
        encoder(torch.zeros(1, 1, side, side + 1, side))
    assert f"multiple of {encoder.reduction}" in caught.value.cure
    with pytest.raises(WeightsError):
        mass_core.encoder("absent.safetensors")


@pytest.mark.parametrize("modality", ["ct", "mr"])
def test_normalise_does_what_segmentation_does(modality: str, tiny_weights: Path) -> None:
    array = np.random.default_rng(0).normal(0, 700, (8, 8, 8))
    recipe = mass_core.encoder(tiny_weights).recipe
    assert np.array_equal(mass_core.normalise(array, modality, recipe), Intensity.of(array, modality, recipe).apply(array))


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_of_the_page_run(number: int) -> None:
    if "encoder.onnx" in EXAMPLES[number]:
        pytest.skip("its file comes from a command: test_export.py")
    for library in ("monai", "dynamic_network_architectures"):
        if library in EXAMPLES[number] and importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    names = {"__name__": "example"}
    exec(compile(EXAMPLES[number], f"{PAGE.name}, example {number + 1}", "exec"), names)
    assert {"encoder", "UNet"} & set(names)
