"""Image encoders made of MONAI's backbones, for the comparison of encoders (paper, table 4c).

A backbone starts at half the resolution; the level before it, which the decoder needs too, is a residual block of our own.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError, WeightsError
from .blocks import ResidualBlock

_RESNET_LAYERS = {"resnet50": (3, 4, 6, 3), "resnet152": (3, 8, 36, 3)}
"""Blocks of each layer (He et al. 2016, table 1)."""
NAMES = (*_RESNET_LAYERS, "swin")


def in_turn(modules: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """Outputs of modules, each of which is given the one before."""
    found = []
    for module in modules:
        x = module(x)
        found.append(x)
    return found


class Pyramid(nn.Module):
    """A backbone's levels and one at full resolution, brought to the channels the decoder expects.

    Args:
        backbone: maps an image to levels at a half, a quarter, .. of its resolution, finest first; its `channels` are theirs.
        in_channels: of the image.
        channels: wanted, from full resolution to the deepest level.
    """

    def __init__(self, backbone: Any, in_channels: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.stem = nn.Conv3d(in_channels, channels[0], 3, padding=1, bias=False)
        self.stem_block = ResidualBlock(channels[0], channels[0], inplace=True)
        self.backbone = backbone
        self.bridges = nn.ModuleList(nn.Conv3d(c, d, 1) for c, d in zip(backbone.channels, channels[1:], strict=True))

    def forward(self, image_B1DHW: Tensor) -> list[Tensor]:
        """Map an image [B,1,D,H,W] to its feature maps [B,C,d,h,w], deepest first."""
        levels = [bridge(level) for bridge, level in zip(self.bridges, self.backbone(image_B1DHW), strict=True)]
        return [*levels[::-1], self.stem_block(self.stem(image_B1DHW))]


class ResNetLevels(nn.Module):
    """The first levels of MONAI's 3D ResNet with bottlenecks and instance norm: batches of whole volumes are too small for batch norm."""

    def __init__(self, layers: Sequence[int], in_channels: int, levels: int, **options: Any) -> None:
        super().__init__()
        resnet = library("monai.networks.nets.resnet")
        planes = resnet.get_inplanes()
        options = {"conv1_t_stride": 2, "norm": ("instance", {"affine": True}), **options}
        whole = resnet.ResNet(resnet.ResNetBottleneck, list(layers), planes, n_input_channels=in_channels, feed_forward=False, **options)
        self.first = nn.Sequential(whole.conv1, whole.bn1, whole.act)
        self.pool = whole.maxpool
        # What no level needs is left away: distributed training refuses weights without a gradient.
        self.layers = nn.ModuleList([whole.layer1, whole.layer2, whole.layer3, whole.layer4][: levels - 1])
        self.channels = (planes[0], *(4 * c for c in planes))[:levels]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels [B,C,d,h,w], finest first."""
        finest = self.first(image)
        return [finest, *in_turn(self.layers, self.pool(finest))]


class SwinLevels(nn.Module):
    """The first levels of MONAI's Swin transformer, with the sizes of its SwinUNETR."""

    def __init__(self, in_channels: int, levels: int, width: int = 48) -> None:
        super().__init__()
        library("einops")  # which MONAI looks for when it computes only
        swin = library("monai.networks.nets.swin_unetr").SwinTransformer
        with torch.device("cpu"):  # it reads numbers while it is built, which a tensor without storage has not
            whole = swin(in_channels, width, (7, 7, 7), (2, 2, 2), depths=(2, 2, 2, 2), num_heads=(3, 6, 12, 24), spatial_dims=3)
        self.first = whole.patch_embed
        self.layers = nn.ModuleList([whole.layers1[0], whole.layers2[0], whole.layers3[0], whole.layers4[0]][: levels - 1])
        self.channels = tuple(width << level for level in range(levels))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels [B,C,d,h,w], finest first, each voxel normalised over its channels as in SwinUNETR."""
        found = [self.first(image)]
        for layer in self.layers:
            found.append(layer(found[-1].contiguous()))
        return [F.layer_norm(level.movedim(1, -1), level.shape[1:2]).movedim(-1, 1) for level in found]


def build_pyramid(name: str, in_channels: int, channels: Sequence[int]) -> Pyramid:
    """An encoder with one of MONAI's backbones.

    Args:
        name: one of `NAMES`.
        in_channels: of the image.
        channels: from full resolution to the deepest level; two to six levels.

    Raises:
        WeightsError: if the backbone has not that many levels.
        InputError: if MONAI is not installed.
    """
    levels = len(channels) - 1
    if not 1 <= levels <= 5:
        raise WeightsError(f"The encoder {name} has 2 to 6 levels, but {len(channels)} are requested.", "Set model.channels accordingly.")
    backbone: Any = SwinLevels(in_channels, levels) if name == "swin" else ResNetLevels(_RESNET_LAYERS[name], in_channels, levels)
    return Pyramid(backbone, in_channels, channels)


def library(module: str, package: str = "'mass-core[train]'") -> Any:
    """A module of a library that need not be installed.

    Args:
        module: its name.
        package: what pip installs it with.

    Raises:
        InputError: if it is not installed.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f"This image encoder needs {error.name}, which is not installed.", f"Run: pip install {package}") from error
