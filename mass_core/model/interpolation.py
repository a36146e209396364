"""Linear upsampling with aligned corners, written as one small matrix per axis.

As a matrix it can also be transposed (what an average after upsampling needs) and squared (what a variance needs).
"""

import torch
from torch import Tensor


def upsampling_matrix(fine: int, coarse: int, device: torch.device) -> Tensor:
    """Matrix [fine, coarse], float32, that upsamples `coarse` values to `fine` ones; the first and last values stay in place."""
    position = torch.arange(fine, device=device, dtype=torch.float32) * ((coarse - 1) / max(fine - 1, 1))
    distance = position[:, None] - torch.arange(coarse, device=device)
    return (1 - distance.abs()).clamp_min(0)


def along_axis(matrix: Tensor, values: Tensor, axis: int) -> Tensor:
    """Multiply one axis of values by a matrix [out, in]."""
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    flat = values.reshape(before.numel(), values.shape[axis], after.numel())
    return torch.matmul(matrix, flat).reshape(*before, matrix.shape[0], *after)
