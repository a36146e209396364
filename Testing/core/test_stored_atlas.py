"""Tasks that can be aligned: what their file holds, how well it aligns, and what is refused."""

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from mass_core import Segmenter, Task, load_model
from mass_core.cli import main as mass
from mass_core.errors import InputError
from mass_core.evaluation.metrics import dice

from .test_aligned_segmentation import FUSION, VALUES, person


@pytest.fixture(scope="module")
def segmenter(tiny_weights):
    model = load_model(tiny_weights, "cpu")
    return Segmenter(model, model.recipe.changed(fusion=FUSION, spacing_zyx=(7.0, 7.0, 7.0), align="only"))


@pytest.fixture(scope="module")
def task(segmenter):
    return segmenter.encode([person(1)], VALUES)


def test_a_saved_task_aligns_nearly_as_its_references_do(segmenter, task, tmp_path):
    """Those also have intensities, which a task does not hold."""
    path = task.save(tmp_path / "t.masstask", with_alignment=True)
    assert path.stat().st_size < 2_000_000
    image, labels = person(2)
    fresh, stored = (segmenter.segment(image, one) for one in (task, Task.load(path)))
    for value in VALUES:
        truth = labels.array == value
        assert dice(stored.labels.array == value, fresh.labels.array == value) > 0.9
        assert dice(stored.labels.array == value, truth) > 0.87
    assert {decision.by for decision in stored.decisions.values()} == {"alignment"}


def test_oblique_references_keep_their_place(segmenter, tmp_path):
    """Directions, origins and spacings survive the file."""
    task = segmenter.encode([person(3)], VALUES)
    (atlas,) = Task.load(task.save(tmp_path / "t.masstask", with_alignment=True)).atlases
    (before,) = task.atlases
    assert atlas.grid == before.grid and atlas.coarse.geometry == before.coarse.geometry
    assert set(atlas.distances) == set(VALUES) and atlas.features.shape == before.features.shape
    for value in VALUES:
        volumes = [one.distances[value] for one in (before, atlas)]
        old, new = (float((volume.array > 0).sum() * np.prod(volume.geometry.spacing_zyx)) for volume in volumes)
        assert new == pytest.approx(old, rel=0.15)


def test_without_being_asked_a_task_holds_nothing_of_the_image(task, tmp_path):
    path = task.save(tmp_path / "t.masstask")
    assert not any(key.startswith("atlas") for key in load_file(path)) and Task.load(path).atlases == ()


def test_a_damaged_atlas_is_told(task, tmp_path):
    path = task.save(tmp_path / "t.masstask", with_alignment=True)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    tensors["atlas0.features"] = tensors["atlas0.features"][:-9].clone()
    save_file(tensors, path, header)
    with pytest.raises(InputError, match="incomplete"):
        Task.load(path)


def test_weights_that_do_not_align_have_nothing_to_keep(segmenter, tmp_path):
    plain = segmenter.with_recipe(segmenter.recipe.changed(align="off"))
    with pytest.raises(InputError, match="nothing to align"):
        plain.encode([person(1)], VALUES).save(tmp_path / "t.masstask", with_alignment=True)


def test_the_command_keeps_it_when_asked(tiny_weights, tmp_path):
    image, labels = person(1)
    image.write(tmp_path / "a.nii.gz"), labels.write(tmp_path / "m.nii.gz")
    words = ["encode", "--weights", tiny_weights, "--reference", tmp_path / "a.nii.gz", tmp_path / "m.nii.gz", "--output"]
    assert mass([*map(str, words), str(tmp_path / "t.masstask"), "--with-alignment"]) == 2  # These weights record no fusion.
    assert not (tmp_path / "t.masstask").exists()
