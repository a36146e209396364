"""Named finetuning runs: each function returns the whole configuration."""

from collections.abc import Callable

from mass_core.augmentation.appearance import AppearanceConfig

from ..runs.options import recipe_named
from .config import CropConfig, FinetuneConfig, TuneConfig


def paper() -> FinetuneConfig:
    """The paper's protocol (its section 6.4): AdamW at 1e-4, 50 epochs, all weights, the best on validation kept, early stopping.

    What the paper leaves open: an epoch is 100 steps of 4 crops, the rate stays as it is, and ten epochs without progress end the run.
    """
    return FinetuneConfig(name="paper", workers=4)


def released() -> FinetuneConfig:
    """The released code's run: one rate of 5e-4 for network and tokens, cosine from epoch to epoch, crops anywhere, adaptive Tversky.

    No early stopping. The number of crops of a step is not known; four, as in its pretraining.
    """
    return FinetuneConfig(
        name="released",
        workers=4,
        patience=0,
        crops=CropConfig(foreground_share=0.0),
        appearance=AppearanceConfig(
            add=0.0, multiply=(0.8, 1.3), gamma=(0.7, 1.4), contrast=(0.7, 1.4), blur_voxels=(0.7, 1.3), noise=0.02
        ),
        optim=TuneConfig(
            learning_rate=5e-4, token_rate=5e-4, schedule="cosine", last_rate=1e-6, weight_decay=1e-3, ema_decay=0.999, loss="tversky"
        ),
    )


def small() -> FinetuneConfig:
    """For the bundled weights on a processor: minutes on one core."""
    return FinetuneConfig(
        name="small",
        epochs=10,
        steps_per_epoch=50,
        batch_size=2,
        patience=3,
        validate_every=2,
        crops=CropConfig(rotation_degrees=20.0, scale=0.25, elastic_probability=0.5),
        appearance=AppearanceConfig(probability=0.3),
        optim=TuneConfig(learning_rate=1e-3, token_rate=2e-3, schedule="cosine", ema_decay=0.98, balance_power=0.5),
    )


def smoke() -> FinetuneConfig:
    """Smoke test of a minute, on any machine."""
    return FinetuneConfig(name="smoke", epochs=2, steps_per_epoch=3, batch_size=2, validate_cases=2, log_every=1, save_every=1)


RECIPES: dict[str, Callable[[], FinetuneConfig]] = {"paper": paper, "released": released, "small": small, "smoke": smoke}
_SMALL = 20_000_000
"""Parameters up to which a network is one for processors."""


def named(name: str | None, parameters: int) -> FinetuneConfig:
    """The recipe called `name`; None: the one that suits a network of this many parameters.

    Raises:
        InputError: if there is none.
    """
    return recipe_named(name or ("small" if parameters < _SMALL else "paper"), RECIPES, "finetuning")
