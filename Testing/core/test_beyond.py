"""Structures that the border of a reference's scan cuts off."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mass_core import Segmenter, load_model
from mass_core.alignment.align import Target, align
from mass_core.alignment.atlas import make_atlas, places_in
from mass_core.alignment.beyond import Cut, beyond, cuts, extended
from mass_core.alignment.fusion import fused
from mass_core.alignment.prior import combined
from mass_core.config import Recipe
from mass_core.data.phantoms import subject
from mass_core.volumes.boxes import Box
from mass_core.volumes.resample import orient
from mass_core.volumes.volume import Geometry, Volume

CPU = torch.device("cpu")
RECIPE = Recipe(ct_clip_hu=(-500.0, 500.0))
WEIGHTS = (0.0, 1.0, 1.0, 1.0, 0.0)
LIVER = 1


def person(seed):
    """A CT-like torso and its label map, coarse, for speed."""
    return subject(seed, "ct", shape_zyx=(36, 44, 52), spacing_zyx=(8.4, 7.0, 7.0))


def lower_half(image, labels):
    """A scan that ends in the middle of the liver."""
    end = int(np.argwhere(labels.array == LIVER)[:, 0].mean())
    part = ((0, 0, 0), (end, *image.array.shape[1:]))
    return image.cropped(part), labels.cropped(part)


def prior_of(reference, target):
    aligned_to = Target(target, RECIPE, CPU)
    return combined([align(make_atlas(*reference, [LIVER], RECIPE, CPU), aligned_to)], LIVER, aligned_to, WEIGHTS)


@pytest.fixture(scope="module")
def half():
    return lower_half(*person(1))


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SLP"])
def test_the_border_that_cuts_a_structure_off_is_known_however_the_scan_is_stored(half, axes):
    image, labels = (orient(volume, axes) for volume in half)
    distance = make_atlas(image, labels, [LIVER], RECIPE, CPU).distances[LIVER]
    (border,) = cuts(distance, image.geometry)
    outwards = image.geometry.affine[:3, 2 - border.axis] * (1 if border.last else -1)
    assert np.allclose(outwards / np.linalg.norm(outwards), (0, 0, 1))  # the scan ends towards the head


def test_a_whole_structure_is_not_cut_off():
    image, labels = person(1)
    assert cuts(make_atlas(image, labels, [LIVER], RECIPE, CPU).distances[LIVER], image.geometry) == []


def test_a_structure_too_small_for_its_map_is_not_cut_off():
    grid = Geometry(shape_zyx=(4, 4, 4), spacing_xyz=(1.0, 1.0, 1.0))
    assert cuts(Volume(np.full(grid.shape_zyx, -1, np.float32), grid), grid) == []


def test_points_beyond_a_border_and_the_box_that_holds_them():
    scan = Geometry(shape_zyx=(10, 10, 10), spacing_xyz=(1.0, 1.0, 2.0))
    points = torch.tensor([[18.0, 5, 5], [20.0, 5, 5], [20.0, 40, 5], [5.0, 40, 5]]).T[:, :, None, None]
    assert beyond([Cut(0, True)], places_in(scan, points)).flatten().tolist() == [False, True, True, False]
    upside_down = Geometry(shape_zyx=(30, 30, 30), spacing_xyz=(1.0, 1.0, 1.0), direction=(1, 0, 0, 0, -1, 0, 0, 0, -1))
    box = Box((10, 10, 10), (20, 20, 20))
    assert extended(box, scan, [Cut(0, True)], scan) == Box((10, 10, 10), (10, 20, 20))
    assert extended(box, scan, [Cut(0, True)], upside_down) == Box((0, 10, 10), (20, 20, 20))


def test_the_network_goes_on_where_the_reference_ends(half):
    image, labels = person(2)
    prior = prior_of(half, image)
    truth = labels.array[prior.box.slices()] == LIVER
    sure = np.where(truth, 0.9, 0.1).astype(np.float32)
    unknown = prior.unknown(prior.distance)
    assert (truth & unknown).sum() > 0.2 * truth.sum()
    assert prior.box.high[0] == image.array.shape[0]
    assert 0.1 < prior.beyond < 0.9
    for reliability, continued in ((0.8, True), (0.3, False)):
        found = fused(replace(prior, reliability=reliability), prior.box, sure) >= 0.5
        assert (found[unknown] == (truth[unknown] & continued)).all()


def test_nothing_is_unknown_after_a_whole_reference():
    assert prior_of(person(1), person(2)[0]).beyond == 0


@pytest.mark.parametrize(("align", "words"), [("only", "the result ends there as well"), ("auto", "The references' scans end within")])
def test_a_structure_that_the_reference_cuts_off_is_named(half, align, words):
    segmenter = Segmenter(load_model("small"))
    segmenter = segmenter.with_recipe(segmenter.recipe.changed(align=align))
    result = segmenter.segment(person(2)[0], segmenter.encode([half], [LIVER]))
    assert any(words in warning and "label 1" in warning for warning in result.warnings)
