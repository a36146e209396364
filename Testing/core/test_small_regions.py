"""Holes and specks of masks: sizes that can be counted."""

import numpy as np
import pytest
import torch

from mass_core.masks.slicewise.small_regions import small_regions, without_small_regions


def drawing() -> torch.Tensor:
    """Logits 5 inside, -5 outside: a frame of 8 x 8 with holes of 1, 4 and, through a corner, 2 pixels; specks of 1 and 6 beside it."""
    mask = np.zeros((12, 20), bool)
    mask[2:10, 2:10] = True
    mask[3, 3] = mask[5, 5] = mask[6, 6] = False
    mask[7:9, 3:5] = False
    mask[0, 19] = True
    mask[4:6, 14:17] = True
    return torch.tensor(np.where(mask, 5.0, -5.0), dtype=torch.float32)


@pytest.mark.parametrize(
    ("holes", "specks", "gained", "lost"), [(0, 0, 0, 0), (1, 0, 1, 0), (2, 0, 3, 0), (4, 0, 7, 0), (0, 1, 0, 1), (3, 6, 3, 7)]
)
def test_what_is_small_changes_sides(holes: int, specks: int, gained: int, lost: int) -> None:
    before = drawing()
    after = without_small_regions(before[None], holes, specks, 0.1)[0]
    assert ((after > 0) & (before <= 0)).sum() == gained and ((after <= 0) & (before > 0)).sum() == lost
    assert set(after[after != before].tolist()) <= {np.float32(0.1), np.float32(-0.1)} and torch.equal(before, drawing())


def test_regions_beside_a_mask_are_counted_whole() -> None:
    """The corner that a mask leaves has 6 pixels, of which one lies in the mask's box grown by one."""
    mask = np.zeros((10, 10), bool)
    mask[:, :7] = mask[7:, :] = True
    mask[0, 7:] = mask[:7, 9] = True
    holes = torch.tensor(np.where(mask, 1.0, -1.0))[None]
    assert (without_small_regions(holes, 11, 0, 1.0) > 0).sum() == mask.sum()
    assert (without_small_regions(holes, 12, 0, 1.0) > 0).all()


@pytest.mark.parametrize("most", [1, 3, 8, 40, 500])
def test_the_part_that_is_looked_at_suffices(most: int) -> None:
    """Against regions of whole pictures, for noise, blobs that reach the edges, and next to nothing."""
    generator = np.random.default_rng(most)
    pictures = [generator.random((24, 30)) < share for share in (0.02, 0.3, 0.7, 0.98)]
    pictures += [np.zeros((24, 30), bool), np.ones((24, 30), bool), np.arange(24)[:, None] * np.ones(30) > 1]
    logits = torch.tensor(np.where(np.stack(pictures), 1.0, -1.0))
    filled = (without_small_regions(logits, most, most, 3.0) > 0).numpy()
    for mask, result in zip(pictures, filled, strict=True):
        if mask.any():
            assert np.array_equal(result, (mask | small_regions(~mask, most)) & ~small_regions(mask, most))
    assert not filled[4].any(), "nothing stays nothing"


def test_no_masks_at_all() -> None:
    assert without_small_regions(torch.zeros(0, 4, 4), 8, 8, 1.0).shape == (0, 4, 4)
