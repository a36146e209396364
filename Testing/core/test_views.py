"""Views cut from scans: where a voxel of a view comes from, checked against answers one can count."""

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from mass_core.augmentation.batch import Batch
from mass_core.augmentation.poses import Pose, PoseConfig, random_linear, rotation
from mass_core.augmentation.views import cut_views

STILL = PoseConfig(elastic_probability=0.0)
WINDOW = (8, 8, 8)


def scan(shape=(10, 12, 14)):
    """Each voxel holds its own address, small enough for float16 to be exact."""
    return np.arange(np.prod(shape)).reshape(shape).astype(np.float16)


def views(image, bits, affines, slots=1, config=STILL, window=WINDOW):
    batch = Batch.of([[(image, bits.astype(np.int32))]], [np.asarray(affines, np.float32)], slots)
    return cut_views(batch, window, config, torch.Generator().manual_seed(0))


def shift(z, y, x):
    return np.column_stack([np.eye(3), [z, y, x]])


def test_whole_voxel_shift_copies_the_block():
    image = scan()
    images, masks = views(image, image > 900, [shift(1, 2, 3), shift(0, 0, 0)])
    block = image[1:9, 2:10, 3:11]
    np.testing.assert_array_equal(images[0, 0, 0], block)
    np.testing.assert_array_equal(masks[0, 0, 0], block > 900)
    np.testing.assert_array_equal(images[0, 1, 0], image[:8, :8, :8])


def test_half_voxel_shift_is_the_mean_of_neighbours():
    image = scan()
    images, _ = views(image, image > 0, [shift(0, 0, 0.5), shift(0, 0.5, 0)])
    np.testing.assert_allclose(images[0, 0, 0, 2, 2], (image[2, 2, :8] + image[2, 2, 1:9]) / 2)
    np.testing.assert_allclose(images[0, 1, 0, 2, :, 2], (image[2, :8, 2].astype(float) + image[2, 1:9, 2]) / 2)


def test_outside_is_zero_in_image_and_masks():
    image = np.ones((10, 12, 14), np.float16)
    images, masks = views(image, np.ones_like(image, int), [shift(-3, 0, 0), shift(8, 0, 0)])
    assert images[0, 0, 0, :3].eq(0).all() and images[0, 0, 0, 3:].eq(1).all()
    assert masks[0, 1, 0, 2:].eq(0).all() and masks[0, 1, 0, :2].eq(1).all()


def test_each_bit_is_its_own_mask_up_to_the_last():
    bits = np.zeros((10, 12, 14), np.uint32)
    for k in range(32):
        bits[k // 8, k % 8, k % 7] |= np.uint32(1) << np.uint32(k)
    _, masks = views(scan(), bits.view(np.int32), [shift(0, 0, 0)] * 2, slots=32)
    found = masks[0, 0].nonzero().numpy()
    np.testing.assert_array_equal(found, [[k, k // 8, k % 8, k % 7] for k in range(32)])


def test_masks_beyond_the_32nd_lie_in_further_words():
    masks = np.random.default_rng(0).integers(0, 2, (70, 10, 12, 14))
    bits = np.zeros((3, 10, 12, 14), np.uint32)
    for k, mask in enumerate(masks):
        bits[k // 32] |= mask.astype(np.uint32) << np.uint32(k % 32)
    _, found = views(scan(), bits.view(np.int32), [shift(1, 2, 3)], slots=70)
    np.testing.assert_array_equal(found[0, 0], masks[:, 1:9, 2:10, 3:11])


def test_any_affine_samples_as_scipy_does_in_a_window_with_unequal_sides():
    """Trilinear and nearest, outside as inside."""
    rng, window = np.random.default_rng(0), (7, 8, 9)
    image, mask = rng.standard_normal((10, 12, 14)).astype(np.float32), rng.integers(0, 2, (10, 12, 14))
    affine = np.eye(3, 4) + rng.normal(0, 0.2, (3, 4)) + [[0, 0, 0, 2], [0, 0, 0, 4], [0, 0, 0, 6]]
    images, masks = views(image, mask, [affine], window=window)
    points = np.einsum("ij,jzyx->izyx", affine[:, :3], np.indices(window)) + affine[:, 3, None, None, None]
    assert (np.rint(points).min((1, 2, 3)) < 0).any() or (np.rint(points).max((1, 2, 3)) >= image.shape).any()
    np.testing.assert_allclose(images[0, 0, 0], map_coordinates(image, points, order=1, mode="grid-constant"), atol=1e-5)
    nearest = map_coordinates(mask, np.rint(points), order=0, mode="constant", cval=0)
    np.testing.assert_array_equal(masks[0, 0, 0], nearest)


def test_two_scans_of_different_shape_do_not_mix():
    one, two = np.full((9, 9, 9), 1, np.float16), np.full((8, 10, 11), 2, np.float16)
    affines = np.stack([shift(0, 0, 0)] * 2).astype(np.float32)
    batch = Batch.of([[(a, (a > 1).astype(np.int32))] for a in (one, two)], [affines] * 2, 1)
    images, masks = cut_views(batch, WINDOW, STILL, torch.Generator().manual_seed(0))
    assert images[0].eq(1).all() and images[1].eq(2).all()
    assert not masks[0].any() and masks[1].all()


def test_bent_view_keeps_image_and_mask_together():
    """The mask of the bright half stays the mask of the bright half however the view is bent."""
    image = np.zeros((30, 30, 30), np.float16)
    image[:, :, 15:] = 1
    config = PoseConfig(elastic_probability=1.0, elastic_voxels=3.0)
    images, masks = views(image, image > 0, [shift(11, 11, 11)] * 2, config=config)
    assert not torch.equal(images[0, 0], images[0, 1])
    sure = (images[0, 1] - 0.5).abs() > 0.01
    assert torch.equal(images[0, 1][sure] > 0.5, masks[0, 1].bool()[sure])


def test_pose_maps_window_centre_to_its_centre_in_mm():
    spacing = np.array([3.0, 2.0, 1.0])
    pose = Pose(rotation(np.radians([10.0, 20.0, 30.0])) * 1.5, np.array([30.0, 20.0, 10.0]), WINDOW)
    affine = pose.to_voxels(spacing)
    middle = (np.array(WINDOW) - 1) / 2
    np.testing.assert_allclose((affine[:, :3] @ middle + affine[:, 3]) * spacing, [30, 20, 10])


def test_distances_are_kept_on_an_anisotropic_grid():
    """Rotation is in mm: neighbouring voxels of the view are 1.5 mm apart in the scan, whatever the scan's spacing."""
    spacing = np.array([5.0, 0.7, 0.7])
    affine = Pose(rotation(np.radians([25.0, -40.0, 15.0])) * 1.5, np.zeros(3), WINDOW).to_voxels(spacing)
    np.testing.assert_allclose(np.linalg.norm(affine[:, :3] * spacing[:, None], axis=0), 1.5)


def test_holds_tells_inside_from_outside():
    pose = Pose(np.eye(3) * 2.0, np.array([10.0, 10.0, 10.0]), WINDOW)
    inside = pose.holds(np.array([[10.0, 10, 10], [17.9, 10, 10], [18.1, 10, 10], [2.1, 17.9, 2.1]]))
    assert inside.tolist() == [True, True, False, True]


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_random_linear_stays_in_range_and_never_mirrors(strength):
    rng = np.random.default_rng(0)
    config = PoseConfig(affine_probability=1.0, shear=0.0)
    for _ in range(50):
        matrix = random_linear(rng, 2.0, config, strength)
        lengths = np.linalg.svd(matrix, compute_uv=False) / 2.0
        assert np.linalg.det(matrix) > 0
        assert lengths.min() > 0.7 - 1e-9 and lengths.max() < 1 / 0.7 + 1e-9
        if not strength:
            np.testing.assert_allclose(matrix, np.eye(3) * 2.0)
