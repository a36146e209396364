"""Deep supervision of the decoder: after every fusion, features of a mask's voxels should resemble the mask's summary token.

The prediction reaches the task tokens only through the whole decoder and the classifier, and a young network first spends hundreds of
steps answering every mask of an image alike. The product of normalised features and summaries is a short way to tell masks apart from
the first step on. It adds no parameters, and the finished network runs without it.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d, layer_norm

from mass_core.model.losses import mask_loss

_GAIN = 4.0
"""Largest logit, reached where features and summary point the same way."""
_OFFSET = -1.0
"""Logit where they are unrelated: most voxels do not belong to a mask."""


class FusionWatch:
    """Keeps what each fusion of a decoder returned last, features [B,C,d,h,w] and summaries [B,K,C], until it is taken."""

    def __init__(self, fusions: nn.ModuleList) -> None:
        """Watch from now on."""
        self._caught: list[tuple[Tensor, Tensor]] = []
        for fusion in fusions:
            fusion.register_forward_hook(lambda module, inputs, output: self._caught.append(output))

    def take(self) -> list[tuple[Tensor, Tensor]]:
        """Return what was caught since the last call, deepest fusion first."""
        caught, self._caught = self._caught, []
        return caught


def deep_loss(fused: list[tuple[Tensor, Tensor]], masks: Tensor, shown: Tensor, balance_power: float) -> Tensor:
    """Sum over fusions of `mask_loss` between masks, averaged down to the fusion's resolution, and feature-summary products.

    Args:
        fused: features [B,C,d,h,w] and summaries [B,K,C] of every fusion.
        masks: [B,K,D,H,W], 0 or 1.
        shown: [B,K], see `mask_loss`.
        balance_power: see `OptimConfig.balance_power`.
    """
    total = torch.zeros((), device=masks.device)
    for features, summaries in fused:
        channels = features.shape[1]
        depth, height, width = features.shape[2:]
        normed = layer_norm(features.float().flatten(2).transpose(1, 2), (channels,))
        product = layer_norm(summaries.float(), (channels,)) @ normed.transpose(1, 2)
        logits = (product * (_GAIN / channels) + _OFFSET).unflatten(2, (depth, height, width))
        coarse = adaptive_avg_pool3d(masks.float(), (depth, height, width))
        total = total + mask_loss(logits, coarse, shown * (coarse[0, 0].numel() / masks[0, 0].numel()), balance_power)[0]
    return total
