"""Refinement around one structure: a bend finer than the whole reference's voxels is recovered, however the target is stored."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mass_core.alignment.align import Target, align
from mass_core.alignment.atlas import make_atlas
from mass_core.alignment.closeup import refined_around
from mass_core.alignment.fields import sample, smoothed, voxel_grid
from mass_core.alignment.prior import points_mm_of
from mass_core.config import Recipe
from mass_core.volumes.resample import orient
from mass_core.volumes.volume import Geometry, Volume

CPU = torch.device("cpu")
RECIPE = Recipe(ct_clip_hu=(-500.0, 500.0))
SIZE, MM = 100, 1.5
GRID = Geometry(shape_zyx=(SIZE,) * 3, spacing_xyz=(MM,) * 3, origin_xyz=(-40.0, 25.0, 60.0))
BALL = (48, 52, 50)


def bend(points):
    """Displacement [3,...] in voxels at points [3,...]: 3 voxels within a few of the ball, nothing elsewhere."""
    middle = torch.tensor(BALL, dtype=torch.float32).view(3, *[1] * (points.ndim - 1))
    size = 3 * torch.exp(-((points - middle) ** 2).sum(0) / (2 * 7.0**2))
    return torch.stack([0.8 * size, -0.6 * size, 0 * size])


@pytest.fixture(scope="module")
def images():
    """A reference with a small ball and a far one, and a target that is bent around the small one."""
    noise = torch.from_numpy(np.random.default_rng(3).normal(size=(SIZE,) * 3).astype(np.float32))
    moving = 300 * smoothed(noise[None], 8)[0] / smoothed(noise[None], 8).std()
    index = voxel_grid((SIZE,) * 3, CPU)
    fixed = sample(moving[None], index + bend(index))[0]
    labels = np.zeros((SIZE,) * 3, np.uint8)
    for value, middle in ((1, BALL), (2, (10, 10, 10)), (3, (90, 90, 90))):
        labels[((index - torch.tensor(middle).view(3, 1, 1, 1)) ** 2).sum(0).numpy() < 25] = value
    reference, target = (Volume(image.numpy().astype(np.float32), GRID, "mr") for image in (moving, fixed))
    return reference, Volume(labels, GRID), target


@pytest.fixture(scope="module")
def atlas(images):
    return make_atlas(images[0], images[1], [1, 2, 3], RECIPE, CPU)


def error_mm(warp, part=(slice(None), *(slice(c - 5, c + 6) for c in BALL))):
    """Mean distance from the known map around the ball."""
    points = points_mm_of(GRID, CPU)
    wanted = points + MM * bend(voxel_grid((SIZE,) * 3, CPU))
    return float((warp.reference_mm(points[part]) - wanted[part]).norm(dim=0).mean())


def test_structures_get_finer_voxels_than_the_whole(atlas):
    assert set(atlas.closeups) == {1, 2, 3}
    assert all(close.scan.mm == MM and atlas.scan.mm > 1.4 * MM for close in atlas.closeups.values())


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR"])
def test_a_fine_bend_is_recovered_within_half_a_voxel(images, atlas, orientation):
    target = Target(orient(images[2], orientation), RECIPE, CPU)
    found = align(atlas, target)
    before, after = error_mm(found), error_mm(refined_around(found, 1, target))
    assert after < 0.5 * MM and after < 0.7 * before


def test_a_target_that_does_not_reach_there_stays_as_found(images, atlas):
    target = Target(images[2].cropped(((0, 0, 0), (24, SIZE, SIZE))), RECIPE, CPU)
    found = replace(align(atlas, target), shift=torch.zeros(3))
    found = replace(found, field=torch.zeros_like(found.field))
    assert refined_around(found, 3, target) is found
    assert torch.isfinite(refined_around(found, 1, target).field).all()


def test_a_renumbered_atlas_keeps_the_voxels_of_its_label(atlas):
    assert atlas.renumbered(1, 7).closeups == {7: atlas.closeups[1]} and atlas.renumbered(9, 7).closeups == {}
