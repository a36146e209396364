"""MASS: in-context segmentation of medical images.

Importing this package costs nothing: each public name is loaded when it is first used (PEP 562).
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "MassError": "errors",
    "Cancelled": "errors",
    "ModelConfig": "config",
    "Recipe": "config",
    "recipe": "config",
    "Geometry": "volumes.volume",
    "Volume": "volumes.volume",
    "MaskSet": "masks.mask_set",
    "load_model": "weights.checkpoint",
    "encoder": "weights.encoder",
    "normalise": "volumes.intensity",
    "Task": "encoding.task",
    "Segmentation": "inference.segmenter",
    "Segmenter": "inference.segmenter",
    "load_classifier": "inference.classifier",
    "classify": "inference.classifier",
    "assess": "evaluation.quality",
    "look": "inference.features",
    "Steps": "progress",
    "Client": "worker.client",
    "LocalClient": "worker.transport",
    "SshTransport": "remote.ssh",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
