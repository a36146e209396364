"""Other ways to pretrain an image encoder than by masks, beside MASS. Each is given both views of a batch and returns its loss."""

import math
from collections.abc import Sequence

import torch
from monai.losses import ContrastiveLoss
from monai.networks.blocks import UnetOutBlock, UnetrUpBlock
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mass_core.model.blocks import ResidualBlock, convolve
from mass_core.model.slabs import EPS

HIDDEN = 0.75
"""Share of the blocks a view loses (He et al. 2022, https://arxiv.org/abs/2111.06377)."""
BLOCK = 4
"""Edge of a block of `Mae` in voxels: 216 blocks in a view of 24 voxels, near the 196 patches of that paper's images."""
TEMPERATURE = 0.1
"""Of the contrast, as Chen et al. 2020 (https://arxiv.org/abs/2002.05709) found best for small batches."""
PROJECTED = 64
"""Numbers in which views are compared."""
BENT, SHUFFLED, PAINTED, OUTSIDE = 0.9, 0.5, 0.9, 0.8
"""Shares of the views whose intensities are bent, that are shuffled and painted, and of the painted ones the share painted from outside
(Zhou et al. 2021, https://arxiv.org/abs/2004.07882, and their code)."""
_CURVE = 257
"""Points of an intensity curve."""


class Reconstruction(nn.Module):
    """An encoder and a light decoder that draws an image from its levels.

    Args:
        encoder: of MASS.
        channels: feature channels from full resolution to the deepest level.
    """

    def __init__(self, encoder: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        pairs = zip(channels[::-1], channels[-2::-1], strict=False)
        self.levels = nn.ModuleList(
            UnetrUpBlock(3, deep, shallow, kernel_size=3, upsample_kernel_size=2, norm_name="instance") for deep, shallow in pairs
        )
        self.out = UnetOutBlock(3, channels[0], 1)

    def drawn(self, features: Sequence[Tensor]) -> Tensor:
        """Image [N,1,W,W,W] float32 of the encoder's levels, deepest first."""
        x, *skips = features
        for level, skip in zip(self.levels, skips, strict=True):
            x = level(x, skip)
        return self.out(x).float()


class Mae(Reconstruction):
    """Reconstructs hidden blocks; the encoder sees zeros in their place."""

    def forward(self, views_B2: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error in the hidden voxels of views [B,2,1,W,W,W]."""
        images = views_B2.flatten(0, 1)
        blocks = [side // BLOCK for side in images.shape[2:]]
        chance = torch.rand(len(images), 1, *blocks, generator=generator, device=images.device)
        hidden = interpolate((chance < HIDDEN).float(), size=images.shape[2:], mode="nearest")
        return _error(self.drawn(self.encoder(images * (1 - hidden))), images, hidden)


class S3d(Reconstruction):
    """Sparse masked modelling: SparK (Tian et al. 2023) in 3D (Wald et al. 2024).

    https://arxiv.org/abs/2301.03580, https://arxiv.org/abs/2410.23132. Hidden places stay empty at every level of the encoder: what a
    convolution lets flow into them is removed, and norms look at visible places only. Before the decoder a learned token fills them. A
    block is as large as what a deepest feature covers, so every place of every level is hidden or visible as a whole.
    """

    def __init__(self, encoder: nn.Module, channels: Sequence[int]) -> None:
        super().__init__(encoder, channels)
        self.block = 1 << (len(channels) - 1)
        self.tokens = nn.ParameterList(nn.Parameter(0.02 * torch.randn(1, c, 1, 1, 1)) for c in channels[::-1])
        self.densify = nn.ModuleList([*(nn.Conv3d(c, c, 3, padding=1) for c in channels[:0:-1]), nn.Identity()])
        self.visible = torch.ones(1)
        for block in encoder.modules():
            if isinstance(block, ResidualBlock):
                block.convolve_activated = self._convolve_activated

    def forward(self, views_B2: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error in the hidden voxels of views [B,2,1,W,W,W]."""
        images = views_B2.flatten(0, 1)
        visible = self.some_visible(images, generator)
        filled = [
            dense(torch.where(self._at(level) > 0, level, token.to(level.dtype)))
            for level, token, dense in zip(self.sparse_levels(images, visible), self.tokens, self.densify, strict=True)
        ]
        return _error(self.drawn(filled), images, 1 - visible)

    def some_visible(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """[N,1,W,W,W], 1 in a quarter of the blocks of every image, in as many of each, and 0 elsewhere."""
        blocks = [side // self.block for side in images.shape[2:]]
        order = torch.rand(len(images), math.prod(blocks), generator=generator, device=images.device).argsort(1).argsort(1)
        kept = (order >= int(HIDDEN * order.shape[1])).float().view(-1, 1, *blocks)
        return interpolate(kept, size=images.shape[2:], mode="nearest")

    def sparse_levels(self, images: Tensor, visible: Tensor) -> list[Tensor]:
        """The encoder's levels, deepest first, of what is visible; 0 in hidden places."""
        self.visible = visible
        stem = self.encoder.get_submodule("stem").register_forward_hook(lambda module, inputs, output: output * self._at(output))
        try:
            return self.encoder(images * visible)
        finally:
            stem.remove()

    def _at(self, x: Tensor) -> Tensor:
        """Mask [N,1,d,h,w] of the visible places of a level [N,C,d,h,w]."""
        step = self.visible.shape[2] // x.shape[2]
        return self.visible[:, :, ::step, ::step, ::step].to(x.dtype)

    def _convolve_activated(self, parts: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
        """As in `mass_core.model.blocks`, among visible places."""
        visible = self._at(parts[0])
        activated = [_sparse_norm_relu(part, visible) for part in parts]
        return [convolve(activated, weight) * visible for weight in weights]


def _sparse_norm_relu(x: Tensor, visible: Tensor) -> Tensor:
    """Instance norm by the statistics of visible places, and ReLU; 0 elsewhere."""
    axes, shown, values = (2, 3, 4), visible.float(), x.float()
    count = shown.sum(axes, keepdim=True)
    centred = (values - (values * shown).sum(axes, keepdim=True) / count) * shown
    variance = (centred**2).sum(axes, keepdim=True) / count
    return (centred * (variance + EPS).rsqrt()).relu().to(x.dtype)


class Genesis(Reconstruction):
    """Reconstructs a view as it was before it was bent, shuffled and painted (Models Genesis, Zhou et al. 2021)."""

    def forward(self, views_B2: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error of views [B,2,1,W,W,W]."""
        images = views_B2.flatten(0, 1)
        return ((self.drawn(self.encoder(deformed(images, generator))) - images) ** 2).mean()


def deformed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shuffle, bend and paint images [N,1,W,W,W], each by its own chance."""

    def drawn(share: float) -> Tensor:
        return torch.rand(len(images), 1, 1, 1, 1, generator=generator, device=images.device) < share

    low, high = images.amin((2, 3, 4), keepdim=True), images.amax((2, 3, 4), keepdim=True)
    changed = torch.where(drawn(SHUFFLED), shuffled(images, generator), images)
    unit = (changed - low) / (high - low).clamp(min=1e-6)
    bent = low + (high - low) * bend(unit, *curves(len(images), generator))
    changed = torch.where(drawn(BENT), bent, changed)
    noise = low + (high - low) * torch.rand(images.shape, generator=generator, device=images.device)
    outside = ~boxes(images, (3 / 7, 4 / 7), generator)
    painted = torch.where(drawn(OUTSIDE), outside, boxes(images, (1 / 6, 1 / 3), generator))
    return torch.where(drawn(PAINTED) & painted, noise, changed)


def curves(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Monotone curves from 0..1 to 0..1, places and values [count,points]: cubic Bézier curves with two random inner points.

    A curve starts at 0 and ends at 1, or the other way round. Where a Bézier curve turns back, its coordinates are sorted.
    """
    device = generator.device
    inner = torch.rand(2, count, 2, 1, generator=generator, device=device)
    t = torch.linspace(0, 1, _CURVE, device=device)
    bezier = 3 * (1 - t) ** 2 * t * inner[:, :, 0] + 3 * (1 - t) * t**2 * inner[:, :, 1] + t**3
    places, values = bezier.sort(-1).values
    falling = torch.rand(count, 1, generator=generator, device=device) < 0.5
    return places, torch.where(falling, values.flip(-1), values)


def bend(images: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Map intensities of images [N,1,D,H,W] from 0..1 along each one's curve [N,points], linearly between its points."""
    flat = images.flatten(1)
    above = torch.searchsorted(places, flat).clamp(1, places.shape[1] - 1)
    (x0, x1), (y0, y1) = ([axis.gather(1, above - 1), axis.gather(1, above)] for axis in (places, values))
    share = ((flat - x0) / (x1 - x0).clamp(min=1e-9)).clamp(0, 1)
    return (y0 + share * (y1 - y0)).view(images.shape)


def shuffled(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images [N,1,W,W,W] with the voxels of small cubes in random order; what the cubes do not cover stays.

    Cubes of a tenth of the view lie side by side, where the authors draw 10,000 at random places, one over the other.
    """
    width = images.shape[-1]
    edge = max(2, width // 10)
    side = width // edge
    part = (slice(None), slice(None), *(slice(0, side * edge),) * 3)
    cubes = images[part].unflatten(4, (side, edge)).unflatten(3, (side, edge)).unflatten(2, (side, edge))
    order = (0, 1, 2, 4, 6, 3, 5, 7)
    cubes = cubes.permute(order).flatten(5)
    chance = torch.rand(cubes.shape, generator=generator, device=images.device)
    mixed = cubes.gather(5, chance.argsort(5)).unflatten(5, (edge,) * 3)
    result = images.clone()
    result[part] = mixed.permute(*(order.index(axis) for axis in range(8))).flatten(6, 7).flatten(4, 5).flatten(2, 3)
    return result


def boxes(images: Tensor, edges: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Up to five random boxes in each of the images [N,1,W,W,W], their edges in shares of its width; where they are, [N,1,W,W,W]."""
    count, width = len(images), images.shape[-1]
    chance = torch.rand(4, count, 5, 3, generator=generator, device=generator.device)
    edge = (width * (edges[0] + (edges[1] - edges[0]) * chance[0])).round()
    margin = min(3, width // 8)
    start = (margin + (width - 2 * margin - edge) * chance[1]).round()
    there = (chance[2, :, :, 0] < 0.95).long().cumprod(1)
    there[:, 0] = 1
    axis = torch.arange(width, device=generator.device)
    z, y, x = ((axis >= start[..., None]) & (axis < (start + edge)[..., None])).unbind(2)
    inside = z[..., :, None, None] & y[..., None, :, None] & x[..., None, None, :]
    return (inside & there.bool()[..., None, None, None]).any(1, keepdim=True)


class SimClr(nn.Module):
    """Brings the two views of a scan together and pushes those of different scans apart (NT-Xent), by their deepest features' mean.

    Args:
        encoder: of MASS.
        channels: feature channels from full resolution to the deepest level.
    """

    def __init__(self, encoder: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.project = nn.Sequential(nn.Linear(channels[-1], channels[-1]), nn.ReLU(), nn.Linear(channels[-1], PROJECTED))
        self.loss = ContrastiveLoss(temperature=TEMPERATURE)

    def forward(self, views_B2: Tensor, generator: torch.Generator) -> Tensor:
        """Loss of views [B,2,1,W,W,W]; draws nothing."""
        deepest = self.encoder(views_B2.flatten(0, 1))[0].float().mean((2, 3, 4))
        projected = self.project(deepest).float().unflatten(0, (-1, 2))
        return self.loss(projected[:, 0], projected[:, 1])


def _error(drawn: Tensor, images: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error in hidden voxels."""
    return ((drawn - images) ** 2 * hidden).sum() / hidden.sum()


LEARNERS = {"mae": Mae, "simclr": SimClr, "mg": Genesis, "s3d": S3d}
