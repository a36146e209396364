"""The two views of each episode, cut out of the scans on the device."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .config import EpisodeConfig
from .data.episodes import Batch


def cut_views(batch: Batch, window: int, config: EpisodeConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
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
    count = len(batch.shapes)
    starts = batch.shapes.prod(1).cumsum(0) - batch.shapes.prod(1)
    images, masks = [], []
    for view in range(2):
        grid = _grid(window, count, batch.image.device)
        if view == 1 and config.elastic_probability:
            grid = grid + _bend(count, window, config, generator)
        affine = batch.affines[:, view]
        points = affine[:, :, :3] @ grid + affine[:, :, 3:]
        images.append(_trilinear(batch.image, points, batch.shapes, starts))
        masks.append(_bits(_nearest(batch.bits, points, batch.shapes, starts), batch.slots))
    cube = (window,) * 3
    return torch.stack(images, 1).view(count, 2, 1, *cube), torch.stack(masks, 1).view(count, 2, batch.slots, *cube)


def _grid(window: int, count: int, device: torch.device) -> Tensor:
    """[B,3,W^3] voxel indices of a view."""
    axis = torch.arange(window, device=device, dtype=torch.float32)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).flatten(1).expand(count, -1, -1)


def _bend(count: int, window: int, config: EpisodeConfig, generator: torch.Generator) -> Tensor:
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


def _nearest(flat: Tensor, points: Tensor, shapes: Tensor, starts: Tensor) -> Tensor:
    return _gather(flat, points.round().long(), shapes, starts)


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
