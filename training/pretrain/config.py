"""The complete configuration of a training run: frozen, nested, changed only by name."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mass_core.augmentation.appearance import AppearanceConfig
from mass_core.augmentation.poses import PoseConfig
from mass_core.config import ModelConfig, Recipe
from mass_core.errors import InputError
from mass_core.schema import check_counts

from ..runs.precision import Precision
from ..runs.settings import RunSettings, StepSettings
from .recompute import Recompute


@dataclass(frozen=True, kw_only=True)
class EpisodeConfig(PoseConfig):
    """Sampling of tasks from scans: masks, working spacing and the poses of the two views."""

    task_slots: tuple[int, ...] = (1, 2, 8, 16, 16, 16)
    """Masks of a task; one entry is drawn per step, since masks of one pass influence each other and users segment few at once."""
    extent_fraction: tuple[float, float] = (0.12, 1.0)
    """Share of the window the anchor mask's longest side fills, drawn log-uniformly: sets the working spacing."""
    spacing_limits_mm: tuple[float, float] = (0.7, 6.0)
    """Finest and coarsest working spacing."""
    reference_jitter: float = 0.08
    """Standard deviation of the reference view's centre around the anchor mask, in windows."""
    target_jitter: float = 0.25
    """The same for the target view: windows that slide over a scan seldom sit on the structure."""
    absent_share: float = 0.1
    """Share of the slots given to masks outside the target view, as negative examples."""
    overlap: float = 0.0
    """Above 0, views are laid as in the released code: the reference anywhere in the scan, the target so that crops 40 voxels wider than
    the window share this much along every axis. 0: around the anchor mask."""
    weak_reference: bool = False
    """Reference views change less than target views, as in the released code: place and intensity (`released_views`)."""
    whole_slot: bool = False
    """One mask of every task is replaced by the scan's whole extent, as in the released code."""
    far_share: float = 0.0
    """Share of the target views laid anywhere into the scan, as most windows of a whole scan are, instead of near the reference view."""
    pose_warmup: int = 1500
    """Steps over which the two views draw apart, from nearly the same pose to the full range."""
    expert_share: float = 0.0
    """Share of the tasks about structures of the label map instead of class-agnostic masks, where a scan has one."""
    pair_share: float = 0.0
    """Share of those tasks whose target view lies in another scan of the dataset that shows the structure too."""
    synthetic: tuple[str, ...] = ()
    """Datasets whose images are drawn from their label maps, anew for every task (`training.pretrain.synthetic`)."""
    along_share: float = 0.0
    """Share of the tasks anchored on a long thin mask whose views lie on any part of it, at a spacing that suits its thickness."""
    lesion_share: float = 0.0
    """Share of the tasks about artificial lesions, drawn anywhere into two scans of the dataset."""
    smallest_voxels: float = 40.0
    """Masks with fewer voxels at the working spacing are not used."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig(StepSettings):
    """Optimiser, schedule and loss."""

    optimiser: Literal["adamw", "lamb"] = "adamw"
    """Optimiser of all weights, or of those Muon does not take."""
    schedule: Literal["polynomial", "one_cycle"] = "polynomial"
    """polynomial: linear warm-up, then decay to zero. one_cycle: PyTorch's OneCycleLR, which moves the first beta as well."""
    learning_rate: float = 1e-3
    """Highest learning rate of the run."""
    muon_ratio: float = 0.0
    """Matrices are trained by Muon (`training.optimisers.muon`) at this many times the learning rate; 0: AdamW for all."""
    warmup_steps: int = 300
    """Steps over which the rate rises, polynomial schedule only."""
    decay_power: float = 0.9
    """Exponent of the polynomial decay."""
    ema_decay: float = 0.999
    balance_power: float = 0.5
    deep_weight: float = 0.0
    """Weight of the loss inside the decoder (`training.pretrain.deep_supervision`); the paper has none."""

    def __post_init__(self) -> None:
        """Validate enumerated fields."""
        super().__post_init__()
        if self.optimiser == "lamb" and self.muon_ratio:
            raise InputError(f"optim.muon_ratio is {self.muon_ratio} with LAMB.", "Muon goes with AdamW; set one of the two.")


@dataclass(frozen=True, kw_only=True)
class RunConfig(RunSettings):
    """A whole run."""

    licence: str = ""
    """Licence of the weights, recorded in them; it depends on that of the data."""
    steps: int
    """Length of the run."""
    accumulate: int = 1
    """Parts in which a process computes its share of a batch, one after the other: more need less memory and more time."""
    early_window: int = 0
    """Edge of the views in voxels while training begins; 0: the window of `preprocess` throughout. Small views cost little, and telling
    masks apart, which takes most steps, is learned on them as well."""
    early_share: float = 0.75
    """Share of the steps that use the early window."""
    precision: Precision = "auto"
    """auto: bfloat16 on CUDA, float32 elsewhere. float16 is for GPUs before NVIDIA's Ampere."""
    workers: int = 2
    validate_every: int = 0
    """Steps between validations on the labelled scans of the split `val`; 0: never."""
    validate_cases: int = 8
    """Number of validation scans of each dataset, the first ones."""
    tensorboard: bool = False
    """Write the log for TensorBoard as well."""
    recompute: Recompute = "nothing"
    """Computed again for gradients instead of kept (`training.pretrain.recompute`): activations cost little time, blocks more."""
    compile: bool = False
    """Compile the network with PyTorch first."""
    channels_last: bool = True
    """Keep channels next to each other in memory, which most devices prefer."""
    model: ModelConfig = field(default_factory=ModelConfig)
    preprocess: Recipe = field(default_factory=Recipe)
    episodes: EpisodeConfig = field(default_factory=EpisodeConfig)
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    FREE: ClassVar[frozenset[str]] = RunSettings.FREE | frozenset(
        ("steps", "licence", "accumulate", "compile", "recompute", "validate_every", "validate_cases", "tensorboard")
    )

    def __post_init__(self) -> None:
        """Validate enumerated fields and counts."""
        super().__post_init__()
        check_counts(self, "steps", "accumulate", "validate_cases")
