"""Contrast inside the target, which moves an aligned surface to where tissue changes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mass_core.alignment.atlas import REACH_MM
from mass_core.alignment.contrast import with_contrast
from mass_core.config import Triple

Array = NDArray[np.float32]
SIZE, MM = 32, 2.0


def ball_mm(centre: tuple[float, float, float] = (16, 16, 16), radius: float = 8, spacing: Triple = (1, 1, 1)) -> Array:
    """Signed distance [z,y,x] in mm to a ball's surface, positive inside, centre in voxels; known as far as alignment knows it."""
    index = np.moveaxis(np.indices((SIZE,) * 3), 0, -1)
    distance = radius - np.linalg.norm((index - np.array(centre)) * np.array(spacing), axis=-1)
    return distance.clip(-REACH_MM, REACH_MM).astype(np.float32)


def image(mask: NDArray[np.bool_], inside: float = 1.0, noise: float = 0.3) -> Array:
    return (inside * mask + noise * np.random.default_rng(0).normal(size=mask.shape)).astype(np.float32)


def moved(distance: Array, values: Array, spacing: Triple = (1, 1, 1), usable: NDArray[np.bool_] | None = None) -> Array:
    return with_contrast(distance, values, np.ones(values.shape, bool) if usable is None else usable, spacing, MM)


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("inside", [1.0, -1.0], ids=["bright", "dark"])
@pytest.mark.parametrize("off", [(2, 0, 0), (0, -2, 0), (0, 0, 2)], ids=["z", "y", "x"])
def test_a_structure_aside_comes_closer(off: Triple, inside: float) -> None:
    truth = ball_mm() > 0
    aligned = ball_mm((16 + off[0], 16 + off[1], 16 + off[2]))
    before, after = dice(aligned > 0, truth), dice(moved(aligned, image(truth, inside)) > 0, truth)
    assert before < 0.84 and after > before + 0.05


@pytest.mark.parametrize("radius", [6.5, 9.5])
def test_a_structure_takes_the_target_s_size(radius: float) -> None:
    truth = ball_mm(radius=radius) > 0
    found = moved(ball_mm(), image(truth)) > 0
    assert dice(found, truth) > dice(ball_mm() > 0, truth) + 0.05
    before, after = (abs(int(mask.sum()) / int(truth.sum()) - 1) for mask in (ball_mm() > 0, found))
    assert after < 0.75 * before


def test_voxels_far_from_cubic() -> None:
    spacing = (2.0, 1.0, 1.0)
    truth, aligned = ball_mm(spacing=spacing) > 0, ball_mm((17, 16, 16), spacing=spacing)
    assert dice(moved(aligned, image(truth), spacing) > 0, truth) > dice(aligned > 0, truth) + 0.04


def test_surroundings_differ_from_place_to_place() -> None:
    """Darker above, brighter below, as a liver between lung and bone: the surface is found on both sides."""
    truth = ball_mm(radius=9) > 0
    values = np.where(truth, 0.0, np.where(np.arange(SIZE)[:, None, None] < 16, -1.0, 1.0)).astype(np.float32)
    aligned = ball_mm((16, 18, 16), 9)
    assert dice(moved(aligned, values + image(truth, 0, 0.2)) > 0, truth) > dice(aligned > 0, truth) + 0.05


def test_a_neighbour_of_the_same_brightness_takes_little() -> None:
    """A slab as bright as the structure touches it: the surface may enter it by about a voxel of the alignment only."""
    truth = ball_mm() > 0
    slab = np.zeros_like(truth)
    slab[24:] = True
    found = moved(ball_mm(), image(truth | slab)) > 0
    assert (found & slab).sum() < 0.05 * truth.sum() and dice(found, truth) > 0.94


@pytest.mark.parametrize("values", [image(ball_mm() > 99, 0, 1.0), np.zeros((SIZE,) * 3, np.float32)], ids=["noise", "constant"])
def test_nothing_to_see_moves_nothing(values: Array) -> None:
    assert dice(moved(ball_mm(), values) > 0, ball_mm() > 0) > 0.95


def test_a_structure_of_a_few_voxels_stays() -> None:
    small = ball_mm(radius=2)
    assert np.array_equal(moved(small, image(ball_mm(radius=4) > 0)), small)


def test_voxels_outside_the_scan_are_left_alone() -> None:
    truth, usable = ball_mm() > 0, np.ones((SIZE,) * 3, bool)
    usable[:16] = False
    values = image(truth)
    values[:16] = 50.0
    aligned = ball_mm((16, 16, 18))
    found = moved(aligned, values, usable=usable)
    assert np.array_equal(found[:16], aligned[:16])
    assert dice(found[16:] > 0, truth[16:]) > dice(aligned[16:] > 0, truth[16:]) + 0.05


def test_far_from_the_surface_nothing_changes() -> None:
    aligned, truth = ball_mm((16, 16, 18)), ball_mm() > 0
    far = np.abs(aligned) >= 2 * MM
    assert np.array_equal(moved(aligned, image(truth))[far], aligned[far])


@pytest.mark.parametrize("inside", [1.0, -1.0], ids=["bright", "dark"])
def test_a_thin_structure_far_aside_does_not_vanish(inside: float) -> None:
    """A rod lies beside its place, where all is as around it: it keeps half of its volume at least."""
    y, x = np.indices((SIZE, SIZE))
    aligned, truth = (np.broadcast_to(2.5 - np.hypot(y - at, x - at), (SIZE,) * 3).clip(-REACH_MM).astype(np.float32) for at in (12, 17))
    found = moved(aligned, image(truth > 0, inside, 0.05))
    assert 0.45 < (found > 0).sum() / (aligned > 0).sum() < 2.1
