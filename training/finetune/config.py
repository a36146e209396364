"""The complete configuration of a finetuning run; `training.finetune.recipes` names some."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mass_core.augmentation.appearance import AppearanceConfig
from mass_core.augmentation.poses import PoseConfig
from mass_core.schema import check_counts

from ..runs.settings import RunSettings, StepSettings


@dataclass(frozen=True, kw_only=True)
class CropConfig(PoseConfig):
    """Sampling of crops from the labelled scans."""

    foreground_share: float = 0.67
    """Share of the crops centred near a voxel of a class, all classes alike; the others lie anywhere in the scan."""
    jitter: float = 0.25
    """Most a crop's centre lies away from that voxel along each axis, in windows."""
    elastic_voxels: float = 1.5


@dataclass(frozen=True, kw_only=True)
class TuneConfig(StepSettings):
    """Optimiser, schedule and loss."""

    learning_rate: float = 1e-4
    """Learning rate of the network."""
    token_rate: float = 1e-4
    """Learning rate of the class tokens."""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: from epoch to epoch, down to `last_rate` after the last one."""
    last_rate: float = 1e-6
    """See `schedule`."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunSettings):
    """A whole run."""

    epochs: int = 50
    """Length of the run, if it does not stop early."""
    steps_per_epoch: int = 100
    """Steps after which an epoch ends."""
    batch_size: int = 4
    """Crops per step, over all processes."""
    accumulate: int = 1
    """Parts in which a process computes its share of a batch, one after the other; doubled automatically where memory does not suffice."""
    patience: int = 10
    """Validations without a better result after which the run stops (early stopping); 0: never."""
    validate_every: int = 1
    """Epochs between validations."""
    validate_cases: int = 8
    """Number of validation scans: the first ones of the split `val`."""
    references: int = 10
    """Number of training scans, the first ones, that give the initial class tokens and the working spacing."""
    window: int = 0
    """Edge of the crops in voxels; 0: the window of the weights."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on CUDA, float32 elsewhere."""
    log_every: int = 10
    save_every: int = 5
    """Epochs between saved states; one is saved at the end and when the run is stopped, too."""
    keep_states: int = 1
    crops: CropConfig = field(default_factory=CropConfig)
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    optim: TuneConfig = field(default_factory=TuneConfig)

    FREE: ClassVar[frozenset[str]] = RunSettings.FREE | {"epochs", "accumulate", "patience", "validate_every", "validate_cases"}

    def __post_init__(self) -> None:
        """Validate enumerated fields and counts."""
        super().__post_init__()
        check_counts(self, "epochs", "steps_per_epoch", "accumulate", "validate_every", "validate_cases", "references")

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
