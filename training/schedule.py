"""Values that change over a run, as pure functions of the step: nothing to save, nothing to restore."""

from .config import OptimConfig, RunConfig


def learning_rate(step: int, steps: int, optim: OptimConfig) -> float:
    """Linear warm-up, then polynomial decay to zero (paper section 6.2)."""
    if step < optim.warmup_steps:
        return optim.learning_rate * (step + 1) / optim.warmup_steps
    left = 1 - (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    return optim.learning_rate * max(0.0, left) ** optim.decay_power


def ema_decay(step: int, decay: float) -> float:
    """Decay of the averaged weights: short memory at first, so that the random start is soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


def pose_strength(step: int, warmup: int) -> float:
    """How far the two views may draw apart, 0.15 at the start to 1."""
    return min(1.0, 0.15 + 0.85 * step / max(1, warmup))


def window_at(step: int, config: RunConfig) -> int:
    """Edge of the views in voxels: small at first where the recipe says so, then that of its windows."""
    early = config.early_window and step < config.early_share * config.steps
    return config.early_window if early else config.preprocess.window_zyx[0]
