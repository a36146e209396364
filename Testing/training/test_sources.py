"""Datasets of a run: named with weights or without, known again by what is in them."""

from dataclasses import replace

import pytest

from mass_core.data.dataset import Dataset
from mass_core.errors import InputError
from mass_core.schema import changed
from training.pretrain import recipes
from training.pretrain.loader import episodes_of
from training.runs.sources import identity, open_sources, record

TINY = ["preprocess.window_zyx=16,16,16", "episodes.smallest_voxels=8"]


@pytest.fixture
def two(make_dataset, tmp_path):
    return [str(make_dataset(tmp_path / f"of{scans}", scans=scans)) for scans in (3, 1)]


def chances(words):
    return episodes_of(changed(recipes.small(), TINY), open_sources(words)).chance.tolist()


def test_every_recipe_takes_any_number_of_datasets(two):
    """By number of scans where nothing is said."""
    for recipe in recipes.RECIPES.values():
        assert len(episodes_of(recipe(), open_sources(two[:1])).chance) == 1
    assert chances(two) == [0.75, 0.25]


def test_weights_stand_beside_the_datasets(two):
    words = [f"{two[0]}=1", f"{two[1]}=3e0"]
    assert chances(words) == [0.25, 0.75]
    assert record(open_sources(words)) == {"data": ["of3", "of1"], "dataset_weights": [1.0, 3.0]}


def test_a_folder_may_have_the_sign_in_its_name(make_dataset, tmp_path):
    (source,) = open_sources([str(make_dataset(tmp_path / "fold=1", scans=1))])
    assert source.weight is None and source.dataset.folder.name == "fold=1"


@pytest.mark.parametrize("weight", ["-1", "nan", "inf", "0", "half", ""])
def test_weights_that_are_no_share_are_refused(two, weight):
    with pytest.raises(InputError, match="Give a number above zero"):
        open_sources([f"{two[0]}={weight}"])


def test_a_dataset_is_known_again_by_its_scans(two):
    dataset = Dataset.read(two[0])
    names = dataset.splits["train"]
    again = replace(dataset, cases=tuple(replace(case, settings="other") for case in dataset.cases))
    assert identity(dataset, names) == identity(Dataset.read(two[0]), reversed(names))
    assert len({identity(dataset, names), identity(dataset, names[1:]), identity(again, names)}) == 3
