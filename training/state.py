"""Training state: everything a run needs to go on exactly where it stopped."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mass_core.errors import InputError
from mass_core.model import MASS


@dataclass
class State:
    """Network, its moving average, optimiser and the number of steps done; every random draw is a function of the step."""

    network: MASS
    average: MASS
    optimiser: Optimizer
    step: int = 0
    bad_steps: int = 0

    def save(self, path: Path) -> None:
        """Write atomically: a crash leaves the previous state."""
        values = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "bad_steps": self.bad_steps,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        torch.save(values, temporary)
        os.replace(temporary, path)

    def load(self, path: Path, device: torch.device) -> None:
        """Read what `save` wrote.

        Raises:
            InputError: if the file is damaged or belongs to another network.
        """
        try:
            values: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            self.network.load_state_dict(values["network"])
            self.average.load_state_dict(values["average"])
            self.optimiser.load_state_dict(values["optimiser"])
        except FileNotFoundError as error:
            raise InputError(f"There is no state to resume in {path.parent}.", "Start without --resume.") from error
        except (RuntimeError, KeyError, ValueError, EOFError) as error:
            raise InputError(f"The training state {path} cannot be resumed: {error}", "Resume with the recipe it was made with.") from error
        self.step, self.bad_steps = values["step"], values["bad_steps"]


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move `average` towards `network`."""
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)
