"""Estimated quality: known answers with a network that labels what is as bright as its reference."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mass_core.encoding.location import Location
from mass_core.encoding.task import Task
from mass_core.errors import Cancelled, GeometryError, InputError
from mass_core.evaluation.evidence import Evidence, QualityProbe
from mass_core.evaluation.quality import GOOD, USABLE, Quality, assess, expected_dice, quality_from, with_decision
from mass_core.inference.segmenter import Decision, Segmenter
from mass_core.progress import Steps
from mass_core.volumes.boxes import label_boxes
from mass_core.volumes.label_maps import on_grid
from mass_core.volumes.volume import Volume
from Testing.core.test_segmenter import REFERENCE, TARGET, TRUTH, FakeModel, Nearness, balls, dice

RIGHT = Evidence(ml=10.0, cycle=0.9, own=0.95, scaled=0.95, volume_ratio=1.0, extent_ratio=1.0, offset=0.1)


@pytest.fixture
def segmenter() -> Segmenter:
    return Segmenter(FakeModel())


@pytest.fixture
def task(segmenter: Segmenter) -> Task:
    return segmenter.encode([REFERENCE])


def labelled(parts: Mapping[int, np.ndarray]) -> Volume:
    """A label map on the target's grid."""
    array = np.zeros(TARGET.array.shape, np.uint8)
    for value, mask in parts.items():
        array[mask] = value
    return Volume(array, TARGET.geometry)


def moved(mask: np.ndarray, voxels: int) -> np.ndarray:
    return np.roll(mask, voxels, axis=2)


def gathered(segmenter: Segmenter, task: Task, found: Volume, references: Any = (REFERENCE,)) -> dict[int, Evidence]:
    return QualityProbe(segmenter, task, TARGET, found).gather(references, Steps())


# What is found out


def test_a_right_result_leads_back_to_the_reference(segmenter: Segmenter, task: Task) -> None:
    """The cycle is about the Dice with which the reference segments itself."""
    itself = segmenter.segment(REFERENCE[0], task).labels.array
    known = gathered(segmenter, task, TRUTH)
    for value in (1, 2):
        assert known[value].cycle == pytest.approx(dice(itself == value, REFERENCE[1].array == value), abs=0.02)
        assert known[value].own is not None and known[value].own > 0.95
        assert known[value].scaled is None, "asked of fixed classes only"
        assert known[value].volume_ratio == pytest.approx(1) and known[value].extent_ratio == pytest.approx(1)
        assert known[value].ml == pytest.approx((TRUTH.array == value).sum() * 0.008)
        assert not known[value].cut


def test_a_wrong_result_does_not(segmenter: Segmenter, task: Task) -> None:
    """In the water beside a ball there is nothing of its brightness; half of one ball and half water are neither."""
    one = TRUTH.array == 1
    known = gathered(segmenter, task, labelled({1: moved(one, 9), 2: TRUTH.array == 2}))
    assert known[1].cycle is not None and known[1].cycle < 0.1
    assert known[1].own is not None and known[1].own < 0.2
    assert known[2].cycle is not None and known[2].cycle > 0.95, "the other label is right all the same"
    swapped = gathered(segmenter, task, labelled({1: TRUTH.array == 2, 2: one}))
    assert all(evidence.cycle == 0 for evidence in swapped.values()), "each is taken for the other"
    worse = [gathered(segmenter, task, labelled({1: moved(one, n), 2: TRUTH.array == 2}))[1] for n in (0, 3, 9)]
    assert worse[0].cycle > worse[1].cycle > worse[2].cycle  # type: ignore[operator]


def test_nothing_found(segmenter: Segmenter, task: Task) -> None:
    network = segmenter.model.network
    network.images = 0
    worth = assess(segmenter, task, TARGET, labelled({}), [REFERENCE])
    assert {(x.flag, x.expected_dice, x.cycle, x.agreement, x.volume_ratio) for x in worth.values()} == {("check", None, None, None, None)}
    assert "Nothing was found" in worth[1].text()
    assert network.images == 0, "there is nothing to ask"
    half = assess(segmenter, task, TARGET, labelled({2: TRUTH.array == 2}), [REFERENCE])
    assert half[1].expected_dice is None
    assert half[2].expected_dice is not None and half[2].cycle is not None


def test_less_than_a_working_voxel_is_measured_only(segmenter: Segmenter) -> None:
    task = segmenter.encode([REFERENCE], spacings={1: (4.0,) * 3, 2: (4.0,) * 3})
    dot = np.zeros(TARGET.array.shape, bool)
    dot[22, 10, 16] = True
    known = gathered(segmenter, task, labelled({1: dot, 2: TRUTH.array == 2}))
    assert known[1].volume_ratio is not None and known[1].cycle is None and known[1].scaled is None
    assert known[2].cycle is not None
    assert quality_from(known[1]).flag == "unreliable"


def test_several_references_are_averaged(segmenter: Segmenter) -> None:
    """Each label is looked for where it is shown; in no more than three references."""
    only_first = Volume(np.where(REFERENCE[1].array == 1, 1, 0).astype(np.uint8), REFERENCE[1].geometry)
    useless = Volume(np.roll(only_first.array, 12, axis=2), only_first.geometry)  # the mask lies where no ball is
    task = segmenter.encode([REFERENCE, (REFERENCE[0], only_first)])
    known = gathered(segmenter, task, TRUTH, [REFERENCE, (REFERENCE[0], useless)])
    alone = gathered(segmenter, task, TRUTH)
    assert known[1].cycle == pytest.approx(alone[1].cycle / 2, abs=0.02)  # type: ignore[operator]
    assert known[2].cycle == alone[2].cycle
    four = gathered(segmenter, task, TRUTH, [*[REFERENCE] * 3, (REFERENCE[0], useless)])
    assert four[1].cycle == pytest.approx(alone[1].cycle)


def test_without_references_there_is_no_cycle(segmenter: Segmenter, task: Task) -> None:
    right, wrong = (
        assess(segmenter, task, TARGET, labelled({1: moved(TRUTH.array == 1, n), 2: TRUTH.array == 2}), None)[1] for n in (0, 9)
    )
    assert right.cycle is None and right.agreement is not None
    assert right.expected_dice > wrong.expected_dice  # type: ignore[operator]
    assert wrong.flag == "unreliable"


def test_fixed_classes_are_judged_by_scale_and_size(task: Task) -> None:
    network = Nearness()
    network.config = replace(network.config, task_encoding=False)
    fixed = Segmenter(FakeModel(network))
    known = gathered(fixed, task, TRUTH, ())
    assert network.references == 0
    assert known[1].own is None and known[1].cycle is None and known[1].scaled is not None
    assert quality_from(known[1]).agreement == known[1].scaled
    gone = gathered(fixed, task, labelled({1: moved(TRUTH.array == 1, 9)}), ())
    assert expected_dice(gone[1]) < expected_dice(known[1])


def test_only_windows_near_the_masks_are_computed(segmenter: Segmenter, task: Task) -> None:
    network = segmenter.model.network
    box = label_boxes(TRUTH.array)[1]
    network.images = 0
    whole = segmenter.segment(TARGET, task).labels.array
    of_whole, network.images = network.images, 0
    near = segmenter.segment(TARGET, task, near=[box]).labels.array
    assert 0 < network.images < of_whole
    part = tuple(slice(a, b) for a, b in zip(*box, strict=True))
    assert np.array_equal(near[part], whole[part]) and near[part].any()
    network.images = 0
    assert not segmenter.segment(TARGET, task, near=[]).labels.array.any()
    assert network.images == 0


def test_a_working_spacing_can_be_given(segmenter: Segmenter) -> None:
    task = segmenter.encode([REFERENCE], spacings={2: (3.0, 3.0, 3.0)})
    assert [label.spacing_zyx for label in task.labels] == [(2.0,) * 3, (3.0,) * 3]


# Sizes and places


def test_tasks_know_volume_and_extent(task: Task) -> None:
    assert task.labels[0].ml == pytest.approx((REFERENCE[1].array == 1).sum() * 0.008)
    assert task.labels[0].extent_mm == (18.0, 18.0, 18.0)
    image, labels = REFERENCE
    smaller = Volume(np.where(np.indices(labels.array.shape)[0] > 10, 0, labels.array), labels.geometry)
    segmenter = Segmenter(FakeModel())
    both = segmenter.encode([(image, labels), (image, smaller)])
    assert both.labels[0].extent_mm == (18.0, 18.0, 14.0)


def test_sizes_and_places_that_differ_are_told(segmenter: Segmenter, task: Task) -> None:
    small = replace(task, labels=tuple(replace(x, ml=0.5, extent_mm=(18.0, 18.0, 6.0)) for x in task.labels))
    evidence = gathered(segmenter, small, TRUTH)[1]
    assert evidence.extent_ratio == pytest.approx(3.0)
    assert evidence.volume_ratio == pytest.approx((TRUTH.array == 1).sum() * 0.008 / 0.5)
    assert f"{evidence.volume_ratio:.2g} times as large as in the references" in quality_from(evidence, several=True).text()
    (lying,) = {x.offset for x in (gathered(segmenter, task, TRUTH)[1],)}
    low, high = (np.argwhere(m.array == 1).mean(axis=0) for m in (REFERENCE[1], TRUTH))
    assert lying == pytest.approx(np.linalg.norm(high - low) * 2 / 18)
    elsewhere = replace(task, labels=tuple(replace(x, place=Location((0.0,) * 3, (900.0,) * 3)) for x in task.labels))
    assert gathered(segmenter, elsewhere, TRUTH)[1].offset is None, "another region of the body"


def test_older_tasks_do_not_know_sizes(segmenter: Segmenter, task: Task) -> None:
    old = replace(task, labels=tuple(replace(x, ml=None, extent_mm=None, place=None) for x in task.labels))
    quality = assess(segmenter, old, TARGET, TRUTH, [REFERENCE])[1]
    assert quality.volume_ratio is None and quality.extent_ratio is None and quality.cycle is not None
    assert quality.expected_dice == pytest.approx(assess(segmenter, task, TARGET, TRUTH, [REFERENCE])[1].expected_dice, abs=0.2)


def test_a_result_at_the_border_of_the_scan(segmenter: Segmenter, task: Task) -> None:
    box = ((0, 0, 0), (22, 32, 32))  # ends in the middle of a ball
    cut = QualityProbe(segmenter, task, TARGET.cropped(box), TRUTH.cropped(box)).gather([REFERENCE], Steps())
    assert cut[1].cut and not cut[2].cut
    assert "border of the scan" in quality_from(cut[1]).text()


# What follows from it


def test_the_better_the_signs_the_higher_the_dice() -> None:
    best = expected_dice(RIGHT)
    assert 0 < best < 1 and quality_from(RIGHT).flag == "good" and quality_from(RIGHT).reasons == ()
    worse: list[dict[str, Any]] = [{"cycle": 0.2}, {"own": 0.4}, {"extent_ratio": 4.0}, {"extent_ratio": 0.25}]
    for change in worse:
        assert expected_dice(replace(RIGHT, **change)) < best, change
        assert quality_from(replace(RIGHT, **change)).reasons, change
    awful = quality_from(Evidence(ml=1.0, cycle=0.0, own=0.1, scaled=0.0, volume_ratio=8.0, extent_ratio=3.0, offset=2.0, cut=True))
    assert awful.flag == "unreliable" and awful.expected_dice is not None and awful.expected_dice < 0.2
    assert len(awful.reasons) == 7


def test_a_trusted_alignment_raises_the_expected_dice() -> None:
    """Where nothing was aligned, or the result is from elsewhere, the formula without alignment counts."""
    trusted, doubted, refused = (
        with_decision(RIGHT, Decision(by=by, trust=trust, reason=reason))  # type: ignore[arg-type]
        for by, trust, reason in (("alignment and network", 0.98, ""), ("network", 0.1, "why"), ("network", None, "mirrored"))
    )
    assert expected_dice(trusted) > expected_dice(doubted) > expected_dice(refused)
    assert with_decision(RIGHT, Decision(by="network")) == with_decision(RIGHT, None) == RIGHT


@pytest.mark.parametrize(("cycle", "own", "told"), [(0.04, 0.52, True), (0.04, 0.7, False), (0.5, 0.52, False), (None, 0.1, False)])
def test_a_structure_that_may_not_be_there_is_told(cycle: float | None, own: float, told: bool) -> None:
    """Both signs of a phantom's liver sought in a head are low."""
    reasons = quality_from(replace(RIGHT, cycle=cycle, own=own)).reasons
    assert ("The scan may not show the structure at all." in reasons) == told


def test_flags_follow_the_expected_dice() -> None:
    flags = {expected_dice(e): quality_from(e).flag for e in (replace(RIGHT, cycle=n / 20, own=n / 20, scaled=n / 20) for n in range(21))}
    assert {"good", "check", "unreliable"} == set(flags.values())
    assert all(flag == ("good" if x >= GOOD else "check" if x >= USABLE else "unreliable") for x, flag in flags.items())


@pytest.mark.parametrize("unknown", [("cycle",), ("cycle", "own"), ("cycle", "own", "scaled"), ("volume_ratio", "extent_ratio", "offset")])
def test_what_is_not_known_is_done_without(unknown: tuple[str, ...]) -> None:
    good = replace(RIGHT, **dict.fromkeys(unknown))
    poor = replace(
        good,
        **{name: 0.2 for name in ("cycle", "own", "scaled") if name not in unknown},
        extent_ratio=None if "extent_ratio" in unknown else 5.0,
    )
    assert 0 < expected_dice(poor) < expected_dice(good) < 1


def test_values_for_programs() -> None:
    told = Quality(expected_dice=0.123456, flag="unreliable", reasons=("Why.",), cycle=0.5).to_json()
    assert told["expected_dice"] == 0.1235 and told["agreement"] is None and told["reasons"] == ("Why.",)
    assert set(told) >= {"expected_dice", "flag", "reasons", "cycle", "agreement", "volume_ratio", "extent_ratio"}


# Progress, and what is refused


def test_progress_and_cancelling(segmenter: Segmenter, task: Task) -> None:
    told: list[tuple[str, float]] = []
    assess(segmenter, task, TARGET, TRUTH, [REFERENCE], progress=lambda stage, share, eta: told.append((stage, share)))
    assert {stage for stage, _ in told} == {"assess"}
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    images = segmenter.model.network.images
    with pytest.raises(Cancelled):
        assess(segmenter, task, TARGET, TRUTH, [REFERENCE], cancelled=lambda: segmenter.model.network.images >= images + 2)
    assert segmenter.model.network.images == images + 2, "between windows"


def test_a_result_on_another_grid(segmenter: Segmenter, task: Task) -> None:
    """A cut-out is judged like the whole; one that lies elsewhere, or holds other labels, is refused."""
    box = ((2, 3, 4), (31, 30, 29))
    assert gathered(segmenter, task, TRUTH.cropped(box)) == gathered(segmenter, task, TRUTH)
    far = replace(TRUTH.geometry, origin_xyz=(900.0, 0.0, 0.0))
    with pytest.raises(GeometryError, match="but another position or spacing"):
        assess(segmenter, task, TARGET, Volume(TRUTH.array, far))
    with pytest.raises(InputError, match="The result holds 7; the labels expected are 1, 2"):
        assess(segmenter, task, TARGET, labelled({7: TRUTH.array == 1}))
    with pytest.raises(InputError, match="fractional"):
        on_grid(Volume(TRUTH.array * 0.5, TRUTH.geometry), TARGET.geometry)


def test_references_whose_masks_have_another_grid(segmenter: Segmenter) -> None:
    image, labels = balls({1: (10, 10, 10), 2: (10, 22, 22)})
    part = labels.cropped(((2, 2, 2), (20, 30, 30)))
    task = segmenter.encode([(image, part)])
    assert gathered(segmenter, task, TRUTH, [(image, part)]) == gathered(segmenter, task, TRUTH, [(image, labels)])
