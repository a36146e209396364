"""The five stages together, with a network that sees objects by their grey value and follows them by it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from mass_core.config import Recipe
from mass_core.errors import Cancelled, GeometryError, InputError
from mass_core.masks.from_labels import label_masks, with_labels
from mass_core.masks.generator import masks_of
from mass_core.masks.mask_set import MaskSet
from mass_core.masks.slicewise import pipeline
from mass_core.masks.slicewise.channels import Profile, one_range
from mass_core.masks.slicewise.frames import Frames
from mass_core.masks.slicewise.pipeline import SliceConfig, SliceMask, masks_by_slices
from mass_core.masks.slicewise.plane_masks import GridConfig, PlaneMasker
from mass_core.progress import Steps
from mass_core.volumes.components import body_mask
from mass_core.volumes.volume import Geometry, Volume

SHAPE = (24, 40, 48)
PROFILE = Profile(modality="mr", channels=one_range((0, 255)), min_pixels=9, min_voxels=60, interval_mm=12)
CONFIG = SliceConfig(grid=GridConfig(points_per_side=16, crop_layers=0))
SPACING = (3.0, 1.0, 1.0)


class Seer:
    """Finds and follows what has one grey value in the first channel."""

    def __init__(self) -> None:
        self.looks = 0

    def encode_image(self, image: np.ndarray) -> np.ndarray:
        self.looks += 1
        return image[..., 0]

    def propose(self, features: np.ndarray, points: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = (points * features.shape).astype(int).T
        masks = np.stack([np.where(features == value, 9.0, -9.0) for value in features[rows, columns]])
        return torch.tensor(masks[:, None], dtype=torch.float32), torch.full((len(points), 1), 0.8)

    def tracker(self, frames: Frames) -> "Follower":
        return Follower(frames)

    def slices_in_memory(self) -> int | None:
        return None


class Follower:
    followed = 0
    """Objects, by all there are."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames

    def start(self, slices: Sequence[int], masks: np.ndarray) -> list:
        Follower.followed += len(slices)
        return [int(self.frames[index][mask].max()) for index, mask in zip(slices, masks, strict=True)]

    def step(self, slices: Sequence[int], memories: Sequence) -> tuple[np.ndarray, list]:
        return np.stack([self.frames[index] == value for index, value in zip(slices, memories, strict=True)]), list(memories)


def scene() -> np.ndarray:
    """Grey values of a ball (200), a slanting rod (150), a crumb (250) and a twin of the ball's value that is not connected to it."""
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    array = np.full(SHAPE, 40, np.float32)
    array[((z - 12) * 3.0) ** 2 + (y - 14) ** 2 + (x - 14) ** 2 < 10**2] = 200
    array[(abs(y - 30) < 3) & (abs(x - 10 - z) < 4)] = 150
    array[8:10, 5:9, 38:42] = 250
    array[11:14, 30:36, 38:44] = 200
    return array


BODY = np.ones(SHAPE, bool)


def drawn(mask: SliceMask) -> np.ndarray:
    result = np.zeros(SHAPE, bool)
    (start, stop), inside = mask.found
    result[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = inside
    return result


def test_objects_are_found_once_each_and_whole() -> None:
    """Seed slices lie four apart; the rod crosses all of them and stays once. The crumb has 32 voxels, and is dropped."""
    array, seer = scene(), Seer()
    masks = masks_by_slices(array, SPACING, BODY, PROFILE, seer, config=CONFIG)
    found = [drawn(mask) for mask in masks]
    ball = array == 200
    ball[:, 25:] = False
    twin = (array == 200) & ~ball
    for wanted in (ball, array == 150, array == 40):
        assert sum(np.array_equal(mask, wanted) for mask in found) == 1
    assert len(found) == 3 and not any(np.array_equal(mask, twin) for mask in found), "of two parts on a seed slice the larger stays"
    assert seer.looks == SHAPE[0], "each slice is encoded once, for the 2D masks and for the way through the volume"
    assert {mask.axis for mask in masks} == {0} and all(mask.slice % 4 == 1 for mask in masks)
    assert all(mask.predicted_iou == pytest.approx(0.8) and mask.stability == 1 for mask in masks)


@pytest.mark.parametrize("axis", [1, 2])
def test_slices_may_lie_across_any_axis(axis: int) -> None:
    """The same scan with its axes exchanged gives the same masks, exchanged."""
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 3.0
    turned = np.moveaxis(scene(), 0, axis)
    masks = masks_by_slices(turned, tuple(spacing), np.ones(turned.shape, bool), PROFILE, Seer(), config=CONFIG)
    for mask in masks:
        (start, stop), inside = mask.found
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        value = turned[box][inside][0]
        assert mask.axis == axis and (turned[box][inside] == value).all() and inside.shape == tuple(np.subtract(stop, start))
    assert len(masks) == 3


def test_all_axes_find_more_and_no_doubles() -> None:
    masks = masks_by_slices(scene(), SPACING, BODY, PROFILE, Seer(), config=dataclasses.replace(CONFIG, all_axes=True))
    volumes = [drawn(mask) for mask in masks]
    iou = np.array([[(a & b).sum() / (a | b).sum() for b in volumes] for a in volumes])
    assert (iou - np.eye(len(iou))).max() <= 0.9
    twin = (scene() == 200) & (np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]][1] >= 25)
    assert any(np.array_equal(volume, twin) for volume in volumes), "seen alone across another axis"


def test_nothing_outside_the_body_starts_a_mask() -> None:
    body = np.zeros(SHAPE, bool)
    body[4:20, 2:26, 2:26] = True
    masks = masks_by_slices(scene(), SPACING, body, PROFILE, Seer(), config=CONFIG)
    assert [float(scene()[drawn(mask)][0]) for mask in masks] == [200.0]
    assert masks_by_slices(scene(), SPACING, np.zeros(SHAPE, bool), PROFILE, Seer(), config=CONFIG) == []


def test_a_seed_decides_among_doubles_and_repeats() -> None:
    one, same = (masks_by_slices(scene(), SPACING, BODY, PROFILE, Seer(), config=CONFIG, seed=5) for _ in range(2))
    assert [(m.axis, m.slice, m.found[0]) for m in one] == [(m.axis, m.slice, m.found[0]) for m in same]
    few = masks_by_slices(scene(), SPACING, BODY, PROFILE, Seer(), config=dataclasses.replace(CONFIG, objects=1), seed=5)
    assert [(m.axis, m.slice, m.found[0]) for m in one] == [(m.axis, m.slice, m.found[0]) for m in few], "nor does the batch decide"
    choices = {tuple(m.slice for m in masks_by_slices(scene(), SPACING, BODY, PROFILE, Seer(), config=CONFIG, seed=s)) for s in range(8)}
    assert len(choices) > 1


def test_what_is_covered_is_not_followed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The middle seed slice shows background, rod and ball; each is followed from there only, instead of from all slices that show it."""
    array = scene()
    array[:, 25:][array[:, 25:] == 200] = 40
    array[array == 250] = 40
    steps: list[float] = []
    counts, results = [], []
    for skip in (False, True):
        monkeypatch.setattr(Follower, "followed", 0)
        config = dataclasses.replace(CONFIG, skip_covered=skip)
        heard = Steps(lambda stage, fraction, eta: steps.append(fraction) if stage == "3D masks" else None)
        results.append([drawn(m) for m in masks_by_slices(array, SPACING, BODY, PROFILE, Seer(), config=config, steps=heard)])
        counts.append(Follower.followed)
        assert steps == sorted(steps)
        steps.clear()
    shown = [{40.0, 150.0, 200.0} & set(np.unique(array[place])) for place in range(1, SHAPE[0], 4)]
    assert counts == [sum(map(len, shown)), 3] and counts[0] > 12
    for masks in results:
        assert len(masks) == 3 and all(sum(np.array_equal(mask, array == value) for mask in masks) == 1 for value in (40, 150, 200))


def test_what_no_object_covers_is_followed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second block of the ball's value begins where the ball ends."""
    monkeypatch.setattr(Follower, "followed", 0)
    array = scene()
    array[array == 250] = 40
    array[16:18, 30:36, 38:44] = 200
    masks_by_slices(array, SPACING, BODY, PROFILE, Seer(), config=dataclasses.replace(CONFIG, skip_covered=True))
    assert Follower.followed == 4, "slice 13 shows background, rod and ball, slice 9 the ball again, slice 17 the block"


def test_progress_is_told_and_the_run_can_be_stopped() -> None:
    heard: list[tuple[str, float]] = []
    steps = Steps(lambda stage, fraction, eta: heard.append((stage, fraction)))
    masks_by_slices(scene(), SPACING, BODY, PROFILE, Seer(), config=CONFIG, steps=steps)
    assert list(dict.fromkeys(stage for stage, _ in heard)) == ["2D masks", "3D masks"]
    assert heard[0][1] == 0 and [f for s, f in heard if s == "3D masks"] == sorted(f for s, f in heard if s == "3D masks")
    with pytest.raises(Cancelled):
        masks_by_slices(scene(), SPACING, BODY, PROFILE, Seer(), config=CONFIG, steps=Steps(cancelled=lambda: True))


def test_one_slice_is_enough() -> None:
    array = scene()[12:13]
    masks = masks_by_slices(array, SPACING, np.ones(array.shape, bool), dataclasses.replace(PROFILE, min_voxels=20), Seer(), config=CONFIG)
    assert masks and all(mask.found[1].shape[0] == 1 for mask in masks)


class Slow(Seer):
    """Takes 20 ms to look and 1 ms for each point, longer the first time, by a clock of its own."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def encode_image(self, image: np.ndarray) -> np.ndarray:
        self.now += 0.02 if self.looks else 0.5
        return super().encode_image(image)

    def propose(self, features: np.ndarray, points: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        self.now += 0.001 * len(points)
        return super().propose(features, points)


@pytest.mark.parametrize(("per_side", "layers"), [(16, 0), (8, 1)])
def test_time_is_estimated_before_it_is_spent(per_side: int, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a factor of two of what the slice then takes, and of what is known of its parts."""
    config, heard = GridConfig(points_per_side=per_side, crop_layers=layers), []

    def enough(*told: float) -> None:
        heard.append(told)
        raise Cancelled

    slow = Slow()
    monkeypatch.setattr(pipeline, "time", slow)
    with pytest.raises(Cancelled):
        masks_by_slices(scene(), SPACING, BODY, PROFILE, slow, config=SliceConfig(grid=config), forewarn=enough)
    ((seconds, slices),) = heard
    assert slices == 6
    image = np.repeat(scene()[13, ..., None], 3, axis=-1).astype(np.uint8)
    slow.encode_image(image)
    began = slow.now
    PlaneMasker(slow, PROFILE, config)(image, BODY[0])
    assert 0.5 < seconds / (slow.now - began) < 2
    assert seconds > (1 + 4 * layers) * (0.02 + 0.001 * per_side**2)


def test_the_body_is_found_plane_by_plane_to_the_ends_of_the_scan() -> None:
    """A cylinder with a lung, that leaves the scan at both ends, on a table."""
    z, y, x = np.mgrid[:4, :40, :40]
    cylinder = (y - 20) ** 2 + (x - 20) ** 2 < 12**2
    hu = np.where(cylinder, 40.0, -1000.0)
    hu[(y - 20) ** 2 + (x - 20) ** 2 < 5**2] = -800
    hu[y == 38] = 100
    assert np.array_equal(body_mask(hu, "ct", Recipe()), cylinder)
    assert body_mask(np.full((2, 2, 2), -1000.0), "ct", Recipe()).all()


GRID = Geometry(shape_zyx=(6, 8, 10), spacing_xyz=(1.0, 1.0, 2.0), origin_xyz=(5.0, 6.0, 7.0))


def labelled() -> Volume:
    array = np.zeros(GRID.shape_zyx, np.int16)
    array[1:3, 2:4, 3:6] = 7
    array[4, 6:8, 0:2] = 7
    array[5, 0:3, 5:9] = 4000
    return Volume(array, GRID)


def test_labels_become_masks_on_the_scans_grid() -> None:
    masks, values = label_masks(labelled(), GRID)
    assert values == [7, 4000] and [box for box, _ in masks] == [((1, 2, 0), (5, 8, 6)), ((5, 0, 5), (6, 3, 9))]
    assert [int(mask.sum()) for _, mask in masks] == [16, 12]
    part = GRID.cropped(((1, 1, 1), (4, 6, 9)))
    (((start, stop), mask),), values = label_masks(labelled(), part)
    assert values == [7] and start == (0, 1, 2) and stop == (2, 3, 5) and mask.all()
    assert label_masks(labelled(), GRID, min_voxels=13)[1] == [7]


def test_labels_join_other_masks() -> None:
    meta = {"origin_xyz": [5.0, 6.0, 7.0], "direction": list(GRID.direction), "per_mask": {"stability": [0.5]}}
    made = MaskSet.of([(((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1), bool))], GRID.shape_zyx, GRID.spacing_zyx, meta)
    mixed = with_labels(made, labelled())
    assert len(mixed) == 3 and np.array_equal(mixed.full(1), labelled().array == 7)
    assert mixed.meta["per_mask"] == {"label": [None, 7, 4000], "stability": [0.5, None, None]}


def test_label_maps_that_do_not_fit_are_refused() -> None:
    far = dataclasses.replace(GRID, origin_xyz=(500.0, 0.0, 0.0))
    with pytest.raises(GeometryError, match="do not overlap"):
        label_masks(Volume(labelled().array, far), GRID)
    with pytest.raises(InputError, match="Labels are 1 and above"):
        label_masks(Volume(np.zeros(GRID.shape_zyx, np.uint8), GRID), GRID)
    with pytest.raises(InputError, match="fractional"):
        label_masks(Volume(np.full(GRID.shape_zyx, 0.5, np.float32), GRID), GRID)


def test_makers_see_the_scan_as_stored() -> None:
    """Oriented and cropped to the body, its values and voxels as they are."""
    hu = np.full((20, 30, 30), -1000, np.int16)
    hu[8:12, 10:20, 10:20] = 55
    flipped = Geometry(shape_zyx=hu.shape, spacing_xyz=(1.0, 1.0, 3.0), direction=(-1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0))
    seen = []

    def maker(part: Volume, modality: str, seed: int) -> tuple[list, dict]:
        seen.append((part.array.min(), part.array.max(), modality, seed))
        at = tuple(int(i[0]) for i in np.nonzero(part.array == 55))
        return [((at, tuple(i + 1 for i in at)), np.ones((1, 1, 1), bool))], {"per_mask": {"mean": [55.0]}}

    masks, warnings = masks_of(Volume(hu, flipped), Recipe(modality="ct"), maker, seed=4)
    assert seen == [(-1000, 55, "ct", 4)] and warnings == ()
    assert masks.shape_zyx == (12, 18, 18) and masks.spacing_zyx == (3.0, 1.0, 1.0) and masks.box(0)[0] == (4, 4, 4)
    assert masks.meta["per_mask"] == {"mean": [55.0]} and masks.meta["modality"] == "ct" and masks.meta["seed"] == 4
