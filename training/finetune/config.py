"""The complete configuration of a finetuning run; `training.finetune_recipes` names some."""

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from mass_core.schema import check_choices, check_counts

from ..augmentation.appearance import AppearanceConfig
from ..runs.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Sampling of crops from the labelled scans."""

    foreground_share: float = 0.67
    """Share of the crops centred near a voxel of a class, all classes alike; the others lie anywhere in the scan."""
    jitter: float = 0.25
    """Most a crop's centre lies away from that voxel along each axis, in windows."""
    affine_probability: float = 0.8
    """Share of the crops that are turned, scaled and sheared."""
    rotation_degrees: float = 30.0
    """Largest angle about each axis."""
    scale: float = 0.3
    """Scale factors lie between 1 - scale and 1 / (1 - scale)."""
    shear: float = 0.1
    """Largest shear of one axis along another."""
    elastic_probability: float = 0.0
    """The paper has none; bends the crop so that one scan stands in for different bodies."""
    elastic_voxels: float = 1.5
    """Standard deviation of the control points' displacement."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """Optimiser, schedule and loss."""

    learning_rate: float = 1e-4
    """Of the network."""
    token_rate: float = 1e-4
    """Learning rate of the class tokens."""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: from epoch to epoch, down to `last_rate` after the last one."""
    last_rate: float = 1e-6
    """See `schedule`."""
    weight_decay: float = 1e-2
    """Decoupled from the gradient."""
    clip_norm: float = 1.0
    """Of the network's gradients; those of the tokens are not clipped."""
    ema_decay: float = 0.0
    """Decay of the averaged weights, which are validated and written; 0: they are the last ones."""
    loss: Literal["dice", "tversky"] = "dice"
    """dice: `losses.mask_loss`. tversky: `losses.tversky_loss`, the released code's."""
    balance_power: float = 0.0
    """See `losses.mask_loss`."""
    most_bad_steps: int = 50
    """Steps with non-finite gradients are skipped; the run stops after this many."""

    def __post_init__(self) -> None:
        """Validate enumerated fields."""
        check_choices(self, "optim.")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """A whole run."""

    name: str
    """Recorded in the weights."""
    epochs: int = 50
    """Length of the run, if it does not stop early."""
    steps_per_epoch: int = 100
    """Steps after which an epoch ends."""
    batch_size: int = 4
    """Crops of a step, of all processes together."""
    accumulate: int = 1
    """Parts in which a process computes its share of a batch, one after the other; doubled by itself where memory does not suffice."""
    patience: int = 10
    """Validations without a better result after which the run stops; 0: it never stops early."""
    validate_every: int = 1
    """Epochs between validations."""
    validate_cases: int = 8
    """The first so many scans of the split `val`."""
    references: int = 10
    """The first so many training scans from which the class tokens and the working spacing of the start come."""
    window: int = 0
    """Edge of the crops in voxels; 0: the window of the weights."""
    seed: int = 42
    """Of the draws, and of the random start of a run from scratch."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on CUDA, float32 elsewhere."""
    workers: int = 0
    """Processes that load crops, beside each training process; 0: none."""
    log_every: int = 10
    """Steps between lines of the log."""
    save_every: int = 5
    """Epochs between saved states; one is saved at the end and when the run is stopped, too."""
    keep_states: int = 1
    """The last state files kept."""
    tracker: Tracker = "none"
    """Weights & Biases (wandb) or MLflow (mlflow) hears the log and the settings as well."""
    crops: CropConfig = field(default_factory=CropConfig)
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    optim: TuneConfig = field(default_factory=TuneConfig)

    FREE: ClassVar[frozenset[str]] = frozenset(
        (
            "epochs",
            "accumulate",
            "patience",
            "validate_every",
            "validate_cases",
            "workers",
            "log_every",
            "save_every",
            "keep_states",
            "tracker",
        )
    )
    """Settings a resumed run may change."""

    def __post_init__(self) -> None:
        """Validate enumerated fields and counts."""
        check_choices(self)
        check_counts(self, "epochs", "steps_per_epoch", "batch_size", "accumulate", "validate_every", "validate_cases", "references")
        check_counts(self, "seed", least=0)
        check_counts(self, "log_every", "save_every", "keep_states")

    @property
    def steps(self) -> int:
        """Of the whole run, if it does not stop early."""
        return self.epochs * self.steps_per_epoch

    def validates(self, step: int) -> bool:
        """True if this step is followed by validation: before the first epoch, after some epochs, and after the last."""
        epoch, rest = divmod(step, self.steps_per_epoch)
        return rest == 0 and (epoch % self.validate_every == 0 or epoch == self.epochs)

    def gave_up(self, step: int, best_epoch: int) -> bool:
        """Early stopping: true if the validation Dice has not improved for `patience` validations."""
        waited = step // self.steps_per_epoch - best_epoch
        return bool(self.patience) and waited >= self.patience * self.validate_every and step < self.steps

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, as written to `config.json`."""
        return asdict(self)
