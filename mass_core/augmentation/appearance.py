"""Appearance augmentation, batched on the device: every image of the batch draws its own coins and strengths (paper section 7.4)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_AXES = (2, 3, 4)


@dataclass(frozen=True, kw_only=True)
class AppearanceConfig:
    """Intensity changes, each drawn per view (paper section 7.4: medium strength, probability 0.2)."""

    probability: float = 0.2
    """Of each change."""
    multiply: tuple[float, float] = (0.8, 1.3)
    """Least and largest factor of the intensities."""
    add: float = 0.15
    """Standard deviation of a shift of all intensities, in those of the normalised image."""
    gamma: tuple[float, float] = (0.8, 1.3)
    """Least and largest exponent."""
    contrast: tuple[float, float] = (0.8, 1.3)
    """Least and largest factor of the differences from the mean."""
    blur_voxels: tuple[float, float] = (0.7, 1.5)
    """Least and largest standard deviation of the blur."""
    noise: float = 0.04
    """Standard deviation of the noise, in that of the normalised image."""


def appearance(images: Tensor, config: AppearanceConfig, generator: torch.Generator) -> Tensor:
    """Change intensities, not places.

    Args:
        images: [N,1,D,H,W], z-scored.
        config: probabilities and ranges.
        generator: on the device of `images`.

    Returns:
        New images of the same shape.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(images), 1, 1, 1, 1, generator=generator, device=images.device)

    def maybe(change: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        return torch.where(uniform(0, 1) < config.probability, change(images), images)

    images = maybe(lambda x: x * uniform(*config.multiply), images)
    images = maybe(lambda x: x + config.add * _normal(x[:, :, :1, :1, :1], generator), images)
    images = maybe(lambda x: _gamma(x, uniform(*config.gamma)), images)
    images = maybe(lambda x: _contrast(x, uniform(*config.contrast)), images)
    images = maybe(lambda x: _blur(x, uniform(*config.blur_voxels)), images)
    return maybe(lambda x: x + config.noise * _normal(x, generator), images)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _gamma(images: Tensor, power: Tensor) -> Tensor:
    """Power law between each image's extremes, mean and spread kept; a constant image stays as it is."""
    low, high = images.amin(_AXES, keepdim=True), images.amax(_AXES, keepdim=True)
    mean, spread = images.mean(_AXES, keepdim=True), images.std(_AXES, keepdim=True)
    bent = ((images - low) / (high - low).clamp(min=1e-6)) ** power
    bent_spread = bent.std(_AXES, keepdim=True).clamp(min=1e-6)
    return (bent - bent.mean(_AXES, keepdim=True)) / bent_spread * spread + mean


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Stretch around the mean, clamped to the old range."""
    mean = images.mean(_AXES, keepdim=True)
    stretched = (images - mean) * factor + mean
    return stretched.clamp(min=images.amin(_AXES, keepdim=True), max=images.amax(_AXES, keepdim=True))


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a sigma per image: one matrix product per axis, rows normalised so that edges do not darken."""
    for axis in _AXES:
        size = images.shape[axis]
        offset = torch.arange(size, device=images.device, dtype=images.dtype)
        weights = torch.exp(-0.5 * ((offset[:, None] - offset) / sigma[:, 0, 0]) ** 2)
        weights = weights / weights.sum(-1, keepdim=True)
        moved = images.movedim(axis, -1)
        images = (moved.flatten(1, -2) @ weights.transpose(1, 2)).view(moved.shape).movedim(-1, axis)
    return images
