"""Appearance augmentation, with answers one can check by eye."""

import torch

from mass_core.augmentation.appearance import AppearanceConfig, _blur, _contrast, _gamma, appearance

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
