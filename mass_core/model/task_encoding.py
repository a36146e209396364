"""Task encoding T (paper figure 2): from reference features and masks to task tokens, at one resolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import CrossAttention, ResidualMLP, SelfAttention, learned_tokens, norm_relu, voxels_as_tokens
from .interpolation import along_axis, upsampling_matrix

NORM_EPS = 1e-5


def mean_under_masks(features_BCdhw: Tensor, masks_BKDHW: Tensor) -> Tensor:
    """Mean over each mask of the features upsampled trilinearly to the masks' size, [B,K,C] in float32.

    The features are never upsampled: the mean is linear in them, so the masks are brought down to the features' size by the
    transposed upsampling, one small matrix per axis.
    """
    with torch.autocast(features_BCdhw.device.type, enabled=False):
        weights = masks_BKDHW.float()
        count = weights.sum((2, 3, 4)).clamp_min(1)[..., None]
        for axis in (2, 3, 4):
            upsampling = upsampling_matrix(masks_BKDHW.shape[axis], features_BCdhw.shape[axis], weights.device)
            weights = along_axis(upsampling.T, weights, axis)
        return (weights.flatten(2) @ voxels_as_tokens(features_BCdhw.float())) / count


def shuffle(blocks: Tensor, scale: int) -> Tensor:
    """Sub-voxels from channels into space: [B,s*s*s,d,h,w] to [B,1,d*s,h*s,w*s]."""
    batch, _, depth, height, width = blocks.shape
    split = blocks.reshape(batch, scale, scale, scale, depth, height, width)
    return split.permute(0, 4, 1, 5, 2, 6, 3).reshape(batch, 1, depth * scale, height * scale, width * scale)


def unshuffle(volume: Tensor, scale: int) -> Tensor:
    """Sub-voxels from space into channels: [B,1,D,H,W] to [B,s*s*s,D/s,H/s,W/s]; inverse of `shuffle`."""
    batch, _, depth, height, width = volume.shape
    split = volume.reshape(batch, depth // scale, scale, height // scale, scale, width // scale, scale)
    return split.permute(0, 2, 4, 6, 1, 3, 5).reshape(batch, scale**3, depth // scale, height // scale, width // scale)


class TaskBlock(nn.Module):
    """Self-attention among the tokens, cross-attention to the context, and self-attention again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.self_attention1 = SelfAttention(channels)
        self.mlp1 = ResidualMLP(channels)
        self.cross_attention = CrossAttention(channels)
        self.mlp2 = ResidualMLP(channels)
        self.self_attention2 = SelfAttention(channels)
        self.mlp3 = ResidualMLP(channels)

    def forward(self, tokens_BTC: Tensor, context_BVC: Tensor) -> Tensor:
        """Tokens [B,T,C] after reading a context [B,V,C]."""
        tokens = self.mlp1(self.self_attention1(tokens_BTC))
        tokens = self.mlp2(self.cross_attention(tokens, context_BVC))
        return self.mlp3(self.self_attention2(tokens))


class TaskEncoder(nn.Module):
    """Tokens of K masks at one resolution: learned queries that have read the reference, and the masked mean of its features.

    Args:
        channels: C of the feature map.
        scale: s, voxels of the image a feature covers along one axis.
        queries: number of learned queries.
        position_size: edge of the learned position volume in voxels.
    """

    def __init__(self, channels: int, scale: int, queries: int, position_size: int) -> None:
        super().__init__()
        self.scale = scale
        self.queries = nn.Parameter(learned_tokens(queries, channels))
        self.norm_queries = nn.LayerNorm(channels)
        self.norm_foreground = nn.LayerNorm(channels)
        self.norm_in = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(TaskBlock(channels) for _ in range(2))
        self.norm_out = nn.LayerNorm(channels)
        self.expand = nn.Conv3d(channels, scale**3, 1)
        self.merge = nn.Conv3d(2, 1, 3, padding=1)
        self.position = nn.Parameter(torch.zeros(position_size, position_size, position_size))
        self.squeeze = nn.Conv3d(scale**3, channels, 1)

    def forward(self, features_BCdhw: Tensor, masks_BKDHW: Tensor) -> Tensor:
        """Tokens [B,K,queries+1,C], the foreground token last, of features [B,C,d,h,w] and masks [B,K,D,H,W] in {0,1}."""
        batch, classes = masks_BKDHW.shape[:2]
        foreground_BKC = mean_under_masks(features_BCdhw, masks_BKDHW)
        context_NVC = voxels_as_tokens(self.context(features_BCdhw, masks_BKDHW))
        queries_BKQC = self.norm_queries(self.queries).expand(batch, classes, -1, -1)
        tokens_BKTC = self.norm_in(torch.cat([queries_BKQC, self.norm_foreground(foreground_BKC)[:, :, None]], dim=2))
        tokens_NTC = tokens_BKTC.flatten(0, 1)
        for block in self.blocks:
            tokens_NTC = block(tokens_NTC, context_NVC)
        return self.norm_out(tokens_NTC).unflatten(0, (batch, classes))

    def context(self, features_BCdhw: Tensor, masks_BKDHW: Tensor) -> Tensor:
        """Features combined with the mask at full resolution: [B*K,C,d,h,w]."""
        classes, size = masks_BKDHW.shape[1], masks_BKDHW.shape[2:]
        detail_B1DHW = shuffle(self.expand(norm_relu(features_BCdhw, NORM_EPS)), self.scale)
        masks_N1DHW = masks_BKDHW.flatten(0, 1)[:, None].to(detail_B1DHW.dtype)
        merged_N1DHW = self._merge(detail_B1DHW, masks_N1DHW, classes) + self.position[: size[0], : size[1], : size[2]]
        squeezed = self.squeeze(norm_relu(unshuffle(merged_N1DHW, self.scale), NORM_EPS))
        return squeezed + features_BCdhw.repeat_interleave(classes, dim=0)

    def _merge(self, detail_B1DHW: Tensor, masks_N1DHW: Tensor, classes: int) -> Tensor:
        """Convolution of [detail, mask] for each mask; the half that reads the detail is the same for all masks of an image."""
        weight_detail, weight_mask = self.merge.weight.split(1, dim=1)
        of_detail = F.conv3d(norm_relu(detail_B1DHW, NORM_EPS), weight_detail, self.merge.bias, padding=1)
        of_mask = F.conv3d(norm_relu(masks_N1DHW, NORM_EPS), weight_mask, padding=1)
        return of_mask + of_detail.repeat_interleave(classes, dim=0)
