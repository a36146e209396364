"""Decoder D (paper figure 2): image features, conditioned on the task tokens, back to full resolution."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import slabs
from .blocks import MLP, ResidualBlock
from .fusion import Fusion


class UpLevel(nn.Module):
    """Doubles the resolution and joins the encoder's features of that resolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.join = ResidualBlock(channels_in + channels_out, channels_out)
        self.refine = ResidualBlock(channels_out, channels_out, inplace=True)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Join [B,C_in,d,h,w] and [B,C_out,D,H,W]; returns [B,C_out,D,H,W]."""
        if slabs.apply_to(skip):
            return self.refine(slabs.per_image(self._join_slabs, skip, coarse))
        return self.refine(self.join(skip, F.interpolate(coarse, size=skip.shape[2:], mode="trilinear", align_corners=True)))

    def _join_slabs(self, skip: Tensor, coarse: Tensor) -> Tensor:
        return self.join.in_slabs([slabs.Stored(skip), slabs.Upsampled(coarse, skip.shape[2:])])


class Decoder(nn.Module):
    """Fusion with the tokens at the deepest `stages` resolutions, one `UpLevel` between resolutions.

    Args:
        channels: feature channels from full resolution to the deepest level.
        stages: number of fusions.
        summary_token: index of the token that sums up its class after each fusion.
    """

    def __init__(self, channels: tuple[int, ...], stages: int, summary_token: int = 0) -> None:
        super().__init__()
        deepest_first = channels[::-1]
        self.fusions = nn.ModuleList(Fusion(c, summary_token) for c in deepest_first[:stages])
        self.levels = nn.ModuleList(UpLevel(c, d) for c, d in zip(deepest_first, deepest_first[1:], strict=False))

    def forward(self, features: Sequence[Tensor], tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Task-aware features [B,C,D,H,W] at full resolution and class summaries [B,K,sum of the fused channels].

        Args:
            features: encoder maps, deepest first.
            tokens: task tokens [B,K,T,C] per fusion, deepest first.
        """
        x, summaries = features[0], []
        for level in range(len(features)):
            if level > 0:
                x = self.levels[level - 1](x, features[level])
            if level < len(self.fusions):
                x, summary = self.fusions[level](x, tokens[level])
                summaries.append(summary)
        return x, torch.cat(summaries, dim=-1)


class Classifier(nn.Module):
    """Turns each class summary into one vector; a voxel's logit is the product of its feature with that vector."""

    def __init__(self, summary_channels: int, feature_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(summary_channels)
        self.mlp1 = MLP(summary_channels, summary_channels, feature_channels)
        self.mlp2 = MLP(feature_channels, feature_channels, feature_channels)

    def forward(self, features_BCDHW: Tensor, summary_BKS: Tensor) -> Tensor:
        """Logits [B,K,D,H,W]; classes are independent sigmoids, there is no background channel."""
        vectors_BKC = self.mlp2(self.mlp1(self.norm(summary_BKS)))
        return (vectors_BKC @ features_BCDHW.flatten(2)).unflatten(2, features_BCDHW.shape[2:])
