"""Image encoder E (paper figure 2): a residual U-Net's contracting path."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import WeightsError
from . import backbones, published, slabs
from .blocks import ResidualBlock


class Encoder(nn.Module):
    """Feature maps at every resolution; each level halves it and changes the number of channels."""

    def __init__(self, in_channels: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv3d(in_channels, channels[0], 3, padding=1, bias=False)
        self.stem_block = ResidualBlock(channels[0], channels[0], inplace=True)
        pairs = zip(channels, channels[1:], strict=False)
        self.levels = nn.ModuleList(nn.Sequential(ResidualBlock(c, d), ResidualBlock(d, d, inplace=True)) for c, d in pairs)

    def forward(self, image_B1DHW: Tensor) -> list[Tensor]:
        """Map an image [B,1,D,H,W] to its feature maps [B,C,d,h,w], deepest first."""
        features = [self.stem_block(self._stem(image_B1DHW))]
        for level in self.levels:
            features.insert(0, level(F.max_pool3d(features[0], 2)))
        return features

    def _stem(self, image_B1DHW: Tensor) -> Tensor:
        if slabs.apply_to(image_B1DHW):
            return slabs.per_image(lambda image: slabs.convolve(image, self.stem.weight, (1, 1, 1)), image_B1DHW)
        return self.stem(image_B1DHW)


def build_encoder(config: ModelConfig) -> nn.Module:
    """Encoder that a configuration names.

    Raises:
        WeightsError: for a name this version does not have.
        InputError: if it needs a library that is not installed.
    """
    if config.encoder == "resunet":
        return Encoder(config.in_channels, config.channels)
    if config.encoder in backbones.NAMES:
        return backbones.build_pyramid(config.encoder, config.in_channels, config.channels)
    if config.encoder in published.NAMES:
        return published.build_published(config)
    raise WeightsError(f"The weights use the image encoder {config.encoder!r}, which this version does not have.", "Update MASSSlicer.")
