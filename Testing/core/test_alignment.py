"""Alignment: known shifts, affine maps and smooth fields are recovered; grids do not matter; what cannot be aligned is not trusted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mass_core.alignment.align import Target, align
from mass_core.alignment.atlas import REACH_MM, make_atlas
from mass_core.alignment.discrete import robust_affine, search, search_both_ways
from mass_core.alignment.features import CHANNELS, mind
from mass_core.alignment.fields import composed, inverse_error, made_inverse, resized, sample, smoothed, voxel_grid
from mass_core.alignment.fusion import NetworkEvidence, reliability
from mass_core.alignment.locate import aligned_labels, locate
from mass_core.alignment.prior import combined
from mass_core.alignment.refine import refined
from mass_core.alignment.scan import aligned_scan, lattice
from mass_core.alignment.start import shifts
from mass_core.alignment.trust import LEAST_TRUST, evidence, trust
from mass_core.config import Recipe
from mass_core.data.phantoms import subject
from mass_core.errors import Cancelled, InputError
from mass_core.evaluation.metrics import dice
from mass_core.progress import Steps
from mass_core.volumes.resample import grid_at, orient, resample
from mass_core.volumes.volume import Geometry, Volume

from .strangers import stranger

CPU = torch.device("cpu")
RECIPE = Recipe(ct_clip_hu=(-500.0, 500.0))
WEIGHTS = (0.0, 1.0, 1.0, 0.0, 0.0)


def person(seed):
    """A CT-like torso and its label map, coarse, for speed."""
    return subject(seed, "ct", shape_zyx=(36, 44, 52), spacing_zyx=(8.4, 7.0, 7.0))


@pytest.fixture(scope="module")
def reference():
    return person(1)


@pytest.fixture(scope="module")
def other():
    """Another person, with the same labels."""
    return person(2)


@pytest.fixture(scope="module")
def atlas(reference):
    return make_atlas(*reference, [1, 2, 3], RECIPE, CPU)


def found(atlas, image, values=(1, 2, 3)):
    """Label map of what alignment puts into a scan, trusted or not."""
    priors = locate([atlas], values, image, RECIPE, CPU, Steps())[0]
    return aligned_labels({value: replace(prior, trust=1.0) for value, prior in priors.items()}, image, np.dtype(np.uint8))


def overlap(labels, truth, values=(1, 2, 3)):
    return [float(dice(labels == value, truth == value)) for value in values if (truth == value).any()]


def texture(shape, seed=0, times=6):
    """A smooth random image with structure everywhere."""
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))
    image = smoothed(noise[None], times)[0]
    return image / image.std()


def test_a_scan_is_aligned_with_itself_without_moving(reference, atlas):
    alignment = align(atlas, Target(reference[0], RECIPE, CPU))
    assert alignment.field.abs().max() < 0.1 and float(alignment.shift.abs().max()) == 0
    assert min(overlap(found(atlas, reference[0]), reference[1].array)) > 0.98


def test_another_person_is_found_better_than_by_laying_the_mask_on(reference, other, atlas):
    image, labels = other
    laid = resample(reference[1], labels.geometry, "nearest").array
    aligned, copied = overlap(found(atlas, image), labels.array), overlap(laid, labels.array)
    assert np.mean(aligned) > 0.7 and np.mean(aligned) > np.mean(copied) + 0.1


@pytest.mark.parametrize(
    "change",
    [
        lambda volume: Volume(volume.array[:, ::-1, ::-1].copy(), _flipped(volume.geometry)),
        lambda volume: _resliced(volume, (2.0, 1.0, 1.0)),
        lambda volume: orient(volume, "LPS"),
        lambda volume: _on(volume, _oblique(volume.geometry)),
        lambda volume: volume.cropped(((2, 2, 2), tuple(n - 2 for n in volume.array.shape))),
    ],
    ids=["flipped", "thick slices", "other orientation", "oblique", "cropped"],
)
def test_how_a_scan_is_stored_does_not_move_what_is_found(other, atlas, change):
    """The same person on another grid: the structure has the same place in the patient."""
    image, labels = other
    plain = found(atlas, image)
    twin_image, twin_labels = change(image), change(labels)
    twin = found(atlas, twin_image)
    for value in (1, 2, 3):
        assert np.linalg.norm(_centre_mm(plain == value, image.geometry) - _centre_mm(twin == value, twin_image.geometry)) < 6
    assert np.mean(overlap(twin, twin_labels.array)) > np.mean(overlap(plain, labels.array)) - 0.1


def _on(volume, grid):
    """A scan or a label map on another grid."""
    return resample(volume, grid, "nearest" if volume.array.dtype == np.uint8 else "linear", fill=float(volume.array.min()))


def _resliced(volume, factors):
    """On voxels so many times as long."""
    spacing = [mm * factor for mm, factor in zip(volume.geometry.spacing_zyx, factors, strict=True)]
    return _on(volume, grid_at(volume.geometry, tuple(spacing), centred=True))


def _flipped(geometry):
    """The geometry of an array flipped along y and x, so that every voxel keeps its place."""
    direction = np.reshape(geometry.direction, (3, 3)).copy()
    direction[:, :2] *= -1
    _, ny, nx = geometry.shape_zyx
    return replace(geometry, direction=tuple(direction.ravel().tolist()), origin_xyz=geometry.point((nx - 1, ny - 1, 0)))


def _oblique(geometry, degrees=12.0):
    """A grid turned around the same middle."""
    a = np.radians(degrees)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.reshape(geometry.direction, (3, 3))
    middle = np.mean(geometry.box_mm, axis=0)
    half = turn * np.asarray(geometry.spacing_xyz) @ ((np.asarray(geometry.shape_zyx[::-1]) - 1) / 2)
    x, y, z = (middle - half).tolist()
    return replace(geometry, direction=tuple(turn.ravel().tolist()), origin_xyz=(x, y, z))


def _centre_mm(mask, geometry):
    index = np.argwhere(mask).mean(axis=0)[::-1]
    return geometry.affine[:3, :3] @ index + geometry.affine[:3, 3]


def test_left_stays_left(reference, other):
    """Both kidneys look alike; each is found on its own side."""
    image, labels = other
    kidneys = [value for value in np.unique(reference[1].array) if value]
    priors = locate([make_atlas(*reference, kidneys, RECIPE, CPU)], kidneys, image, RECIPE, CPU, Steps())[0]
    assert set(priors) == set(kidneys)
    for value, prior in priors.items():
        truth = _centre_mm(labels.array == value, labels.geometry)
        index = np.argwhere(prior.distance > 0).mean(axis=0) + np.array(prior.box[0])
        place = image.geometry.affine[:3, :3] @ index[::-1] + image.geometry.affine[:3, 3]
        assert abs(place[0] - truth[0]) < 25


def test_a_known_affine_map_is_recovered():
    """Trimmed least squares ignores a quarter of wrong displacements."""
    grid = voxel_grid((10, 12, 14), CPU)
    matrix = torch.tensor([[0.03, 0.02, 0.0], [-0.02, -0.04, 0.01], [0.0, 0.03, 0.02]])
    field = torch.einsum("ij,jdhw->idhw", matrix, grid - 6) + torch.tensor([0.5, -1.0, 0.2]).view(3, 1, 1, 1)
    spoiled = field.clone()
    spoiled[:, :2] += 5
    fitted = robust_affine(spoiled, torch.ones(10, 12, 14), stiffness=0.0)
    assert (fitted - field).abs().max() < 1e-3


def test_a_known_smooth_field_is_recovered_within_a_voxel():
    shape = (40, 40, 40)
    wanted = 2.0 * torch.stack([torch.sin(voxel_grid(shape, CPU)[(axis + 1) % 3] / 7.0) for axis in range(3)])
    moving = texture(shape)
    fixed = sample(moving[None], voxel_grid(shape, CPU) + wanted)[0]
    a, b, all_known = mind(fixed, 1), mind(moving, 1), torch.ones(shape)
    field, wrong = search_both_ways(a, b, all_known, all_known, reach=3)
    field = refined(a, b, all_known, all_known, field, steps=15, smoothing=2)
    inner = (slice(None), *(slice(5, -5),) * 3)
    error = (field - wanted)[inner].norm(dim=0)
    assert error.median() < 0.3 and error.quantile(0.95) < 1.0
    assert wrong[5:-5, 5:-5, 5:-5].median() < 1.5 and (_jacobian(field)[5:-5, 5:-5, 5:-5] > 0).all()


def test_the_opposite_direction_is_searched_as_by_itself():
    """Both directions share their differences; together they are what two searches give, also where scans are unknown or flat."""
    shape = (9, 10, 4)
    moving = texture(shape)
    a, b = mind(moving.roll(1, 0), 1), mind(moving, 1)
    here, there = torch.ones(shape), torch.ones(shape)
    here[:, :2], there[-2:] = 0, 0
    forwards, backwards = search(a, b, there, here, reach=3), search(b, a, here, there, reach=3)
    assert forwards.abs().max() > 0.5
    field, wrong = search_both_ways(a, b, there, here, reach=3)
    torch.testing.assert_close(field, made_inverse(forwards, backwards))
    torch.testing.assert_close(wrong, inverse_error(forwards, backwards))


def test_only_the_surroundings_of_structures_are_refined(atlas, other):
    """The box that is refined is a part of the reference's, at the same place; a structure too thin for any voxel takes all of it."""
    target = Target(other[0], RECIPE, CPU)
    small = make_atlas(*person(1), [1], RECIPE, CPU)
    part, whole = align(small, target), align(replace(small, near=torch.zeros_like(small.near)), target)
    assert whole.field.shape[1:] == small.near.shape and part.field[0].numel() < 0.7 * small.near.numel()
    start = ((part.scan.first_mm - small.scan.first_mm) / small.scan.mm).round().long()
    inside = tuple(slice(int(a), int(a) + n) for a, n in zip(start, part.field.shape[1:], strict=True))
    torch.testing.assert_close(part.scan.values, small.scan.values[inside])


def _jacobian(field):
    """Determinant [D,H,W] of the mapping; at or below 0 the field folds."""
    rows = torch.stack([torch.stack(torch.gradient(field[axis])) for axis in range(3)])
    return torch.linalg.det(rows.permute(2, 3, 4, 0, 1) + torch.eye(3))


def test_features_ignore_brightness_and_contrast():
    image = texture((16, 16, 16))
    features = mind(image)
    assert features.shape == (CHANNELS, 16, 16, 16) and 0 <= features.min() and features.max() <= 1
    torch.testing.assert_close(mind(3 * image + 7), features, atol=1e-4, rtol=1e-3)
    assert torch.isfinite(mind(torch.zeros(8, 8, 8))).all()


def test_fields_compose_invert_and_keep_their_length_on_other_grids():
    shape = (12, 12, 12)
    shift = torch.tensor([1.0, -2.0, 0.5]).view(3, 1, 1, 1).expand(3, *shape)
    torch.testing.assert_close(composed(shift, shift), 2 * shift)
    torch.testing.assert_close(made_inverse(shift, -shift), shift)
    torch.testing.assert_close(resized(shift, (24, 24, 24)), (2 * shift[:, :1, :1, :1]).expand(3, 24, 24, 24))


def test_the_shift_is_found_where_fields_of_view_differ(reference):
    """A scan of the lower half alone still overlaps where it should."""
    image = reference[0]
    part = image.cropped(((0, 0, 0), (image.array.shape[0] * 2 // 3, *image.array.shape[1:])))
    whole, lower = (aligned_scan(volume, lattice(volume.geometry, 8.0), RECIPE.ct_clip_hu, CPU) for volume in (image, part))
    best = shifts(lower, whole, alike=True, count=1)[0]
    assert best.abs().max() <= 8


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_other_parts_of_the_body_are_not_trusted(seed, atlas):
    strange = stranger(seed)
    priors = locate([atlas], [1, 2, 3], strange, RECIPE, CPU, Steps())[0]
    assert all(prior.trust < LEAST_TRUST and prior.reason for prior in priors.values())
    assert not aligned_labels(priors, strange, np.dtype(np.uint8)).any()


def test_trust_is_higher_for_the_own_kind(other, atlas):
    alignment = align(atlas, Target(other[0], RECIPE, CPU))
    facts = evidence(alignment, 1)
    assert trust(facts) > LEAST_TRUST
    assert trust(replace(facts, residual=0.2, relative_residual=0.9)) < 0.1


def with_lesion(image, labels, number, radius_mm=18):
    """The scan with a bright ball in the middle of its largest structure, and the ball as one more label."""
    values, counts = np.unique(labels.array[labels.array > 0], return_counts=True)
    places = np.argwhere(labels.array == values[counts.argmax()])
    middle = places[np.linalg.norm((places - places.mean(0)) * labels.geometry.spacing_zyx, axis=1).argmin()]
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in labels.array.shape], indexing="ij"), -1)
    ball = np.linalg.norm((grid - middle) * labels.geometry.spacing_zyx, axis=-1) < radius_mm
    bright = Volume(np.where(ball, image.array + 200, image.array).astype(np.float32), image.geometry, "ct")
    return bright, Volume(np.where(ball, number, labels.array).astype(np.uint8), labels.geometry)


def test_a_lesion_is_not_put_where_the_target_shows_none(reference):
    """What stands out in the reference and not at all in the target is left to the network, and the others are not."""
    bright, labels = with_lesion(*reference, 9)
    atlas = make_atlas(bright, labels, [2, 9], RECIPE, CPU)
    priors = locate([atlas], [2, 9], reference[0], RECIPE, CPU, Steps())[0]
    assert priors[9].trust < LEAST_TRUST < priors[2].trust and "as lesions do" in priors[9].reason
    assert not (aligned_labels(priors, reference[0], np.dtype(np.uint8)) == 9).any()
    there = locate([atlas], [2, 9], bright, RECIPE, CPU, Steps())[0]
    assert there[9].trust > LEAST_TRUST and dice(aligned_labels(there, bright, np.dtype(np.uint8)) == 9, labels.array == 9) > 0.9


def test_a_thin_structure_may_be_missed_by_an_alignment_that_is_a_little_off(reference):
    bright, labels = with_lesion(*reference, 9, radius_mm=10)
    atlas = make_atlas(bright, labels, [2, 9], RECIPE, CPU)
    prior = locate([atlas], [2, 9], reference[0], RECIPE, CPU, Steps())[0][9]
    assert prior.trust > LEAST_TRUST and not prior.reason


@pytest.mark.parametrize("shape", [(1, 40, 40), (3, 30, 30), (2, 2, 2)], ids=["one slice", "three slices", "tiny"])
def test_scans_of_a_few_slices_are_aligned_or_refused_in_words(atlas, shape):
    values = np.random.default_rng(0).normal(0, 100, shape).astype(np.float32)
    scan = Volume(values, Geometry(shape_zyx=shape, spacing_xyz=(5.0, 5.0, 5.0)), "ct")
    for prior in locate([atlas], [1, 2, 3], scan, RECIPE, CPU, Steps())[0].values():
        assert np.isfinite(prior.distance).all() and prior.trust < LEAST_TRUST


def test_a_mask_at_the_border_of_its_reference_is_carried_over(reference, other):
    image, labels = reference
    z = np.argwhere(labels.array == 1)[:, 0].mean()
    part = ((0, 0, 0), (int(z), *image.array.shape[1:]))
    atlas = make_atlas(image.cropped(part), labels.cropped(part), [1], RECIPE, CPU)
    target = Target(other[0], RECIPE, CPU)
    prior = combined([align(atlas, target)], 1, target, WEIGHTS)
    assert np.isfinite(prior.distance).all() and (prior.distance > 0).any() and abs(prior.distance).max() <= REACH_MM + 1e-3


def test_references_do_not_vote_beyond_the_end_of_their_scans(reference, other):
    """Two of three references end in the middle of the liver: the third alone knows how it goes on."""
    image, labels = person(3)
    end = int(np.argwhere(labels.array == 1)[:, 0].mean())
    upper = ((end, 0, 0), image.array.shape)
    atlases = [make_atlas(*reference, [1], RECIPE, CPU)]
    atlases += [make_atlas(image.cropped(upper), labels.cropped(upper), [1], RECIPE, CPU) for image, labels in (person(3), person(4))]
    target = Target(other[0], RECIPE, CPU)
    prior = combined([align(atlas, target) for atlas in atlases], 1, target, WEIGHTS)
    found = aligned_labels({1: replace(prior, trust=1.0)}, other[0], np.dtype(np.uint8)) == 1
    lower = slice(0, end - 2)
    assert dice(found[lower], other[1].array[lower] == 1) > 0.8


def test_a_bad_reference_among_several_does_not_spoil_the_result(reference, other, atlas):
    """One of three references shows noise: the fused result is hardly worse than that of the good ones."""
    image, labels = reference
    noise = Volume(np.random.default_rng(1).normal(0, 200, image.array.shape).astype(np.float32), image.geometry, "ct")
    bad = make_atlas(noise, labels, [1, 2, 3], RECIPE, CPU)
    good = [atlas, make_atlas(*person(3), [1, 2, 3], RECIPE, CPU)]

    def score(atlases):
        priors = locate(atlases, [1, 2, 3], other[0], RECIPE, CPU, Steps())[0]
        return np.mean(overlap(aligned_labels(priors, other[0], np.dtype(np.uint8)), other[1].array))

    assert score([*good, bad]) > score(good) - 0.05


def test_it_stops_when_asked(other, atlas):
    with pytest.raises(Cancelled):
        locate([atlas], [1], other[0], RECIPE, CPU, Steps(cancelled=lambda: True))


def test_a_reference_without_the_label_is_refused(reference):
    with pytest.raises(InputError, match="none of the labels"):
        make_atlas(*reference, [99], RECIPE, CPU)


def test_the_network_is_estimated_by_its_agreement_with_the_alignment_above_all() -> None:
    """A network sure of another place counts for little; one that agrees, for much."""
    elsewhere, agreeing = (reliability(NetworkEvidence(self_dice=0.75, sureness=0.9, agreement=one)) for one in (0.0, 0.8))
    assert elsewhere < 0.25 < 0.75 < agreeing < 1
    unsure = reliability(NetworkEvidence(self_dice=0.75, sureness=0.1, agreement=0.8))
    assert elsewhere < unsure < agreeing


def test_several_references_count_as_far_as_they_are_trusted(reference, other, atlas):
    """Two that fit count nearly twice; one of noise beside them hardly anything."""
    noise = Volume(np.random.default_rng(1).normal(0, 200, reference[0].array.shape).astype(np.float32), reference[0].geometry, "ct")
    target = Target(other[0], RECIPE, CPU)
    one, two = (align(made, target) for made in (atlas, make_atlas(*person(3), [1, 2, 3], RECIPE, CPU)))
    bad = align(make_atlas(noise, reference[1], [1, 2, 3], RECIPE, CPU), target)
    assert combined([one], 1, target, WEIGHTS).references == 1
    both = combined([one, two], 1, target, WEIGHTS).references
    assert 1.6 < both <= 2
    assert combined([one, two, bad], 1, target, WEIGHTS).references < both + 0.3
