"""The pieces encoder, decoder and task encoding are made of: instance norm, residual block, attention, MLP."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import slabs

PRE_NORM_EPS = 1e-4
"""Layer norm before self-attention and MLP."""
HEAD_CHANNELS = 32
"""Channels of one attention head."""
_LARGE = 1 << 22
"""Numbers of a map [C,D,H,W] from which normalising images one by one costs less than copying them all to channels first and back: an
estimate from a GPU's bandwidth and the time it takes to start a kernel."""


def learned_tokens(*shape: int) -> Tensor:
    """Random first values of learned tokens, deviation 0.02; on the meta device, which holds no values, none are drawn.

    There the product alone would import PyTorch's compiler: a second, each time a process reads its first weights.
    """
    values = torch.empty(*shape)
    return values if values.is_meta else torch.randn_like(values) * 0.02


def norm_relu(x: Tensor, eps: float = slabs.EPS) -> Tensor:
    """Instance norm (each channel of each image on its own, no learned scale) and ReLU, [B,C,D,H,W]."""
    if x.is_cuda and x.is_contiguous(memory_format=torch.channels_last_3d) and not torch.compiler.is_compiling():
        # instance norm would copy it to channels first
        if x.shape[0] == 1:
            return F.relu(F.batch_norm(x, None, None, training=True, eps=eps), inplace=True)
        if x[0].numel() >= _LARGE and not torch.is_grad_enabled():
            return norm_relu_one_by_one(x, eps)
    return F.relu(F.instance_norm(x, eps=eps), inplace=True)


def norm_relu_one_by_one(x: Tensor, eps: float) -> Tensor:
    """`norm_relu` without gradients that keeps channels last: for one image batch norm does the same as instance norm."""
    result = torch.empty_like(x)
    for image, place in zip(x.split(1), result.split(1), strict=True):
        torch.clamp_min(F.batch_norm(image, None, None, training=True, eps=eps), 0, out=place)
    return result


def convolve(parts: Sequence[Tensor], weight: Tensor) -> Tensor:
    """3x3x3 convolution of the channel-wise concatenation of parts, without making it.

    Args:
        parts: tensors [B,C_i,D,H,W] of one size.
        weight: [C_out, sum of C_i, 3, 3, 3].
    """
    sizes = [part.shape[1] for part in parts]
    slices = weight.split(sizes, dim=1) if len(parts) > 1 else (weight,)
    total = F.conv3d(parts[0], slices[0], padding=1)
    for part, piece in zip(parts[1:], slices[1:], strict=True):
        total += F.conv3d(part, piece, padding=1)
    return total


def convolve_activated(parts: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """`convolve`, by each of the weights, of the parts after `norm_relu`."""
    activated = [norm_relu(part) for part in parts]
    return [convolve(activated, weight) for weight in weights]


class ResidualBlock(nn.Module):
    """conv(relu(norm(conv(relu(norm(x)))))) + shortcut(x), all convolutions 3x3x3 without bias.

    Where the number of channels changes, the shortcut is a convolution of the same normalised input as the first one.

    Args:
        channels_in: channels of all parts together.
        channels_out: channels of the result.
        inplace: without gradients, a block that keeps the number of channels may overwrite its input.

    Attributes:
        convolve_activated: the function of this name, or another with the same result: training has one that keeps less for the gradients.
    """

    def __init__(self, channels_in: int, channels_out: int, *, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace
        self.convolve_activated = convolve_activated
        self.conv1 = nn.Conv3d(channels_in, channels_out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv3d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv3d(channels_in, channels_out, 3, padding=1, bias=False) if channels_in != channels_out else None

    def forward(self, *parts: Tensor) -> Tensor:
        """Map parts [B,C_i,D,H,W], read as one tensor of their channels, to [B,C_out,D,H,W]."""
        if slabs.apply_to(parts[0]):
            return slabs.per_image(lambda *p: self.in_slabs([slabs.Stored(part) for part in p]), *parts)
        first = [self.conv1.weight] if self.shortcut is None else [self.conv1.weight, self.shortcut.weight]
        hidden, *shortcut = self.convolve_activated(parts, first)
        (result,) = self.convolve_activated([hidden], [self.conv2.weight])
        return result + (shortcut[0] if shortcut else parts[0])

    def in_slabs(self, sources: Sequence[slabs.Source]) -> Tensor:
        """The same for one image, of sources in the order of their channels; see `slabs`."""
        shortcut = None if self.shortcut is None else self.shortcut.weight
        return slabs.residual_block(sources, self.conv1.weight, self.conv2.weight, shortcut, inplace=self.inplace)


class Attention(nn.Module):
    """Multi-head attention with packed input projections, heads of 32 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // HEAD_CHANNELS
        self.project_in = nn.Linear(channels, 3 * channels)
        self.project_out = nn.Linear(channels, channels)

    def forward(self, query_BQC: Tensor, memory_BMC: Tensor) -> Tensor:
        """Attend from query [B,Q,C] to memory [B,M,C]; returns [B,Q,C]."""
        channels = query_BQC.shape[-1]
        weight, bias = self.project_in.weight, self.project_in.bias
        query = F.linear(query_BQC, weight[:channels], bias[:channels])
        key, value = F.linear(memory_BMC, weight[channels:], bias[channels:]).chunk(2, dim=-1)
        split = [t.unflatten(-1, (self.heads, HEAD_CHANNELS)).transpose(1, 2) for t in (query, key, value)]
        attended = F.scaled_dot_product_attention(*split)
        return self.project_out(attended.transpose(1, 2).flatten(2))


class SelfAttention(nn.Module):
    """x + attention(norm(x))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=PRE_NORM_EPS)
        self.attention = Attention(channels)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """[B,T,C] to [B,T,C]."""
        normed = self.norm(x_BTC)
        return x_BTC + self.attention(normed, normed)


class CrossAttention(nn.Module):
    """query + attention(norm(query), norm(memory))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(channels)
        self.norm_memory = nn.LayerNorm(channels)
        self.attention = Attention(channels)

    def forward(self, query_BQC: Tensor, memory_BMC: Tensor) -> Tensor:
        """[B,Q,C] reads [B,M,C]; returns [B,Q,C]."""
        return query_BQC + self.attention(self.norm_query(query_BQC), self.norm_memory(memory_BMC))


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, channels_in: int, hidden: int, channels_out: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels_in, hidden)
        self.linear2 = nn.Linear(hidden, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """[...,C_in] to [...,C_out]."""
        return self.linear2(F.gelu(self.linear1(x)))


class ResidualMLP(nn.Module):
    """x + mlp(norm(x)), four times as wide inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=PRE_NORM_EPS)
        self.mlp = MLP(channels, 4 * channels, channels)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """[B,T,C] to [B,T,C]."""
        return x_BTC + self.mlp(self.norm(x_BTC))


def voxels_as_tokens(features: Tensor) -> Tensor:
    """[B,C,D,H,W] to [B,D*H*W,C], voxels in z, y, x order."""
    return features.flatten(2).transpose(1, 2)


def tokens_as_voxels(tokens: Tensor, size: torch.Size) -> Tensor:
    """Inverse of `voxels_as_tokens` for a map of the given [D,H,W]."""
    return tokens.transpose(1, 2).unflatten(2, size)
