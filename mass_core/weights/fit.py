"""Contents of a weights file, and the check that its tensors are those of a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import ModelConfig, Recipe
from ..encoding.task import Task
from ..errors import WeightsError


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """Contents of a weights file."""

    tensors: dict[str, Tensor]
    """Under our names."""
    config: ModelConfig
    recipe: Recipe
    provenance: dict[str, Any]
    licence: str = ""
    """Empty: unknown."""
    task: Task | None = None
    """Of a fixed-class network; not yet bound to its fingerprint."""


def check_fit(own: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path, network: str, cure: str) -> None:
    """Refuse tensors that are not exactly those of a network.

    Args:
        own: the network's.
        found: those of the file, under the network's names.
        path: of the file.
        network: what it is called in messages.
        cure: what to do about it.

    Raises:
        WeightsError: naming what is missing, unexpected or of another shape.
    """
    missing = sorted(name for name in own if name not in found)
    unexpected = sorted(name for name in found if name not in own)
    shapes = [f"{n} {tuple(v.shape)}, not {tuple(own[n].shape)}" for n, v in found.items() if n in own and v.shape != own[n].shape]
    problems = [(missing, "missing"), (unexpected, "unexpected"), (shapes, "of another shape")]
    text = "; ".join(f"{len(names)} tensors {what}: {', '.join(names[:5])}{' …' * (len(names) > 5)}" for names, what in problems if names)
    if text:
        raise WeightsError(f"{path} does not fit {network}: {text}.", cure)
