"""The views of each episode, cut out of the scans on the device."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .batch import Batch
from .poses import PoseConfig


def cut_views(batch: Batch, window: int, config: PoseConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Resample both views of every episode.

    Args:
        batch: on the device.
        window: edge of a view in voxels.
        config: how target views are bent.
        generator: on the device.

    Returns:
        images [B,2,1,W,W,W] float32, trilinear, zero (the mean intensity) outside the scan, and masks [B,2,K,W,W,W] uint8, nearest.
        View 0 is the reference.
    """
    images, packed = cut(batch, window, config, generator)
    return images, _bits(packed.flatten(0, 1).flatten(1), batch.slots).view(*packed.shape[:2], batch.slots, *packed.shape[3:])


def cut(batch: Batch, window: int, config: PoseConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Resample every view; the last one of each episode may be bent.

    Args:
        batch: on the device.
        window: edge of a view in voxels.
        config: how views are bent.
        generator: on the device.

    Returns:
        images [B,V,1,W,W,W] float32, trilinear, and the whole numbers of `bits` [B,V,1,W,W,W] int32, nearest; both 0 outside the scan.
    """
    count, views = batch.affines.shape[:2]
    images, numbers = [], []
    for view in range(views):
        grid = _grid(window, count, batch.image.device)
        if view == views - 1 and config.elastic_probability:
            grid = grid + _bend(count, window, config, generator)
        affine, shapes, starts = batch.affines[:, view], batch.shapes[:, view], batch.starts[:, view]
        points = affine[:, :, :3] @ grid + affine[:, :, 3:]
        images.append(_trilinear(batch.image, points, shapes, starts))
        numbers.append(_gather(batch.bits, points.round().long(), shapes, starts))  # the nearest voxel
    shape = (count, views, 1, *(window,) * 3)
    return torch.stack(images, 1).view(shape), torch.stack(numbers, 1).view(shape)


def _grid(window: int, count: int, device: torch.device) -> Tensor:
    """[B,3,W^3] voxel indices of a view."""
    axis = torch.arange(window, device=device, dtype=torch.float32)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).flatten(1).expand(count, -1, -1)


def _bend(count: int, window: int, config: PoseConfig, generator: torch.Generator) -> Tensor:
    """[B,3,W^3] smooth random displacement in voxels of the view; zero for those views that draw none."""
    device = generator.device
    draw = torch.rand(count, 1, 1, 1, 1, generator=generator, device=device) < config.elastic_probability
    amount = torch.rand(count, 1, 1, 1, 1, generator=generator, device=device) * config.elastic_voxels * draw
    knots = torch.randn(count, 3, 6, 6, 6, generator=generator, device=device) * amount
    # Two upsamplings: the second smooths the creases of the first.
    smooth = interpolate(knots, size=(12, 12, 12), mode="trilinear", align_corners=True)
    return interpolate(smooth, size=(window,) * 3, mode="trilinear", align_corners=True).flatten(2)


def _gather(flat: Tensor, index: Tensor, shapes: Tensor, starts: Tensor) -> Tensor:
    """Voxels at integer positions [B,3,N] of scans laid end to end; zero outside."""
    size = shapes[:, :, None]
    inside = ((index >= 0) & (index < size)).all(1)
    index = index.clamp(min=0).minimum(size - 1)
    z, y, x = index.unbind(1)
    address = starts[:, None] + (z * size[:, 1] + y) * size[:, 2] + x
    return torch.where(inside, flat[address], 0)


def _trilinear(flat: Tensor, points: Tensor, shapes: Tensor, starts: Tensor) -> Tensor:
    """[B,N] float32."""
    low = points.floor()
    part = points - low
    low = low.long()
    total = torch.zeros_like(points[:, 0])
    for corner in range(8):
        step = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1], device=points.device)[:, None]
        weight = torch.where(step == 1, part, 1 - part).prod(1)
        total += weight * _gather(flat, low + step, shapes, starts)
    return total


def _bits(packed: Tensor, slots: int) -> Tensor:
    """[B,N] integers to [B,K,N] masks."""
    shift = torch.arange(slots, device=packed.device, dtype=packed.dtype)[:, None]
    return ((packed[:, None] >> shift) & 1).to(torch.uint8)
