"""The MASS network, built from a `ModelConfig`."""

from ..config import ModelConfig
from .mass import MASS, Tokens

__all__ = ["MASS", "Tokens", "build_model"]


def build_model(config: ModelConfig) -> MASS:
    """Network with random weights."""
    return MASS(config)
