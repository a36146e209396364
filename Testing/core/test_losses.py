"""Losses, with values one can check by hand."""

import pytest
import torch

from mass_core.model.losses import mask_loss, tversky_loss


def masks():
    mask = torch.zeros(1, 2, 8, 8, 8)
    mask[0, 0, :4] = 1
    return mask


def test_perfect_prediction_costs_almost_nothing():
    logits = (masks() * 2 - 1) * 20
    loss, dice = mask_loss(logits, masks(), torch.full((1, 2), 256), 0.5)
    assert loss < 1e-3 and dice > 0.999


def test_overlap_by_hand():
    """Half of a mask of 256 voxels found, and 64 voxels beside it; probabilities of 0 and 1, so that Dice is a quotient of counts."""
    mask = torch.zeros(1, 1, 8, 8, 8)
    mask[..., :4, :, :] = 1
    logits = torch.full_like(mask, -40.0)
    logits[..., :2, :, :] = logits[..., 7, :, :] = 40.0
    loss, dice = mask_loss(logits, mask, torch.full((1, 1), 256), 0.0)
    overlap = (2 * 128 + 1) / (192 + 256 + 1)
    torch.testing.assert_close(dice, torch.tensor(overlap))
    torch.testing.assert_close(loss, torch.tensor(1 - overlap + 40.0 * (128 + 64) / 512))


def test_overlap_is_that_of_monai():
    """Value and gradient, at no balance and equal shares of both masks; MONAI's own is not used, for loading all of MONAI takes seconds."""
    losses = pytest.importorskip("monai.losses", reason="MONAI is not installed: pip install '.[train]'")
    logits = torch.randn(2, 2, 8, 8, 8)
    masks = (torch.randn_like(logits) > 1).float()
    gradients = []
    for ours in (True, False):
        here = logits.clone().requires_grad_()
        if ours:
            loss = mask_loss(here, masks, torch.ones(2, 2), 0.0)[0]
        else:
            entropy = torch.nn.functional.binary_cross_entropy_with_logits(here, masks)
            loss = entropy + losses.DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)(here, masks)
        loss.backward()
        gradients.append((loss.detach(), here.grad))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_empty_target_mask_still_asks_for_silence():
    """The released loss gives an empty target no gradient at all; a false structure must cost something."""
    logits = torch.zeros(1, 2, 8, 8, 8, requires_grad=True)
    loss, _ = mask_loss(logits, masks(), torch.tensor([[0, 256]]), 0.5)
    loss.backward()
    assert logits.grad[0, 1].min() > 0
    assert not logits.grad[0, 0].any()


@pytest.mark.parametrize("found", [256, 2560])
def test_a_false_structure_is_charged_by_its_size_beside_the_references(found):
    """As many voxels as the reference shows cost one half, ten times as many 10/11; both more than the voxels' cross-entropy alone."""
    logits = torch.full((1, 1, 32, 32, 32), -30.0)
    logits.view(-1)[:found] = 1e-6
    costs = [mask_loss(logits, torch.zeros_like(logits), torch.full((1, 1), float(shown)), 0.5)[0] for shown in (128, 1e12)]
    torch.testing.assert_close(costs[0] - costs[1], torch.tensor(found / 2 / (found / 2 + 128)), atol=1e-4, rtol=0)


def test_masks_the_reference_lost_are_not_charged():
    wrong = (1 - masks() * 2) * 20
    loss, _ = mask_loss(wrong, masks(), torch.zeros(1, 2), 0.5)
    assert loss == 0


@pytest.mark.parametrize("power, factor", [(0.0, 1.0), (0.5, 511**0.5), (1.0, 511.0)])
def test_rare_foreground_weighs_by_the_balance(power, factor):
    mask = torch.zeros(1, 1, 8, 8, 8)
    mask[0, 0, 0, 0, 0] = 1
    logits = torch.zeros_like(mask, requires_grad=True)
    shown = torch.ones(1, 1)
    mask_loss(logits, mask, shown, power)[0].backward()
    with_dice = logits.grad[0, 0, 0, 0, 0]
    plain = torch.zeros_like(mask, requires_grad=True)
    mask_loss(plain, mask, shown, 0.0)[0].backward()
    entropy = -0.5 / 512
    torch.testing.assert_close(with_dice - plain.grad[0, 0, 0, 0, 0], torch.tensor((factor - 1) * entropy), atol=1e-6, rtol=1e-4)


def test_tversky_by_hand():
    """Half a mask found and twice as much beside it: the weight of what is too much is 2/3."""
    masks = torch.zeros(1, 1, 4, 4, 4)
    masks[..., :2] = 1
    masks[..., 2:, :, :2] = 1
    logits = torch.full_like(masks, -40.0)
    logits[:, :, 0] = 40.0
    hit, extra, missed = 8.0, 8.0, 24.0
    share = extra / (extra + missed)
    expected = 1 - hit / (hit + share * extra + (1 - share) * missed)
    entropy = 40.0 * (extra + missed) / 64
    loss, dice = tversky_loss(logits, masks)
    torch.testing.assert_close(loss, torch.tensor(expected + entropy))
    torch.testing.assert_close(dice, torch.tensor(2 * hit / (2 * hit + extra + missed)))


def test_tversky_of_an_absent_mask_costs_one_and_teaches_by_entropy_only():
    logits = torch.full((1, 1, 4, 4, 4), -2.0, requires_grad=True)
    loss, _ = tversky_loss(logits, torch.zeros(1, 1, 4, 4, 4))
    entropy = torch.nn.functional.softplus(torch.tensor(-2.0))
    torch.testing.assert_close(loss.detach(), 1 + entropy)
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.full_like(logits, float(torch.tensor(-2.0).sigmoid()) / 64))
