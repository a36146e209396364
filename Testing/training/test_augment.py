"""Appearance augmentation and loss, with answers one can check by eye."""

import pytest
import torch

from training.augment import _blur, _contrast, _gamma, appearance
from training.config import AppearanceConfig
from training.losses import mask_loss

NEVER, ALWAYS = AppearanceConfig(probability=0.0), AppearanceConfig(probability=1.0)


def images(count=2):
    return torch.randn(count, 1, 8, 9, 10, generator=torch.Generator().manual_seed(1))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_probability_zero_changes_nothing():
    assert torch.equal(appearance(images(), NEVER, seeded()), images())


def test_same_seed_same_images_other_seed_other_images():
    once = appearance(images(), ALWAYS, seeded(3))
    assert torch.equal(once, appearance(images(), ALWAYS, seeded(3)))
    assert not torch.equal(once, appearance(images(), ALWAYS, seeded(4)))


def test_images_of_a_batch_draw_their_own_strength():
    config = AppearanceConfig(probability=1.0, add=0.0, gamma=(1, 1), contrast=(1, 1), blur_voxels=(1e-3, 1e-3), noise=0.0)
    pair = images(1).repeat(2, 1, 1, 1, 1)
    factors = appearance(pair, config, seeded()) / pair
    assert factors[0].std() < 1e-4 and factors[1].std() < 1e-4
    assert abs(float(factors[0].mean() - factors[1].mean())) > 0.01


def test_constant_image_stays_finite():
    flat = torch.full((1, 1, 8, 8, 8), 2.0)
    assert appearance(flat, ALWAYS, seeded()).isfinite().all()


def test_gamma_one_is_identity_and_mean_and_spread_are_kept():
    torch.testing.assert_close(_gamma(images(), torch.ones(2, 1, 1, 1, 1)), images(), atol=1e-4, rtol=1e-4)
    bent = _gamma(images(), torch.full((2, 1, 1, 1, 1), 1.3))
    torch.testing.assert_close(bent.mean((2, 3, 4)), images().mean((2, 3, 4)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(bent.std((2, 3, 4)), images().std((2, 3, 4)), atol=1e-4, rtol=1e-4)


def test_contrast_never_leaves_the_old_range():
    stretched = _contrast(images(), torch.full((2, 1, 1, 1, 1), 3.0))
    assert stretched.max() <= images().max() and stretched.min() >= images().min()


def test_blur_keeps_a_flat_image_flat_to_the_edge():
    flat = torch.ones(2, 1, 8, 9, 10)
    torch.testing.assert_close(_blur(flat, torch.full((2, 1, 1, 1, 1), 1.2)), flat)


def test_blur_of_a_point_is_the_gaussian_of_its_own_sigma():
    points = torch.zeros(2, 1, 33, 33, 33)
    points[:, :, 16, 16, 16] = 1
    sigma = torch.tensor([0.7, 1.5]).view(2, 1, 1, 1, 1)
    blurred = _blur(points, sigma)
    line = blurred.sum((2, 3))[:, 0]
    variance = (line * (torch.arange(33) - 16) ** 2).sum(1)
    torch.testing.assert_close(variance, sigma.flatten() ** 2, atol=0.03, rtol=0)


def masks():
    mask = torch.zeros(1, 2, 8, 8, 8)
    mask[0, 0, :4] = 1
    return mask


def test_perfect_prediction_costs_almost_nothing():
    logits = (masks() * 2 - 1) * 20
    loss, dice = mask_loss(logits, masks(), torch.full((1, 2), 256), 0.5)
    assert loss < 1e-3 and dice > 0.999


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
