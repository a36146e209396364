"""Per-mask loss: Dice plus binary cross-entropy (paper equation 3); false positives of absent structures count by their size."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def mask_loss(logits: Tensor, masks: Tensor, shown: Tensor, balance_power: float) -> tuple[Tensor, Tensor]:
    """Loss of a batch of tasks.

    Args:
        logits: [B,K,D,H,W].
        masks: [B,K,D,H,W], 0 or 1.
        shown: [B,K] voxels of each mask in the reference view; 0 where it lost the mask, so it does not count.
        balance_power: positive voxels of a mask count (background / foreground) ** balance_power times in the cross-entropy.

    Returns:
        The loss to minimise, and the mean soft Dice of masks present in the target, for the log.
    """
    logits, masks = logits.float(), masks.float()
    valid, foreground = shown > 0, masks.sum(dim=(2, 3, 4))
    present = valid & (foreground > 0)
    probabilities = logits.sigmoid()
    # A mask the target does not hold has no overlap to measure. Its false positives cost by their size relative to
    # the reference's: cross-entropy, a mean over many voxels, hardly notices a false structure.
    found = probabilities.sum(dim=(2, 3, 4))
    dice = 1 - (2 * (probabilities * masks).sum(dim=(2, 3, 4)) + 1) / (found + foreground + 1)
    overlap = torch.where(foreground > 0, dice, found / (found + shown.clamp(min=1)))
    weight = ((masks[0, 0].numel() - foreground) / foreground.clamp(min=1)).clamp(1, 1e4) ** balance_power
    entropy = binary_cross_entropy_with_logits(logits, masks, pos_weight=weight[:, :, None, None, None], reduction="none")
    loss = _mean(entropy.mean(dim=(2, 3, 4)), valid) + _mean(overlap, valid)
    return loss, 1 - _mean(dice.detach(), present)


def tversky_loss(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of the released code: adaptive Tversky, whose weight of false positives is their share of all errors, plus cross-entropy.

    All masks count alike. One the target does not hold costs 1 whatever is found; only cross-entropy has a gradient then.

    Args:
        logits: [B,K,D,H,W].
        masks: [B,K,D,H,W], 0 or 1.

    Returns:
        The loss to minimise, and the mean soft Dice of masks present in the target, for the log.
    """
    logits, masks = logits.float(), masks.float()
    probabilities = logits.sigmoid()
    hit, extra, missed = (
        product.sum(dim=(2, 3, 4)) for product in (probabilities * masks, probabilities * (1 - masks), (1 - probabilities) * masks)
    )
    share = (extra / (extra + missed + 1e-6)).clamp(0.2, 0.8)
    tversky = hit / (hit + share * extra + (1 - share) * missed + 1e-6)
    dice = 2 * hit / (2 * hit + extra + missed).clamp(min=1e-6)
    return 1 - tversky.mean() + binary_cross_entropy_with_logits(logits, masks), _mean(dice.detach(), hit + missed > 0)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` over `where`, zero if there are none."""
    return torch.where(where, values, 0).sum() / where.sum().clamp(min=1)
