"""The complete configuration of a classifier's training, and its named recipes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from mass_core.augmentation.appearance import AppearanceConfig
from mass_core.errors import InputError
from mass_core.schema import check_counts

from ..runs.options import recipe_named
from ..runs.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(RunSettings):
    """A whole run."""

    licence: str = ""
    """Licence of the classifier, recorded in it; empty: that of the weights it starts from."""
    frozen: bool = True
    """True: only the head is trained, on features computed once. False: the encoder is trained as well."""
    random_encoder: bool = False
    """The encoder starts from random weights: the same network without pretraining, for comparison."""
    train_share: float = 1.0
    """Share of the training scans that is used; patients are drawn by the seed."""
    epochs: int = 50
    """Length of the run."""
    batch_size: int = 8
    """Scans per step, over all processes."""
    head_rate: float = 5e-4
    """Learning rate of attention pooling and linear layer."""
    encoder_rate: float = 1e-5
    """Learning rate of the encoder, if it is not frozen."""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: from epoch to epoch, down to 1e-6."""
    weight_decay: float = 1e-4
    """Decoupled from the gradient."""
    clip_norm: float = 1.0
    """Largest norm of the gradients; longer ones are shortened to it."""
    dropout: float = 0.1
    """Share of the features that is left out at random, before the linear layer."""
    class_weights: bool = True
    """Rare classes count more: by the inverse of their share, from 0.1 to 10."""
    size_zyx: tuple[int, int, int] = (96, 128, 192)
    """Size of the input in voxels; smaller scans are padded, larger ones cropped to their middle."""
    spacing_mm: float = 0.0
    """Voxel edge of the input. 0: that of the weights, or, where they choose it for each label, the finest at which nearly all training
    scans fit into the input."""
    copies: int = 0
    """With a frozen encoder: number of further copies of every training scan, with changed intensities, that give features as well."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the steps, if the encoder is trained. auto: bfloat16 on CUDA, float32 elsewhere. Features are float32 always."""
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)

    FREE: ClassVar[frozenset[str]] = RunSettings.FREE | {"licence"}

    def __post_init__(self) -> None:
        """Validate enumerated fields and counts."""
        super().__post_init__()
        check_counts(self, "epochs")
        if min(self.size_zyx) < 1:
            raise InputError(f"size_zyx is {self.size_zyx}.", "Give three numbers of voxels above 0.")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is {self.dropout}.", "Choose a share from 0 to below 1.")
        if not 0 < self.train_share <= 1:
            raise InputError(f"train_share is {self.train_share}.", "Choose a share above 0, up to 1 for all.")
        if self.spacing_mm < 0 or self.copies < 0:
            raise InputError(f"spacing_mm is {self.spacing_mm}, copies {self.copies}.", "Choose 0 or more.")


def paper() -> ClassifyConfig:
    """The paper's protocol (its section 6.4): frozen encoder, AdamW at 5e-4, 50 epochs; what it leaves open is the released code's."""
    return ClassifyConfig(name="paper")


def released() -> ClassifyConfig:
    """The released code's run: head and encoder are trained, 100 epochs with a cosine schedule."""
    return ClassifyConfig(name="released", frozen=False, epochs=100, head_rate=1e-4, encoder_rate=1e-5, schedule="cosine")


def small() -> ClassifyConfig:
    """For the bundled weights on a laptop: a small input, and a rate at which their narrow features are learned from in seconds."""
    return replace(paper(), name="small", size_zyx=(64, 64, 64), head_rate=2e-3)


def smoke() -> ClassifyConfig:
    """A minute's proof that everything connects."""
    return replace(paper(), name="smoke", epochs=3, batch_size=4, size_zyx=(32, 32, 32), head_rate=5e-3, log_every=2, save_every=4)


RECIPES: dict[str, Callable[[], ClassifyConfig]] = {"paper": paper, "released": released, "small": small, "smoke": smoke}


def named(name: str) -> ClassifyConfig:
    """The recipe called `name`.

    Raises:
        InputError: if there is none.
    """
    return recipe_named(name, RECIPES, "classification")
