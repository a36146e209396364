"""Values that change over a run, as pure functions of the step: nothing to save, nothing to restore."""

import math

from .config import OptimConfig, RunConfig

_RISE, _START, _END = 0.05, 1 / 25, 1 / 25_000
"""One cycle: share of the steps in which the rate rises, and first and last rate over the highest (released code)."""
_BETAS = (0.95, 0.85)
"""First beta at the lowest and at the highest rate: defaults of PyTorch's OneCycleLR."""


def learning_rate(step: int, steps: int, optim: OptimConfig) -> float:
    """Linear warm-up, then polynomial decay to zero (paper section 6.4); or one cycle."""
    if optim.schedule == "one_cycle":
        return optim.learning_rate * _cycle(step, steps, _START, 1.0, _END)
    if step < optim.warmup_steps:
        return optim.learning_rate * (step + 1) / optim.warmup_steps
    left = 1 - (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    return optim.learning_rate * max(0.0, left) ** optim.decay_power


def first_beta(step: int, steps: int, optim: OptimConfig, plain: float) -> float:
    """Decay of the gradient's mean: `plain`, or with one cycle low where the rate is high."""
    return _cycle(step, steps, _BETAS[0], _BETAS[1], _BETAS[0]) if optim.schedule == "one_cycle" else plain


def _cycle(step: int, steps: int, first: float, top: float, last: float) -> float:
    """Cosine from `first` up to `top`, then down to `last`."""
    peak = max(_RISE * steps - 1, 1e-9)
    start, end, part = (first, top, step / peak) if step <= peak else (top, last, (step - peak) / max(steps - 1 - peak, 1e-9))
    return end + (start - end) * (1 + math.cos(math.pi * min(part, 1.0))) / 2


def pose_strength(step: int, warmup: int) -> float:
    """Largest difference of the poses of the two views, from 0.15 at the start to 1."""
    return min(1.0, 0.15 + 0.85 * step / max(1, warmup))


def window_at(step: int, config: RunConfig) -> int:
    """Edge of the views in voxels: small at first where the recipe says so, then that of its windows."""
    early = config.early_window and step < config.early_share * config.steps
    return config.early_window if early else config.preprocess.window_zyx[0]
