"""Weights files: both formats load to the same network, and nothing unfit or unsafe loads at all."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mass_core.cli import main
from mass_core.config import ModelConfig, Recipe
from mass_core.devices import choose_device
from mass_core.errors import DeviceError, WeightsError
from mass_core.model import MASS
from mass_core.weights.checkpoint import fingerprint, load_model, save_weights
from mass_core.weights.released_keys import our_key

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def released(shared: Path) -> State:
    """A released state dict of the tiny network, from the golden recipe."""
    spec = importlib.util.spec_from_file_location("golden_recipe", shared / "golden/recipe.py")
    assert spec is not None and spec.loader is not None
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    return {key: torch.from_numpy(value) for key, value in golden.state_dict("keys_tiny.json", "mass-open-").items()}


@pytest.fixture
def pth(tmp_path: Path) -> Callable[[Any], Path]:
    """Saves an object as a `.pth`."""

    def save(content: Any, **options: Any) -> Path:
        torch.save(content, tmp_path / "weights.pth", **options)
        return tmp_path / "weights.pth"

    return save


def refused(path: Path, match: str) -> str:
    with pytest.raises(WeightsError, match=match) as caught:
        load_model(path, "cpu")
    assert caught.value.cure
    return str(caught.value)


def test_every_released_key_has_its_place(shared: Path) -> None:
    with torch.device("meta"):
        own = {name: tuple(value.shape) for name, value in MASS(ModelConfig()).state_dict().items()}
    table = json.loads((shared / "golden/keys_base.json").read_text())
    found = {our_key(key): tuple(shape[2:] if key.endswith("pos_embed.embedding") else shape) for key, shape in table.items()}
    assert found == own


def test_released_golden_numbers(released: State, pth: Callable[[Any], Path], shared: Path) -> None:
    """From file to logits."""
    expected = np.load(shared / "golden/tiny64.npz")
    model = load_model(pth({"model": released}), "cpu")
    tokens = model.network.class_tokens([0, 2])
    assert [t.shape[1:] for t in tokens] == [(2, 11, 128), (2, 11, 64), (2, 11, 32)]
    assert not model.network.training and model.config == ModelConfig(channels=(8, 16, 32, 64, 128), task_rows=5)
    assert torch.equal(model.network.encoder.stem.weight, released["encoder.inc.conv1.weight"])
    assert expected["tokens0"].shape[-1] == 128 and model.licence == "MIT"


def test_convert_keeps_the_fingerprint(released: State, pth: Callable[[Any], Path], tmp_path: Path) -> None:
    source, output = (
        pth({"model": released, "config": {"evaluation": {"window_size": [64, 48, 32], "overlap": 0.25}}}),
        tmp_path / "o.safetensors",
    )
    assert main(["weights", "convert", str(source), str(output)]) == 0
    before, after = load_model(source, "cpu"), load_model(output, "cpu")
    assert before.fingerprint == after.fingerprint
    assert before.recipe == after.recipe == Recipe(window_zyx=(64, 48, 32), overlap=0.25)
    assert after.provenance["converted_from"] == "weights" and after.licence == "MIT"
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.inference_mode():
        a, b = (model.network.segment(image, model.network.class_tokens([0])) for model in (before, after))
    assert torch.equal(a, b)


def test_fingerprint_follows_the_values(tiny_network: MASS, tiny_weights: Path) -> None:
    assert load_model(tiny_weights, "cpu").fingerprint == fingerprint(tiny_network)
    changed = MASS(tiny_network.config)
    changed.load_state_dict(tiny_network.state_dict())
    with torch.no_grad():
        changed.class_tokens0[0, 0, 0] += 1
    assert fingerprint(changed) != fingerprint(tiny_network)


def test_half_precision_files_load_as_float32(tiny_network: MASS, tiny_recipe: Recipe, tmp_path: Path) -> None:
    save_weights(tmp_path / "h.safetensors", tiny_network, tiny_recipe, {"steps": 3}, dtype=torch.float16, licence="CC0")
    assert {t.dtype for t in load_file(tmp_path / "h.safetensors").values()} == {torch.float16}
    model = load_model(tmp_path / "h.safetensors", "cpu")
    assert {t.dtype for t in model.network.state_dict().values()} == {torch.float32}
    assert (model.provenance, model.licence, model.name, model.recipe) == ({"steps": 3}, "CC0", "h", tiny_recipe)
    for name, value in tiny_network.state_dict().items():
        assert torch.allclose(model.network.state_dict()[name], value, atol=1e-3)


@pytest.mark.parametrize("key", ["ema_model", "ema_state_dict"])
def test_averaged_weights_are_preferred_unless_told(key: str, released: State, pth: Callable[[Any], Path]) -> None:
    path = pth({"model": released, key: {name: value * 2 for name, value in released.items()}, "epoch": 7})
    stem = released["encoder.inc.conv1.weight"]
    for ema, factor in ((None, 2), (True, 2), (False, 1)):
        model = load_model(path, "cpu", ema=ema)
        assert torch.equal(model.network.encoder.stem.weight, stem * factor)
        assert model.provenance["epoch"] == 7


def test_asking_for_averaged_weights_that_are_not_there(released: State, pth: Callable[[Any], Path]) -> None:
    with pytest.raises(WeightsError, match="no averaged"):
        load_model(pth({"model": released}), "cpu", ema=True)


def finetuned(state: State, factor: float = 1.0) -> dict[str, torch.Tensor]:
    """Extra content of a finetuned checkpoint of the released code: tokens of three classes for each stage."""
    return {str(stage): torch.randn(3, 11, state[f"task_prior_{stage}"].shape[-1]) * factor for stage in range(3)}


def test_released_finetuned_weights_have_fixed_classes(released: State, pth: Callable[[Any], Path], tmp_path: Path) -> None:
    """Of the averaged weights, as the released code validates them; task encoders are left out, which the file still holds."""
    plain, averaged = finetuned(released), finetuned(released, 2.0)
    path = pth(
        {
            "epoch": 7, "model_state_dict": released, "ema_state_dict": {name: value * 2 for name, value in released.items()},
            "optimizer": {}, "scheduler": {}, "best_metric": np.float64(0.8), "config": {"evaluation": {"window_size": [64, 64, 64]}},
            "model_type": "iris", "num_classes": 3, "learnable_priors": plain, "ema_learnable_priors": averaged,
        }
    )  # fmt: skip
    for ema, tokens, factor in ((None, averaged, 2), (False, plain, 1)):
        model = load_model(path, "cpu", ema=ema)
        assert model.task is not None and not model.config.task_encoding and model.config.task_rows == 3
        assert [(x.value, x.name, x.spacing_zyx) for x in model.task.labels] == [(n, f"class {n}", (1.5, 1.5, 1.5)) for n in (1, 2, 3)]
        assert torch.equal(model.network.encoder.stem.weight, released["encoder.inc.conv1.weight"] * factor)
        for stage, own in enumerate(model.task.labels[2].tokens):
            assert torch.equal(own, tokens[str(stage)][2]) and torch.equal(model.network.class_tokens([2])[stage][0, 0], own)
        assert not any(name.startswith("task_encoders") for name in model.network.state_dict())
    assert main(["weights", "convert", str(path), str(tmp_path / "ours.safetensors")]) == 0
    ours = load_model(tmp_path / "ours.safetensors", "cpu")
    assert ours.task is not None and ours.task.modality == "auto" and ours.fingerprint == load_model(path, "cpu").fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"num_classes": 4},
        {"learnable_priors": {"0": torch.zeros(3, 11, 128), "1": torch.zeros(2, 11, 64), "2": torch.zeros(3, 11, 32)}},
        {"learnable_priors": {"0": torch.zeros(3, 11)}},
        {"learnable_priors": "none"},
        {"learnable_priors": {"0": torch.zeros(3, 11, 64), "1": torch.zeros(3, 11, 64), "2": torch.zeros(3, 11, 32)}},
    ],
)
def test_released_classes_that_do_not_fit(released: State, pth: Callable[[Any], Path], change: dict[str, Any]) -> None:
    refused(pth({"model_state_dict": released, "num_classes": 3, "learnable_priors": finetuned(released), **change}), "do(es)? not fit")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_bare_wrapped_and_old_style_files(prefix: str, released: State, pth: Callable[..., Path]) -> None:
    """Without the buffers, which need not be there, and in PyTorch's format before 1.6."""
    state = {prefix + key: value for key, value in released.items() if not key.startswith("task_prior")}
    model = load_model(pth(state, _use_new_zipfile_serialization=False), "cpu")
    assert model.config.task_rows == 0
    assert torch.equal(model.network.encoder.stem.weight, released["encoder.inc.conv1.weight"])


def test_numpy_numbers_beside_the_weights_are_harmless(released: State, pth: Callable[[Any], Path]) -> None:
    path = pth({"model": released, "best_metric": np.float64(0.8), "better": np.bool_(True), "loss": np.float32(0)})
    assert torch.equal(load_model(path, "cpu").network.encoder.stem.weight, released["encoder.inc.conv1.weight"])


def test_code_in_a_file_is_not_run(released: State, pth: Callable[[Any], Path], tmp_path: Path) -> None:
    path = pth({"model": released, "optimizer": Exploit(tmp_path / "was here")})
    assert "source you trust" in refused(path, "could run code")
    assert not (tmp_path / "was here").exists()


class Exploit:
    """Content of a hostile checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_missing_unexpected_and_misshapen_tensors_are_named(released: State, pth: Callable[[Any], Path]) -> None:
    state = {key: value for key, value in released.items() if key != "out.norm.bias"}
    state |= {"out.norm.weight": torch.zeros(3), "head.extra": torch.zeros(1)}
    text = refused(pth({"model": state}), "does not fit")
    assert "1 tensors missing: classifier.norm.bias" in text
    assert "1 tensors unexpected: head.extra" in text
    assert "classifier.norm.weight (3,), not (224,)" in text


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"conv.weight": torch.zeros(2)}, "another network: there is no 'encoder.stem.weight'"),
        ({"epoch": 3}, "holds no weights; its entries are epoch"),
        (torch.zeros(2), "holds a Tensor"),
    ],
)
def test_other_content(content: Any, match: str, pth: Callable[[Any], Path]) -> None:
    refused(pth(content), match)


def test_variants_the_released_code_could_train(released: State, pth: Callable[[Any], Path]) -> None:
    refused(pth({"model": released, "config": {"model": {"scale": [2, 2, 2, 2], "block": "Bottleneck"}}}), "block Bottleneck")


@pytest.mark.parametrize("evaluation", [{"window_size": "large"}, {"window_size": [64, 64]}, {"overlap": None}])
def test_unusable_evaluation_settings(evaluation: dict[str, Any], released: State, pth: Callable[[Any], Path]) -> None:
    refused(pth({"model": released, "config": {"evaluation": evaluation}}), "evaluation settings")


@pytest.mark.parametrize("size", [0, 7, 3000, 100_000])
def test_broken_off_files(size: int, released: State, pth: Callable[[Any], Path], tiny_weights: Path, tmp_path: Path) -> None:
    whole = pth({"model": released}).read_bytes()
    (tmp_path / "weights.pth").write_bytes(whole[:size])
    refused(tmp_path / "weights.pth", "damaged|not a weights file")
    (tmp_path / "part.safetensors").write_bytes(tiny_weights.read_bytes()[:size])
    refused(tmp_path / "part.safetensors", "damaged")


def test_a_page_instead_of_weights(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_text("<html>Sign in</html>")
    refused(tmp_path / "weights.pth", "begins with b'<html>")


def test_safetensors_of_others_and_of_the_future(tiny_weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    refused(path, "does not name a MASS network")
    save_file({"a": torch.zeros(1)}, path, {"mass": json.dumps({"format": 99})})
    assert "Update" in refused(path, "format version 99")
    save_file({"a": torch.zeros(1)}, path, {"mass": json.dumps({"format": 1, "model": {"depth": 3}, "preprocess": {}})})
    refused(path, "settings unknown to this version: depth")


def test_a_loaded_network_is_frozen_until_it_is_told_to_learn(tiny_weights: Path) -> None:
    network = load_model(tiny_weights, "cpu").network
    assert not network.training and not any(weight.requires_grad for weight in network.parameters())
    assert all(weight.requires_grad for weight in network.requires_grad_(True).train().parameters())
    assert load_model.__doc__ and "parameters frozen" in load_model.__doc__


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "absent.pth", "no weights")
    refused(tmp_path, "is a folder")
    assert "mass weights download mass_base" in refused(Path("mass_base"), "not on this computer")


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}
    for name, present in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
        if not present:
            with pytest.raises(DeviceError, match=name):
                choose_device(name)
    with pytest.raises(DeviceError, match="toaster"):
        choose_device("toaster")
    with pytest.raises(DeviceError):
        choose_device("cuda:99")
