"""References out of the scene: segments as masks on the grid of a volume, with known answers."""

import numpy as np
import pytest

from mass_core.errors import InputError
from Testing.slicer.scene_nodes import SHAPE, TRANSFORMS, affine, block, on_grid, rotation


def test_a_segment_of_one_voxel_at_the_far_corner(nodes, tmp_path):
    """Its file holds two voxels along each axis at least, all of them the scan's."""
    from MASSSlicerLib.scene import exchange as scene

    volume = nodes.volume(TRANSFORMS["turn"])
    corner = np.zeros(SHAPE, bool)
    corner[-1, -1, -1] = True
    (path,), _ = scene.write_masks(volume, nodes.segmentation(volume, corner), {"liver": 5}, tmp_path / "mask.nrrd")
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    np.testing.assert_array_equal(on_grid(path, tmp_path / "sent.nrrd"), corner * 5)


def test_masks_follow_the_segmentation_whatever_its_grid(nodes, tmp_path):
    """Drawn on a finer scan that shows a part only, and under another transform than the volume."""
    from MASSSlicerLib.scene import exchange as scene

    coarse = nodes.volume(affine(np.diag([2.0, 2, 2]), (100, 0, 0)), affine(np.eye(3), (-100, 0, 0)), np.zeros((6, 6, 6), np.int16))
    fine = nodes.volume(affine(np.eye(3) * 0.5, (1.75, 1.75, 1.75)), None, np.zeros((16, 16, 16), np.int16))
    drawn = np.zeros((16, 16, 16), bool)
    drawn[2:14, 2:14, 6:10] = True
    # 0.5 mm voxels: x from 1.75 + 0.5*(6-0.5) = 4.5 to 6.5, y and z from 2.5 to 8.5; centres of 2 mm voxels inside: x 6, y and z 4, 6, 8.
    (path,), warnings = scene.write_masks(coarse, nodes.segmentation(fine, drawn), {"liver": 3}, tmp_path / "mask.nrrd")
    scene.write_volume(coarse, tmp_path / "sent.nrrd")
    expected = np.zeros((6, 6, 6), int)
    expected[2:5, 2:5, 3] = 3
    np.testing.assert_array_equal(on_grid(path, tmp_path / "sent.nrrd"), expected)
    assert warnings == []


@pytest.mark.parametrize("own", TRANSFORMS)
@pytest.mark.parametrize("other", TRANSFORMS)
def test_masks_lie_where_they_are_seen_whatever_transforms_there_are(nodes, tmp_path, own, other):
    from MASSSlicerLib.scene import exchange as scene

    drawn_on = nodes.volume(affine(np.diag([-0.8, 1.2, 3.0])), TRANSFORMS[other])
    segmentation = nodes.segmentation(drawn_on, block())
    volume = nodes.volume(
        affine(rotation(25, 2) @ np.diag([0.45, 0.4, 0.8]), (-12, -9, -6)), TRANSFORMS[own], np.zeros((40, 60, 50), np.int16)
    )
    expected = nodes.mask(segmentation, "liver", volume)
    (path,), _ = scene.write_masks(volume, segmentation, {"liver": 1}, tmp_path / "mask.nrrd")
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    found = on_grid(path, tmp_path / "sent.nrrd") > 0
    assert expected.sum() > 100
    # Voxels whose centre lies on the border of two voxels may go either way.
    assert np.count_nonzero(found != expected) <= 0.005 * expected.sum()


def test_overlapping_segments_go_to_files_of_their_own(nodes, tmp_path):
    from MASSSlicerLib.scene import exchange as scene

    volume = nodes.volume()
    whole, part, beside = block(), np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    part[2, 3, 4:7] = True
    beside[6, 8, 10] = True
    paths, _ = scene.write_masks(
        volume, nodes.segmentation(volume, whole, part, beside), {"liver": 1, "spleen": 2, "kidney": 3}, tmp_path / "mask.nrrd"
    )
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    first, second = (on_grid(path, tmp_path / "sent.nrrd") for path in paths)
    np.testing.assert_array_equal(first == 1, whole)
    np.testing.assert_array_equal(first == 3, beside)
    np.testing.assert_array_equal(second == 2, part)


def test_what_lies_outside_the_volume_is_told(nodes, tmp_path):
    from MASSSlicerLib.scene import exchange as scene

    volume = nodes.volume()
    wide = nodes.volume(affine(np.eye(3), (0, 0, -7)), None, np.zeros((14, 9, 11), np.int16))
    half = np.zeros((14, 9, 11), bool)
    half[4:10, 2:6, 3:9] = True
    _, warnings = scene.write_masks(volume, nodes.segmentation(wide, half), {"liver": 1}, tmp_path / "mask.nrrd")
    assert len(warnings) == 1 and "50%" in warnings[0]
    outside = np.zeros((14, 9, 11), bool)
    outside[0:3] = True
    with pytest.raises(InputError, match="outside"):
        scene.write_masks(volume, nodes.segmentation(wide, outside), {"liver": 1}, tmp_path / "mask.nrrd")


def test_empty_and_missing_segments_are_refused(nodes, tmp_path):
    from MASSSlicerLib.scene import exchange as scene

    volume = nodes.volume()
    segmentation = nodes.segmentation(volume, block())
    segmentation.GetSegmentation().AddEmptySegment("nothing", "nothing")
    with pytest.raises(InputError, match="empty"):
        scene.write_masks(volume, segmentation, {"nothing": 1}, tmp_path / "mask.nrrd")
    with pytest.raises(InputError, match="no longer exists"):
        scene.write_masks(volume, segmentation, {"gone": 1}, tmp_path / "mask.nrrd")
    assert list(tmp_path.iterdir()) == []


def test_a_segment_that_is_only_a_surface_serves_too(nodes, tmp_path):
    from MASSSlicerLib.scene import exchange as scene

    volume = nodes.volume(array=np.zeros((24, 24, 24), np.int16))
    mask = np.zeros((24, 24, 24), bool)
    mask[6:18, 6:18, 6:18] = True
    drawn = nodes.segmentation(volume, mask)
    assert drawn.CreateClosedSurfaceRepresentation()
    drawn.SetSourceRepresentationToClosedSurface()
    drawn.GetSegmentation().RemoveRepresentation("Binary labelmap")
    (path,), _ = scene.write_masks(volume, drawn, {"liver": 1}, tmp_path / "mask.nrrd")
    scene.write_volume(volume, tmp_path / "sent.nrrd")
    found = on_grid(path, tmp_path / "sent.nrrd") > 0
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.9
