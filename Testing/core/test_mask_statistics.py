"""Numbers of a mask set: sizes and the paper's Table 4a, with answers known by construction and by counting voxel by voxel."""

import numpy as np
import pytest

from mass_core.errors import GeometryError, InputError
from mass_core.evaluation.metrics import dice
from mass_core.masks.from_labels import label_masks
from mass_core.masks.mask_set import MaskSet
from mass_core.masks.statistics import LabelScore, averages, label_scores, sizes
from mass_core.volumes.resample import orient, resample
from mass_core.volumes.volume import Geometry, Volume

SHAPE = (6, 10, 20)
GRID = Geometry(shape_zyx=SHAPE, spacing_xyz=(1.0, 2.0, 5.0), origin_xyz=(-7.0, 4.0, 30.0))


def mask_set(arrays: list[np.ndarray], grid: Geometry = GRID) -> MaskSet:
    """Masks given on the whole grid."""
    masks = []
    for array in arrays:
        places = np.argwhere(array)
        start, stop = places.min(0).tolist(), (places.max(0) + 1).tolist()
        masks.append(((tuple(start), tuple(stop)), array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]))
    meta = {"origin_xyz": list(grid.origin_xyz), "direction": list(grid.direction)}
    return MaskSet.of(masks, grid.shape_zyx, grid.spacing_zyx, meta)


def bar(first: int, last: int, y: int = 2) -> np.ndarray:
    """Voxels first to last (not included) of one line along x."""
    array = np.zeros(SHAPE, bool)
    array[3, y, first:last] = True
    return array


def test_sizes_in_voxels_and_millilitres() -> None:
    found = sizes(mask_set([bar(0, n) for n in (1, 5, 9, 13, 17)]))
    assert found.masks == 5
    assert found.voxels == pytest.approx((1.8, 5, 9, 13, 16.2)), "5, 25, 50, 75 and 95 %"
    assert found.ml == pytest.approx([0.01 * n for n in (1.8, 5, 9, 13, 16.2)]), "a voxel has 10 mm3"
    assert sizes(mask_set([])).voxels == ()


def test_table_4a_of_a_label_whose_masks_are_known() -> None:
    """Label 7 has 10 voxels; masks share 10, 5, 2 and none of them, and one shares 1 of its 10."""
    labels = Volume(bar(4, 14).astype(np.uint8) * 7, GRID)
    masks = mask_set([bar(4, 14), bar(9, 19), bar(4, 6), bar(14, 18), bar(0, 5) | bar(0, 5, y=4), bar(3, 9, y=8)])
    expected = np.array([1, 10 / 20, 4 / 12, 2 / 20])
    assert label_scores(masks, labels) == [
        LabelScore(
            label=7, ml=pytest.approx(0.1), overlapping=4, best=1.0, mean=pytest.approx(expected.mean()), above_40=pytest.approx(2 / 4)
        )
    ]


def test_forty_percent_itself_does_not_count() -> None:
    """Dice 2 * 2 / (6 + 4) and 2 * 3 / (6 + 4)."""
    labels = Volume(bar(0, 6).astype(np.uint8), GRID)
    (score,) = label_scores(mask_set([bar(4, 8), bar(3, 7)]), labels)
    assert (score.best, score.above_40) == (pytest.approx(0.6), 0.5)


def test_a_label_that_no_mask_touches() -> None:
    labels = Volume((bar(0, 3, y=0) * 1 + bar(0, 6) * 300).astype(np.uint16), GRID)
    missed, found = label_scores(mask_set([bar(0, 6)]), labels)
    assert (missed.label, missed.overlapping, missed.best, missed.mean, missed.above_40) == (1, 0, 0.0, None, None)
    assert (found.label, found.best) == (300, 1.0)
    assert averages([missed, found]) == (0.5, 1.0, 1.0), "it counts for the best, the means know nothing of it"
    assert averages([missed]) == (0.0, None, None) and averages([]) == (None, None, None)
    assert [score.best for score in label_scores(mask_set([]), labels)] == [0.0, 0.0]


def test_the_same_as_counting_whole_volumes() -> None:
    """Random overlapping masks of every shift within a byte, many labels."""
    random = np.random.default_rng(0)
    z, y, x = np.indices(SHAPE)
    centres, radii = random.uniform((0, 0, 0), SHAPE, (60, 3)), random.uniform(1.5, 6, 60)
    arrays = [(z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2 < r**2 for (a, b, c), r in zip(centres, radii, strict=True)]
    labels = ((x // 5) + 4 * (y // 5)) * (random.random(SHAPE) < 0.7)
    scores = label_scores(mask_set([array for array in arrays if array.any()]), Volume(labels.astype(np.int16), GRID))
    assert [score.label for score in scores] == [value for value in np.unique(labels) if value]
    for score in scores:
        truth = labels == score.label
        found = [dice(array, truth) for array in arrays if (array & truth).any()]
        assert score.overlapping == len(found) and score.best == pytest.approx(max(found))
        assert score.mean == pytest.approx(np.mean(found)) and score.above_40 == pytest.approx(np.mean(np.array(found) > 0.4))


def test_label_maps_are_brought_onto_the_grid_by_position() -> None:
    """Stored with other axes, finer, and beyond the masks' grid: the label is where it is in the patient."""
    truth = np.zeros((12, 20, 40), np.uint8)
    truth[4:8, 6:14, 10:26] = 3
    fine = Volume(truth, Geometry(shape_zyx=truth.shape, spacing_xyz=(0.5, 1.0, 2.5), origin_xyz=(-7.25, 3.5, 28.75)))
    expected = resample(fine, GRID, "nearest").array == 3
    (score,) = label_scores(mask_set([expected]), orient(fine, "PIR"))
    assert score.best == 1.0 and score.ml == pytest.approx(expected.sum() * 0.01)
    oblique = Geometry(
        shape_zyx=SHAPE, spacing_xyz=(1.0, 2.0, 5.0), origin_xyz=(-7.0, 4.0, 30.0), direction=(0.6, -0.8, 0.0, 0.8, 0.6, 0.0, 0.0, 0.0, 1.0)
    )
    (turned,) = label_scores(mask_set([bar(4, 14)], oblique), Volume(bar(4, 14).astype(np.uint8), oblique))
    assert turned.best == 1.0


def test_what_lies_beyond_the_grid_of_the_masks_counts_as_missed() -> None:
    """Half of the label is on the masks' grid, and one mask is all of that half: Dice 2/3, not 1."""
    part = GRID.cropped(((0, 0, 0), (6, 10, 9)))
    (score,) = label_scores(mask_set([bar(4, 9)[:, :, :9]], part), Volume(bar(4, 14).astype(np.uint8), GRID))
    assert score.best == pytest.approx(2 * 5 / (5 + 10)) and score.ml == pytest.approx(0.1)
    (unseen,) = label_scores(mask_set([bar(4, 9)[:, :, :9]], part), Volume(bar(15, 18).astype(np.uint8), GRID))
    assert (unseen.best, unseen.overlapping, unseen.ml) == (0.0, 0, pytest.approx(0.03))


def test_masks_of_a_label_are_that_label_where_voxels_meet_at_borders() -> None:
    """The middle of the masks' grid lies right between two voxels of the label map; another label beyond the grid changes nothing there."""
    edge, fine = 3.9059998989105225, 3.5180031311337827
    labels = np.zeros((4, 128, 4), np.uint8)
    labels[:, 60:64], labels[:, 125:] = 1, 2
    whole = Volume(labels, Geometry(shape_zyx=labels.shape, spacing_xyz=(edge, edge, edge)))
    turned = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    place = (3 * edge, 399.3051282195708, 0.0)
    grid = Geometry(shape_zyx=(4, 85, 4), spacing_xyz=(fine, fine, fine), origin_xyz=place, direction=turned)
    masks, values = label_masks(whole, grid)
    meta = {"origin_xyz": list(grid.origin_xyz), "direction": list(grid.direction)}
    first, second = label_scores(MaskSet.of(masks, grid.shape_zyx, grid.spacing_zyx, meta), whole)
    assert values == [1] and first.best == 1.0 and (second.best, second.overlapping) == (0.0, 0) and second.ml > 0


def test_label_maps_that_cannot_be_compared() -> None:
    masks = mask_set([bar(0, 6)])
    far = Geometry(shape_zyx=SHAPE, origin_xyz=(500.0, 0.0, 0.0))
    with pytest.raises(GeometryError, match="do not overlap"):
        label_scores(masks, Volume(bar(0, 6).astype(np.uint8), far))
    with pytest.raises(InputError, match="holds values from 0 to 0"):
        label_scores(masks, Volume(np.zeros(SHAPE, np.uint8), GRID))
    with pytest.raises(InputError, match="fractional"):
        label_scores(masks, Volume(bar(0, 6) * np.float32(0.5), GRID))
    with pytest.raises(GeometryError, match="does not record the position"):
        label_scores(MaskSet.of([], SHAPE, (1.0, 1.0, 1.0)), Volume(bar(0, 6).astype(np.uint8), GRID))
