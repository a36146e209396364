"""Settings that runs of every kind share."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from mass_core.schema import check_choices, check_counts

from .tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """A whole run, of whatever kind."""

    name: str
    """Recorded in the weights."""
    batch_size: int
    """Samples per step, over all processes."""
    seed: int = 42
    """Seed of the initial weights and of all random draws."""
    workers: int = 0
    """Processes that load samples, beside each training process; 0: none."""
    log_every: int = 20
    """Steps between lines of the log."""
    save_every: int = 500
    """Steps between saved states; one is saved at the end and when the run is stopped, too."""
    keep_states: int = 2
    """The last state files kept: the newest may be damaged by what ended the run."""
    tracker: Tracker = "none"
    """Weights & Biases (wandb) or MLflow (mlflow) receives the log and the settings as well."""

    FREE: ClassVar[frozenset[str]] = frozenset(("workers", "log_every", "save_every", "keep_states", "tracker"))
    """Settings a resumed run may change."""

    def __post_init__(self) -> None:
        """Validate enumerated fields and counts."""
        check_choices(self)
        check_counts(self, "batch_size", "log_every", "save_every", "keep_states")
        check_counts(self, "seed", least=0)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, as written to `config.json`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Loss and steps of the optimiser, of pretraining and of finetuning."""

    weight_decay: float = 1e-2
    """Decoupled from the gradient."""
    clip_norm: float = 1.0
    """Largest norm of the gradients, without those of class tokens; longer ones are shortened to it."""
    ema_decay: float = 0.0
    """Decay of the averaged weights, which are validated and written; 0: they are the last ones."""
    loss: Literal["dice", "tversky"] = "dice"
    """dice: `mass_core.model.losses.mask_loss`. tversky: `tversky_loss` there, the released code's."""
    balance_power: float = 0.0
    """Positive voxels of a mask count (background / foreground) ** balance_power times in the cross-entropy."""
    most_bad_steps: int = 50
    """Steps with non-finite gradients are skipped; the run stops after this many."""

    def __post_init__(self) -> None:
        """Validate enumerated fields."""
        check_choices(self, "optim.")
