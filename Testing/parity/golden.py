"""The golden cases: networks and inputs drawn from a recipe, whose outputs were recorded from the released code (golden/README.md)."""

import importlib.util
from pathlib import Path
from types import ModuleType

import torch

from mass_core.config import ModelConfig
from mass_core.model import MASS, build_model
from mass_core.weights.released_keys import our_key

CONFIGS = {
    "keys_tiny.json": ModelConfig(channels=(8, 16, 32, 64, 128), task_rows=5),
    "keys_base.json": ModelConfig(),
}
SALT = "mass-open-"
TOKENS, LOGITS = 1e-4, 1e-3
"""Largest differences allowed in float32; logits reach 10."""


def recipe(data: Path) -> ModuleType:
    """The recipe of weights and inputs, of the data folder."""
    spec = importlib.util.spec_from_file_location("golden_recipe", data / "golden/recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def network(golden: ModuleType, keys: str) -> MASS:
    """The network of a table of keys."""
    model = build_model(CONFIGS[keys]).eval()
    own = model.state_dict()
    weights = {our_key(key): torch.from_numpy(value) for key, value in golden.state_dict(keys, SALT).items()}
    model.load_state_dict({key: value.reshape(own[key].shape) for key, value in weights.items()}, strict=True)
    return model
