"""Segmentation by alignment and network together: what each decides, what is told, and what alignment off leaves as it was."""

import json
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest

from mass_core import Segmenter, Task, load_model
from mass_core.alignment.locate import locate
from mass_core.cli import main as mass
from mass_core.config import recipe
from mass_core.data.phantoms import subject
from mass_core.errors import InputError
from mass_core.evaluation.metrics import dice
from mass_core.evaluation.trials import copied
from mass_core.inference import segmenter as segmenter_module
from mass_core.volumes.volume import Geometry, Volume

from .strangers import stranger

FUSION = (0.0, 1.0, 1.0, 0.2, 0.2)
VALUES = [1, 2]


@cache
def person(seed):
    """A torso and its label map, coarse; not to be changed."""
    return subject(seed, "ct", shape_zyx=(36, 44, 52), spacing_zyx=(8.4, 7.0, 7.0))


@pytest.fixture(scope="module")
def model(tiny_weights):
    return load_model(tiny_weights, "cpu")


def segmented(model, image, **changes):
    segmenter = Segmenter(model, model.recipe.changed(fusion=FUSION, spacing_zyx=(7.0, 7.0, 7.0)).changed(**changes))
    return segmenter.segment(image, segmenter.encode([person(1)], VALUES))


@pytest.fixture
def aligned_once(monkeypatch):
    """What alignment finds of a test's scan is computed once, and decided upon by all of its recipes."""
    kept = []

    def once(*given):
        kept[:] = kept or [locate(*given)]
        return kept[0]

    monkeypatch.setattr(segmenter_module, "locate", once)


def test_alignment_alone_finds_what_a_random_network_cannot(model):
    image, labels = person(2)
    result = segmented(model, image, align="only")
    assert np.mean([dice(result.labels.array == value, labels.array == value) for value in VALUES]) > 0.6
    assert {decision.by for decision in result.decisions.values()} == {"alignment"}
    assert all(decision.trust > 0.5 and not decision.reason for decision in result.decisions.values())
    assert result.volumes_ml[1] > 0 and result.passes == () and "align" in result.timings


def test_alignment_alone_has_no_probabilities(model):
    segmenter = Segmenter(model, model.recipe.changed(align="only"))
    with pytest.raises(InputError, match="no probabilities"):
        segmenter.segment(person(2)[0], segmenter.encode([person(1)], VALUES), probabilities=True)


def test_a_lower_threshold_finds_more_where_both_decide(model):
    image, _ = person(2)
    low, high = (segmented(model, image, threshold=value) for value in (0.1, 0.9))
    assert {decision.by for decision in low.decisions.values()} == {"alignment and network"}
    assert all(low.volumes_ml[value] > high.volumes_ml[value] > 0 for value in VALUES)


def test_together_the_network_is_asked_only_near_the_aligned_structure(model, monkeypatch):
    """With a random network the result stays where alignment puts it, and fewer windows are computed."""
    image, labels = person(2)
    seen, encode_image = {"off": 0, "auto": 0}, model.network.encode_image

    def counted(align, windows):
        seen[align] += len(windows)
        return encode_image(windows)

    for align in seen:
        segmenter = Segmenter(model, model.recipe.changed(fusion=FUSION, spacing_zyx=(5.0, 5.0, 5.0), align=align))
        task = segmenter.encode([person(1)], [2])
        monkeypatch.setattr(model.network, "encode_image", partial(counted, align))
        result = segmenter.segment(image, task)
    assert 0 < seen["auto"] < seen["off"]
    assert result.decisions[2].by == "alignment and network" and result.decisions[2].trust > 0.5
    assert dice(result.labels.array == 2, labels.array == 2) > 0.5


def test_without_fitted_weights_nothing_is_aligned(model):
    """`auto` of weights that record no fusion is `off`, voxel for voxel."""
    image, _ = person(2)
    plain, off = segmented(model, image, fusion=FUSION, align="off"), Segmenter(model, model.recipe.changed(spacing_zyx=(7.0, 7.0, 7.0)))
    task = off.encode([person(1)], VALUES)
    result = off.segment(image, task)
    assert task.atlases == () and {decision.by for decision in result.decisions.values()} == {"network"}
    np.testing.assert_array_equal(result.labels.array, plain.labels.array)
    assert not recipe("released", model.recipe.changed(fusion=FUSION)).aligns


def test_another_part_of_the_body_is_left_to_the_network_with_the_reason(model, aligned_once):
    strange = stranger(0)
    result = segmented(model, strange)
    assert {decision.by for decision in result.decisions.values()} == {"network"}
    assert all(decision.reason for decision in result.decisions.values())
    assert any(text.startswith("Not aligned: label 1") for text in result.warnings)
    assert not segmented(model, strange, align="only").labels.array.any()


def test_a_structure_whose_place_lies_outside_is_not_in_the_scan(model):
    """A scan cut off below shows the upper structure only; the network, random here, is not asked about the other one."""
    image, labels = person(2)
    centres = {value: np.argwhere(labels.array == value).mean(0)[0] for value in VALUES}
    upper, lower = max(centres, key=centres.get), min(centres, key=centres.get)
    first = int(np.argwhere(labels.array == lower)[:, 0].max()) + 2
    depth, height, width = image.array.shape
    part = ((first, 0, 0), (depth, height, width))
    seen = Volume(image.array[first:], image.geometry.cropped(part), image.modality)
    result = segmented(model, seen, fusion=FUSION)
    assert result.decisions[upper].by == "alignment and network" and result.decisions[lower].by == "alignment"
    assert not (result.labels.array == lower).any() and (result.labels.array == upper).any()
    assert any(text.startswith(f"Not in this scan: label {lower};") for text in result.warnings)


@pytest.mark.parametrize(("axis", "words"), [(0, "head to feet"), (1, "front to back"), (2, "left to right")])
def test_a_scan_whose_header_mirrors_it_is_named_and_not_aligned(model, aligned_once, axis, words):
    image, _ = person(2)
    turned = Volume(np.ascontiguousarray(np.flip(image.array, axis)), image.geometry, image.modality)
    result = segmented(model, turned)
    assert {decision.by for decision in result.decisions.values()} == {"network"}
    assert all(words in decision.reason for decision in result.decisions.values())
    assert any(f"mirrored {words}" in text and "was not reoriented" in text for text in result.warnings)
    assert not segmented(model, turned, align="only").labels.array.any()


def test_a_task_file_holds_no_image_and_says_what_that_costs(model, tmp_path):
    image, _ = person(2)
    segmenter = Segmenter(model, model.recipe.changed(fusion=FUSION, spacing_zyx=(7.0, 7.0, 7.0)))
    task = segmenter.encode([person(1)], VALUES)
    assert len(task.atlases) == 1
    task.save(tmp_path / "t.masstask")
    assert (tmp_path / "t.masstask").stat().st_size < 64_000 * len(VALUES)
    loaded = Task.load(tmp_path / "t.masstask")
    assert loaded.atlases == () and loaded.recipe.fusion == FUSION
    result = segmenter.segment(image, loaded)
    assert any("no images to align" in text for text in result.warnings)
    with pytest.raises(InputError, match="no images to align"):
        segmenter.with_recipe(segmenter.recipe.changed(align="only")).segment(image, loaded)


def test_the_network_is_tried_on_the_reference_wherever_it_is_aligned(model):
    """Also by a segmenter made of one that does not align, and only then."""
    off = Segmenter(model, model.recipe.changed(fusion=FUSION, align="off"))
    assert off.encode([person(1)], VALUES).labels[0].self_dice is None
    aligned = off.with_recipe(off.recipe.changed(align="auto")).encode([person(1)], VALUES)
    assert all(0 <= label.self_dice <= 1 for label in aligned.labels)


def test_a_renumbered_label_is_aligned_under_its_new_number(model):
    image, labels = person(2)
    segmenter = Segmenter(model, model.recipe.changed(align="only"))
    task = segmenter.encode([person(1)], [2]).renumbered(300)
    found = segmenter.segment(image, task).labels.array
    assert set(np.unique(found)) == {0, 300} and dice(found == 300, labels.array == 2) > 0.5


def test_references_are_made_ready_once(model):
    segmenter = Segmenter(model, model.recipe.changed(fusion=FUSION))
    first, again = segmenter.encode([person(1)], VALUES), segmenter.encode([person(1)], VALUES)
    assert first.atlases[0] is again.atlases[0]
    image, labels = person(1)
    edited = replace(labels, array=np.where(labels.array == 2, 0, labels.array))
    assert segmenter.encode([(image, edited)], [1]).atlases[0] is not first.atlases[0]


def test_the_command_tells_what_decided(tiny_weights, tmp_path, capsys):
    (image, labels), (target, _) = person(1), person(2)
    image.write(tmp_path / "a.nii.gz"), labels.write(tmp_path / "m.nii.gz"), target.write(tmp_path / "b.nii.gz")
    words = ["--reference", tmp_path / "a.nii.gz", tmp_path / "m.nii.gz", "--labels", 1, 2, "--target", tmp_path / "b.nii.gz"]
    words = [
        "--json",
        "segment",
        "--weights",
        tiny_weights,
        "--device",
        "cpu",
        *words,
        "--align",
        "only",
        "--output",
        tmp_path / "s.nii.gz",
    ]
    assert mass([str(word) for word in words]) == 0
    line = next(json.loads(text) for text in capsys.readouterr().out.splitlines() if "decision" in text)
    assert [label["decision"]["by"] for label in line["labels"]] == ["alignment", "alignment"]
    assert Volume.read(tmp_path / "s.nii.gz").array.any()


def test_a_copied_mask_lies_with_its_middle_on_the_middle_of_the_target():
    mask = np.zeros((10, 20, 20), np.uint8)
    mask[4:6, 9:11, 9:11], mask[4:6, 14:16, 9:11] = 1, 2
    reference = Volume(mask, Geometry(shape_zyx=mask.shape, spacing_xyz=(2.0, 2.0, 3.0), origin_xyz=(100.0, 0.0, -50.0)))
    target = Geometry(shape_zyx=(10, 40, 40), spacing_xyz=(1.0, 1.0, 3.0), origin_xyz=(-9.0, 7.0, 0.0))
    found = copied([reference], [1, 2], target)
    np.testing.assert_array_equal(np.argwhere(found == 1).mean(axis=0), (4.5, 19.5, 19.5))
    np.testing.assert_array_equal(np.argwhere(found == 2).mean(axis=0), (4.5, 29.5, 19.5))
    empty = replace(reference, array=np.zeros_like(mask))
    assert not copied([reference, empty, empty], [1, 2], target).any()
