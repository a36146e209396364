"""Views cut out of scans on the device: one affine each, images trilinear, masks nearest."""

from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..config import Shape
from .batch import WORD, Batch
from .poses import PoseConfig


def cut_views(batch: Batch, window: Shape, config: PoseConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Resample every view, its masks one by one.

    Args:
        batch: on the device.
        window: of a view, in voxels.
        config: how the last view of each episode is bent.
        generator: on the device.

    Returns:
        images [B,V,1,D,H,W] float32, trilinear, zero (the mean intensity) outside the scan, and masks [B,V,K,D,H,W] uint8, nearest.
        In pretraining view 0 is the reference, view 1 the target.
    """
    images, packed = cut(batch, window, config, generator)
    return images, _bits(packed.flatten(0, 1).flatten(2), batch.slots).view(*packed.shape[:2], batch.slots, *window)


def cut(batch: Batch, window: Shape, config: PoseConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Resample every view; the last one of each episode may be bent.

    Args:
        batch: on the device.
        window: of a view, in voxels.
        config: how views are bent.
        generator: on the device.

    Returns:
        images [B,V,1,D,H,W] float32, trilinear, and the whole numbers of `bits` [B,V,words,D,H,W] int32, nearest; both 0 outside the scan.
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
        numbers.append(_nearest(batch.bits, points, shapes, starts))
    return torch.stack(images, 1).view(count, views, 1, *window), torch.stack(numbers, 1).view(count, views, -1, *window)


def _grid(window: Shape, count: int, device: torch.device) -> Tensor:
    """[B,3,D*H*W] voxel indices of a view."""
    axes = [torch.arange(size, device=device, dtype=torch.float32) for size in window]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1).expand(count, -1, -1)


def _bend(count: int, window: Shape, config: PoseConfig, generator: torch.Generator) -> Tensor:
    """[B,3,D*H*W] smooth random displacement in voxels of the view; zero for those views that draw none."""
    device = generator.device
    draw = torch.rand(count, 1, 1, 1, 1, generator=generator, device=device) < config.elastic_probability
    amount = torch.rand(count, 1, 1, 1, 1, generator=generator, device=device) * config.elastic_voxels * draw
    knots = torch.randn(count, 3, 6, 6, 6, generator=generator, device=device) * amount
    # Two upsamplings: the second smooths the creases of the first.
    smooth = interpolate(knots, size=(12, 12, 12), mode="trilinear", align_corners=True)
    return interpolate(smooth, size=window, mode="trilinear", align_corners=True).flatten(2)


def _along_axes(index: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor]:
    """For voxel indices [B,3,N] of scans of shapes [B,3], axis by axis: true inside, and what the index adds to the address."""
    size = shapes[:, :, None]
    inside = (index >= 0) & (index < size)
    strides = torch.stack([shapes[:, 1] * shapes[:, 2], shapes[:, 2], torch.ones_like(shapes[:, 2])], 1)
    return inside, index.clamp(min=0).minimum(size - 1) * strides[:, :, None]


def _nearest(words: Tensor, points: Tensor, shapes: Tensor, starts: Tensor) -> Tensor:
    """[B,words,N] numbers of the nearest voxels; zero outside."""
    inside, address = _along_axes(points.round().long(), shapes)
    where = starts[:, None] + address.sum(1)
    return torch.stack([torch.where(inside.all(1), word[where], 0) for word in words], 1)


def _trilinear(flat: Tensor, points: Tensor, shapes: Tensor, starts: Tensor) -> Tensor:
    """[B,N] float32."""
    low = points.floor()
    part = points - low
    low = low.long()
    corners = []
    for step, weight in enumerate((1 - part, part)):
        inside, address = _along_axes(low + step, shapes)
        corners.append((torch.where(inside, weight, 0), address))
    total = torch.zeros_like(points[:, 0])
    for (z_weight, z), (y_weight, y) in product(corners, repeat=2):
        weight, address = z_weight[:, 0] * y_weight[:, 1], starts[:, None] + z[:, 0] + y[:, 1]
        for x_weight, x in corners:
            total += weight * x_weight[:, 2] * flat[address + x[:, 2]]
    return total


def _bits(packed: Tensor, slots: int) -> Tensor:
    """[B,words,N] integers to [B,K,N] masks."""
    shift = torch.arange(WORD, device=packed.device, dtype=packed.dtype)[:, None]
    words = [(word[:, None] >> shift[: slots - WORD * number]) & 1 for number, word in enumerate(packed.unbind(1))]
    return torch.cat([word.to(torch.uint8) for word in words], 1)
