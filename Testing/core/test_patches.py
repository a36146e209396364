"""Intensities matched between scans, and patches that move a structure's surface to where the target shows it."""

import pytest
import torch
from torch import Tensor

from mass_core.alignment.fields import voxel_grid
from mass_core.alignment.intensities import IntensityMap, has_vanished, with_intensities
from mass_core.alignment.patches import with_patches
from mass_core.alignment.scan import AlignedScan

SIZE = 24
CPU = torch.device("cpu")


def ball_mm(centre: tuple[float, float, float], radius: float) -> Tensor:
    """Signed distance [D,H,W] to a ball's surface, positive inside, voxels of 1 mm."""
    return radius - (voxel_grid((SIZE,) * 3, CPU) - torch.tensor(centre).view(3, 1, 1, 1)).pow(2).sum(0).sqrt()


def rod_mm(y: float, x: float, radius: float) -> Tensor:
    grid = voxel_grid((SIZE,) * 3, CPU)
    return radius - ((grid[1] - y) ** 2 + (grid[2] - x) ** 2).sqrt()


def image(distance: Tensor, inside: float = 1.0, noise: float = 0.1) -> Tensor:
    """A bright structure with a soft edge on a dark ground, with noise."""
    return inside * torch.sigmoid(4 * distance) + noise * torch.randn(distance.shape)


def dice(one: Tensor, other: Tensor) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def scan(values: Tensor) -> AlignedScan:
    return AlignedScan(values, torch.ones(values.shape, dtype=torch.bool), torch.zeros(3), 1.0)


def test_the_map_finds_any_contrast() -> None:
    reference = torch.rand(SIZE, SIZE, SIZE)
    target = (4 * (reference - 0.5)) ** 2 - 3
    found = IntensityMap.between(target, reference, torch.ones_like(reference))
    assert found.explained > 0.99
    assert float((found(reference) - target).abs().mean()) < 0.05


@pytest.mark.parametrize("reference", [torch.zeros(SIZE, SIZE, SIZE), torch.randn(SIZE, SIZE, SIZE)], ids=["constant", "noise"])
def test_what_has_nothing_to_do_with_the_target_explains_nothing(reference: Tensor) -> None:
    target = torch.randn(SIZE, SIZE, SIZE)
    assert IntensityMap.between(target, reference, torch.ones_like(target)).explained < 0.01


def test_voxels_without_weight_do_not_count() -> None:
    reference = torch.rand(SIZE, SIZE, SIZE)
    target, weight = 2 * reference, torch.ones_like(reference)
    target[: SIZE // 2], weight[: SIZE // 2] = 100.0, 0.0
    found = IntensityMap.between(target, reference, weight)
    assert float((found(reference) - 2 * reference).abs().max()) < 0.1


def test_intensities_join_the_features_as_far_as_they_explain() -> None:
    features = torch.rand(12, SIZE, SIZE, SIZE), torch.rand(12, SIZE, SIZE, SIZE)
    related, still = torch.rand(SIZE, SIZE, SIZE), torch.zeros(3, SIZE, SIZE, SIZE)
    shares = []
    for reference in (1 - related, torch.rand(SIZE, SIZE, SIZE)):
        fixed, moving = with_intensities(features, (scan(related + 0.1 * torch.randn_like(related)), scan(reference)), still)
        assert fixed.shape == moving.shape == (13, SIZE, SIZE, SIZE)
        assert torch.equal(fixed[:12], features[0]) and torch.equal(moving[:12], features[1])
        shares.append(float((fixed[12] - moving[12]).pow(2).mean() / (features[0] - features[1]).pow(2).sum(0).mean()))
    assert 0.5 < shares[0] < 0.8 and shares[1] < 0.02


@pytest.mark.parametrize("contrast", [1.0, -2.0], ids=["alike", "inverted"])
@pytest.mark.parametrize("off", [(1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)], ids=["z", "y", "x"])
def test_a_surface_off_by_a_voxel_comes_closer(off: tuple[float, float, float], contrast: float) -> None:
    """The reference lies a voxel aside, on a known side: the structure moves to the target's, and not the other way."""
    truth = ball_mm((12, 12, 12), 5)
    aligned = ball_mm((12 + off[0], 12 + off[1], 12 + off[2]), 5)
    found = with_patches(aligned, image(truth), image(aligned, contrast), torch.ones_like(truth), (1, 1, 1), 1.5)
    before, after = dice(aligned > 0, truth > 0), dice(found > 0, truth > 0)
    assert after > before + 0.04
    centre = (found > 0).nonzero().float().mean(0) - (aligned > 0).nonzero().float().mean(0)
    assert torch.allclose(centre, -torch.tensor(off), atol=0.6)


def test_thin_structures_keep_their_volume() -> None:
    truth = rod_mm(12, 12, 1.6)
    found = with_patches(truth, image(truth, noise=0.4), image(truth, noise=0.4), torch.ones_like(truth), (1, 1, 1), 1.5)
    assert int((found > 0).sum()) == pytest.approx(int((truth > 0).sum()), rel=0.02)
    assert dice(found > 0, truth > 0) > 0.85


def test_nothing_changes_where_patches_cannot_be_compared() -> None:
    distance = ball_mm((12, 12, 12), 5)
    for reference in (torch.zeros_like(distance), torch.randn_like(distance)):
        assert torch.equal(with_patches(distance, image(distance), reference, torch.ones_like(distance), (1, 1, 1), 1.5), distance)
    unknown = torch.zeros_like(distance)
    assert torch.equal(with_patches(distance, image(distance), image(distance), unknown, (1, 1, 1), 1.5), distance)


def test_distances_far_from_the_surface_stay() -> None:
    truth, aligned = ball_mm((12, 12, 12), 8), ball_mm((12, 12, 13), 8)
    found = with_patches(aligned, image(truth), image(aligned), torch.ones_like(truth), (1, 1, 1), 1.5)
    far = aligned.abs() > 1.5
    assert torch.equal(found[far], aligned[far])
    assert not torch.equal(found[~far], aligned[~far])


def test_structures_at_the_border_and_outside() -> None:
    for distance in (ball_mm((0, 12, 23), 5), ball_mm((60, 60, 60), 5), ball_mm((12, 12, 12), 90)):
        found = with_patches(distance, image(distance), image(distance), torch.ones_like(distance), (1, 1, 1), 1.5)
        assert torch.isfinite(found).all()
        assert dice(found > 0, distance > 0) > 0.9 or not (distance > 0).any()


@pytest.mark.parametrize(
    ("reference", "target", "vanished"),
    [(1.0, 0.0, True), (1.0, 0.3, False), (1.0, -1.0, False), (0.02, 0.0, False)],
    ids=["gone", "fainter", "inverted", "faint in the reference too"],
)
def test_what_stands_out_in_the_reference_alone_has_vanished(reference: float, target: float, vanished: bool) -> None:
    distance, known = ball_mm((12, 12, 12), 5), torch.ones(SIZE, SIZE, SIZE)
    assert has_vanished(distance, image(distance, target), image(distance, reference), known, 3.0) is vanished


def test_what_is_too_small_or_unknown_is_never_said_to_have_vanished() -> None:
    small, large = ball_mm((12, 12, 12), 1), ball_mm((12, 12, 12), 5)
    known, unknown = torch.ones(SIZE, SIZE, SIZE), torch.zeros(SIZE, SIZE, SIZE)
    assert not has_vanished(small, image(small, 0.0), image(small), known, 3.0)
    assert not has_vanished(large, image(large, 0.0), image(large), unknown, 3.0)
