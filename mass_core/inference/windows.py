"""Positions of sliding windows and the weights that blend them."""

import itertools

import torch
from torch import Tensor

from ..config import Shape


def starts(size: int, window: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis: they cover it, none is there twice, the last ends with the axis.

    Args:
        size: voxels of the axis; an axis shorter than the window has one window.
        window: voxels of the window.
        overlap: share of the window that neighbours have in common, 0 <= overlap < 1.
    """
    if size <= window:
        return [0]
    step = max(1, round(window * (1 - overlap)))
    return [*range(0, size - window, step), size - window]


def positions(shape_zyx: Shape, window_zyx: Shape, overlap: float) -> list[Shape]:
    """First voxels (z,y,x) of all windows, ordered along z, then y, then x."""
    z, y, x = (starts(size, window, overlap) for size, window in zip(shape_zyx, window_zyx, strict=True))
    return list(itertools.product(z, y, x))


def blend_weights(window_zyx: Shape, floor: float) -> Tensor:
    """Weights [D,H,W] of a window's voxels: a Gaussian of sigma = window / 8 along each axis (as in the released script), at most 1.

    Args:
        window_zyx: window in voxels.
        floor: least weight. With 0 the corners fall to 5e-11, where a volume's own corners lose probability.
    """
    axes = []
    for size in window_zyx:
        distance = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        axes.append(torch.exp(-0.5 * (distance / (size / 8)) ** 2))
    weights = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return (weights / weights.max()).clamp_min(floor)


def padded_shape(shape_zyx: Shape, window_zyx: Shape) -> Shape:
    """The shape after padding at the end of every axis that is shorter than the window."""
    z, y, x = (max(size, window) for size, window in zip(shape_zyx, window_zyx, strict=True))
    return z, y, x
