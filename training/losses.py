"""What a prediction is charged for: Dice plus cross-entropy, per mask (paper equation 3)."""

import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

_dice = DiceLoss(sigmoid=True, reduction="none", smooth_nr=1.0, smooth_dr=1.0)


def mask_loss(logits: Tensor, masks: Tensor, asked: Tensor, balance_power: float) -> tuple[Tensor, Tensor]:
    """Loss of a batch of tasks.

    Args:
        logits: [B,K,D,H,W].
        masks: [B,K,D,H,W], 0 or 1.
        asked: [B,K] bool; False where the reference view lost the mask, so nothing can be asked.
        balance_power: see `OptimConfig.balance_power`.

    Returns:
        The loss to minimise, and the mean soft Dice of masks present in the target, for the log.
    """
    logits, masks = logits.float(), masks.float()
    foreground = masks.sum(dim=(2, 3, 4))
    present = asked & (foreground > 0)
    dice = _dice(logits, masks).flatten(1)
    voxels = masks[0, 0].numel()
    weight = ((voxels - foreground) / foreground.clamp(min=1)).clamp(1, 1e4) ** balance_power
    entropy = binary_cross_entropy_with_logits(logits, masks, pos_weight=weight[:, :, None, None, None], reduction="none")
    entropy = entropy.mean(dim=(2, 3, 4))
    # A mask the target does not hold has no overlap to measure: cross-entropy alone asks for silence.
    loss = _mean(entropy, asked) + _mean(dice, present)
    return loss, 1 - _mean(dice.detach(), present)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` over `where`, zero if there are none."""
    return torch.where(where, values, 0).sum() / where.sum().clamp(min=1)
