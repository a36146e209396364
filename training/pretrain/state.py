"""State of pretraining, and the weights published from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mass_core.model import MASS
from mass_core.weights.checkpoint import save_weights

from ..runs.run_folder import provenance
from ..runs.sources import Source, record
from ..runs.state import Averaged
from .config import RunConfig


@dataclass
class State(Averaged[MASS]):
    """State of pretraining."""

    STATES = {"network": "network", "average": "average", "optimiser": "optimiser", "scaler": "scaler"}
    VALUES = ("bad_steps", "best")
    best: float = float("-inf")
    """Highest `val_dice` so far."""


def publish(config: RunConfig, sources: Sequence[Source], path: Path, state: State) -> None:
    """Write the averaged weights as users load them."""
    origin = provenance(config, state.step, **record(sources))
    save_weights(path, state.average, config.preprocess, origin, dtype=torch.float16, licence=config.licence)
