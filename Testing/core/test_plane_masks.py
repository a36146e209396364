"""2D masks of a slice from a network whose answers are known: the picture itself says which object a point lies on."""

import dataclasses
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from mass_core.errors import InputError
from mass_core.masks.slicewise.batch_size import BatchSize
from mass_core.masks.slicewise.channels import Profile, one_range
from mass_core.masks.slicewise.plane_masks import (
    Crop,
    GridConfig,
    PlaneMask,
    PlaneMasker,
    box_nms,
    crops,
    cut_off,
    mask_boxes,
    point_grid,
    spread_over_sizes,
    stability,
)

PROFILE = Profile(modality="ct", channels=one_range((0, 1)), min_pixels=4)
COARSE = GridConfig(points_per_side=8, crop_layers=0)
SIDE = 64


class Oracle:
    """Sees objects as the values of the first channel; answers a point with the object there, trusted and steep as a table says.

    Args:
        trust: expected IoU of each value's mask.
        steep: logits inside (outside is their negative).
        most: points it can answer at once before memory runs out.
    """

    def __init__(self, trust: dict[int, float] | None = None, steep: dict[int, float] | None = None, most: int = 10**6) -> None:
        self.trust, self.steep, self.most = trust or {}, steep or {}, most
        self.looked: list[tuple[int, int]] = []
        self.batches: list[int] = []

    def encode_image(self, image: np.ndarray) -> np.ndarray:
        self.looked.append(image.shape[:2])
        return image[..., 0]

    def propose(self, features: np.ndarray, points: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        if len(points) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        self.batches.append(len(points))
        rows, columns = (points * features.shape).astype(int).T
        values = features[rows, columns]
        masks = np.stack([np.where(features == value, 1.0, -1.0) * self.steep.get(int(value), 10.0) for value in values])
        scores = [[self.trust.get(int(value), 0.9)] for value in values]
        return torch.tensor(masks[:, None], dtype=torch.float32), torch.tensor(scores)


def picture(objects: dict[int, tuple[slice, slice]]) -> np.ndarray:
    values = np.zeros((SIDE, SIDE), np.uint8)
    for value, place in objects.items():
        values[place] = value
    return np.repeat(values[..., None], 3, axis=-1)


OBJECTS = {1: np.s_[4:28, 4:28], 2: np.s_[36:60, 4:28], 3: np.s_[36:44, 40:48], 4: np.s_[4:24, 40:60]}
"""24 x 24, 24 x 24, 8 x 8 and 20 x 20 pixels."""
BODY = np.ones((SIDE, SIDE), bool)


def values_of(masks: list[PlaneMask], image: np.ndarray) -> list[int]:
    """The object each mask is, after checking that it is that object exactly."""
    found = []
    for mask in masks:
        (value,) = np.unique(image[..., 0][mask.mask]).tolist()
        assert np.array_equal(mask.mask, image[..., 0] == value)
        found.append(value)
    return found


def test_each_object_once_from_large_to_small() -> None:
    image, oracle = picture(OBJECTS), Oracle()
    masks = PlaneMasker(oracle, PROFILE, COARSE)(image, BODY)
    assert values_of(masks, image) == [0, 1, 2, 4, 3]
    assert oracle.looked == [(SIDE, SIDE)] and sum(oracle.batches) == 64
    assert masks[0].predicted_iou == pytest.approx(0.9) and masks[0].stability == 1.0


def test_features_known_already_are_not_computed_again() -> None:
    image, oracle = picture(OBJECTS), Oracle()
    assert len(PlaneMasker(oracle, PROFILE, COARSE)(image, BODY, whole=image[..., 0])) == 5
    assert oracle.looked == []


def test_untrusted_unstable_small_and_outside_masks_go() -> None:
    """Object 1 is trusted too little, 2 flips with the threshold, 3 has 64 pixels, 0 and half of 4 lie outside the body."""
    image = picture(OBJECTS)
    body = np.zeros((SIDE, SIDE), bool)
    body[:, :50] = image[:, :50, 0] > 0
    left = PlaneMasker(Oracle({1: 0.39}, {2: 0.5}), PROFILE, COARSE)(image, body)
    assert values_of(left, image) == [3]
    assert PlaneMasker(Oracle({1: 0.39}, {2: 0.5}), dataclasses.replace(PROFILE, min_pixels=65), COARSE)(image, body) == []
    limits = dataclasses.replace(PROFILE, min_predicted_iou=0.3, min_stability=0.0)
    assert values_of(PlaneMasker(Oracle({1: 0.39}, {2: 0.5}), limits, COARSE)(image, body), image) == [1, 2, 3]


def test_holes_and_specks_go_before_anything_is_judged() -> None:
    """A hole of one pixel in object 1 is filled; the speck of its value, one pixel elsewhere, no longer stretches its box."""
    image = picture(OBJECTS)
    image[10, 10], image[62, 62] = 9, 1
    config = dataclasses.replace(COARSE, points_per_side=16, small_regions=1)
    masks = PlaneMasker(Oracle({0: 0.1}), PROFILE, config)(image, BODY)
    whole = image[..., 0] == 1
    whole[10, 10], whole[62, 62] = True, False
    assert sum(np.array_equal(mask.mask, whole) for mask in masks) == 1 and len(masks) == 4
    plain = PlaneMasker(Oracle({0: 0.1}), PROFILE, dataclasses.replace(config, small_regions=0))(image, BODY)
    assert not any(np.array_equal(mask.mask, whole) for mask in plain)


def test_crops_find_what_the_coarse_grid_misses_and_nothing_twice() -> None:
    """A dot of 3 x 3 pixels lies between the 4 x 4 points of the slice, not between those of its crops."""
    image = picture({1: np.s_[4:28, 4:28], 2: np.s_[46:49, 46:49]})
    whole = PlaneMasker(Oracle(), PROFILE, GridConfig(points_per_side=4, crop_layers=0))(image, BODY)
    assert values_of(whole, image) == [0, 1]
    oracle = Oracle()
    finer = PlaneMasker(oracle, PROFILE, GridConfig(points_per_side=4, crop_layers=2))(image, BODY)
    assert values_of(finer, image) == [0, 1, 2]
    assert len(oracle.looked) == 21 and oracle.looked.count((SIDE, SIDE)) == 1


def test_what_a_crop_cuts_goes() -> None:
    crop, shape = Crop(0, 16, 48, 64), (64, 64)
    boxes = torch.tensor([[0, 30, 20, 40], [5, 17, 20, 40], [5, 30, 47, 40], [5, 30, 20, 64], [5, 30, 20, 40]])
    # At the slice's top: whole. At the crop's left and bottom: cut. At the slice's right: whole. Inside: whole.
    assert cut_off(boxes.float(), crop, shape, 0.04).tolist() == [False, True, True, False, False]


def test_crops_cover_the_slice() -> None:
    assert crops(64, 64, 0, 1.0) == [(0, 0, 64, 64)]
    assert crops(64, 96, 1, 1.0)[1:] == [(0, 0, 48, 72), (0, 24, 48, 96), (16, 0, 64, 72), (16, 24, 64, 96)]
    finest = crops(512, 512, 2, 1.0)[5:]
    assert len(finest) == 16 and finest[0] == (0, 0, 224, 224) and finest[-1] == (288, 288, 512, 512)
    assert len(crops(1, 1, 2, 1.0)) == 1


def test_points_are_the_centres_of_cells() -> None:
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]]


def test_stability_is_a_share_of_pixels() -> None:
    """Above +1: two pixels; above -1: four."""
    logits = torch.tensor([[[5.0, 2.0, 0.5, -0.5, -3.0]]])
    assert stability(logits, 1.0).item() == 0.5 and stability(-torch.ones(1, 2, 2) * 9, 1.0).item() == 0


def test_boxes_of_masks() -> None:
    masks = torch.zeros(3, 5, 6, dtype=torch.bool)
    masks[0, 1:3, 2:5] = True
    masks[1, 4, 5] = True
    assert mask_boxes(masks).tolist() == [[1, 2, 3, 5], [4, 5, 5, 6], [0, 0, 0, 0]]
    assert mask_boxes(masks[:0]).shape == (0, 4)


def test_nms_is_greedy_from_the_highest_score() -> None:
    """Boxes of 10 x 10 shifted by 2 and 4 columns: IoU 2/3 with the neighbour, 3/7 with the next."""
    boxes = torch.tensor([[0, 0, 10, 10], [0, 2, 10, 12], [0, 4, 10, 14]])
    assert box_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]
    assert box_nms(boxes, torch.tensor([0.7, 0.9, 0.8]), 0.5).tolist() == [1]
    assert box_nms(boxes, torch.tensor([0.9, 0.9, 0.9]), 0.7).tolist() == [0, 1, 2]
    assert box_nms(boxes[:0], torch.zeros(0), 0.5).tolist() == []


def test_nms_is_that_of_comparing_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(300, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 1 + torch.rand(300, 2, generator=generator) * 40], dim=1)
    scores = torch.rand(300, generator=generator)
    stay: list[int] = []
    for number in scores.argsort(descending=True).tolist():
        top, left, bottom, right = boxes[number].tolist()
        ious = []
        for other in stay:
            t, lft, b, r = boxes[other].tolist()
            common = max(0.0, min(bottom, b) - max(top, t)) * max(0.0, min(right, r) - max(left, lft))
            ious.append(common / ((bottom - top) * (right - left) + (b - t) * (r - lft) - common))
        if all(iou <= 0.5 for iou in ious):
            stay.append(number)
    assert box_nms(boxes, scores, 0.5).tolist() == stay


def square(side: int, trust: float) -> PlaneMask:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:side, :side] = True
    return PlaneMask(mask, trust, 1.0)


def test_all_sizes_are_among_the_few_that_stay() -> None:
    """Many small trusted masks do not crowd out the large one; within a size the trusted go first."""
    many = [square(4, 0.99 - i / 1000) for i in range(20)] + [square(40, 0.5), square(20, 0.6), square(20, 0.7)]
    few = spread_over_sizes(many, 4)
    assert [(int(m.mask.sum()), m.predicted_iou) for m in few] == [(1600, 0.5), (400, 0.7), (400, 0.6), (16, 0.99)]
    assert len(spread_over_sizes(many, 70)) == 23 and spread_over_sizes([], 70) == []


def test_at_most_some_masks_a_slice() -> None:
    image = picture(OBJECTS)
    masks = PlaneMasker(Oracle(), dataclasses.replace(PROFILE, max_per_slice=2), COARSE)(image, BODY)
    assert values_of(masks, image) == [0, 1]


def test_want_of_memory_halves_the_batch_for_good() -> None:
    image, oracle = picture(OBJECTS), Oracle(most=10)
    masker = PlaneMasker(oracle, PROFILE, dataclasses.replace(COARSE, points_per_batch=64))
    assert values_of(masker(image, BODY), image) == [0, 1, 2, 4, 3]
    assert oracle.batches == [8] * 8
    masker(image, BODY)
    assert oracle.batches == [8] * 16


def test_other_failures_are_not_taken_for_want_of_memory() -> None:
    for size, error in ((8, ZeroDivisionError()), (8, RuntimeError("a defect")), (1, MemoryError())):
        batch, asked = BatchSize(size), Mock(side_effect=error)
        with pytest.raises(type(error)):
            list(batch.batches([1, 2, 3], asked))
        assert batch.size == size and asked.call_count == 1
    with pytest.raises(InputError, match="batch size is 0"):
        BatchSize(0)


@pytest.mark.parametrize("wrong", [{"points_per_side": 0}, {"crop_layers": -1}, {"small_regions": -1}, {"box_iou": 0}, {"crop_overlap": 2}])
def test_settings_that_cannot_work_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        GridConfig(**wrong)
