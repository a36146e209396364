"""Mixed precision: autocast, and for float16 the loss scale that keeps small gradients from vanishing."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch.amp import GradScaler

from mass_core.config import ModelConfig
from mass_core.errors import InputError

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Convolutions and products in the shorter format; auto: bfloat16 on CUDA, float32 elsewhere."""
    chosen = ("bfloat16" if device.type == "cuda" else "float32") if precision == "auto" else precision
    return torch.autocast(device.type, dtype=torch.float16 if chosen == "float16" else torch.bfloat16, enabled=chosen != "float32")


def scaler(precision: str, device: torch.device) -> GradScaler:
    """Multiplies losses of float16, halving its factor where gradients overflow; of other formats it changes nothing."""
    return GradScaler(device.type, enabled=precision == "float16")


def check_depth(windows: Iterable[int], model: ModelConfig, precision: str, device: torch.device) -> None:
    """Refuse features two slices deep in bfloat16 on CPUs: there PyTorch 2.13 (oneDNN 3.12) leaves parts of the gradients of a
    convolution's weights as it found them in memory. Deeper or thinner ones, other axes and other formats are right.

    Raises:
        InputError: if one of the windows, edges in voxels, leads to some.
    """
    if device.type != "cpu" or precision != "bfloat16":
        return
    for window in windows:
        if 2 in (window >> level for level in range(len(model.channels))):
            raise InputError(
                f"Views of {window} voxels lead to features 2 voxels deep, whose gradients PyTorch computes wrongly in bfloat16 on CPUs.",
                f"Set precision=float32, or choose views of at least {3 * model.stride} voxels.",
            )
