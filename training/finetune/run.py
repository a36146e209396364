"""Everything a finetuning run works with, and the weights it writes."""

from dataclasses import dataclass
from pathlib import Path

import torch

from mass_core.encoding.task import Task
from mass_core.weights.checkpoint import Model, save_weights

from ..runs.distributed import ProcessGroup
from ..runs.run_folder import provenance
from .cases import Cohort
from .config import FinetuneConfig
from .fixed_classes import Tuning
from .reporting import FinetuneProgress


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything constant over a run."""

    config: FinetuneConfig
    model: Model
    """Weights to finetune."""
    task: Task
    """The classes, encoded with it."""
    cohort: Cohort
    output: Path
    """The run's folder."""
    group: ProcessGroup
    report: FinetuneProgress
    scratch: bool = False
    """Start from random weights."""

    @property
    def window(self) -> int:
        """Edge of the crops in voxels."""
        return self.config.window or self.model.recipe.window_zyx[0]

    def publish(self, name: str, state: Tuning) -> None:
        """Write the averaged weights into the run's folder, as users load them; only the leading process does."""
        if not self.group.leads:
            return
        origin = provenance(
            self.config,
            state.step,
            finetuned_from=None if self.scratch else self.model.name,
            fingerprint=self.model.fingerprint,
            data=self.cohort.dataset.name,
            training_scans=len(self.cohort.planes),
            val_dice=state.scores.get("val_dice"),
        )
        licence = "" if self.scratch else self.model.licence  # from chance, only the data's licence counts
        network, learned = state.average.network, state.average.learned(self.task)
        save_weights(self.output / name, network, self.task.recipe, origin, dtype=torch.float16, licence=licence, task=learned)
