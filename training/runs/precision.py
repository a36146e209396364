"""Mixed precision: autocast, and for float16 the loss scale that keeps small gradients from vanishing."""

from typing import Literal

import torch
from torch.amp import GradScaler

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Convolutions and products in the shorter format; auto: bfloat16 on CUDA, float32 elsewhere."""
    chosen = ("bfloat16" if device.type == "cuda" else "float32") if precision == "auto" else precision
    return torch.autocast(device.type, dtype=torch.float16 if chosen == "float16" else torch.bfloat16, enabled=chosen != "float32")


def scaler(precision: str, device: torch.device) -> GradScaler:
    """Multiplies losses of float16, halving its factor where gradients overflow; of other formats it changes nothing."""
    return GradScaler(device.type, enabled=precision == "float16")
