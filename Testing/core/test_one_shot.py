"""Draws of references in the benchmark of in-context segmentation."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mass_core.errors import InputError
from Testing.benchmarks.one_shot import Collection, draw_references


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """Six training patients, of whom the last lacks a structure."""
    names = [f"patient{number}" for number in range(6)]
    split = {"labels": {"1": "liver", "2": "spleen"}, "train": names, "val": [], "test": []}
    (tmp_path / "split.json").write_text(json.dumps(split))
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        for name in names:
            found = np.ones((2, 3, 4), np.uint8)
            found[0] = 1 if name == names[-1] else 2
            sitk.WriteImage(sitk.GetImageFromArray(found), tmp_path / part / f"{name}.nii.gz")
    return Collection.read(tmp_path)


@pytest.mark.parametrize(("shots", "draws"), [(1, 5), (2, 10), (4, 5)])
def test_all_sets_are_drawn_before_one_comes_twice(collection, shots, draws):
    sets = [frozenset(names) for names in draw_references(collection, shots, draws, seed=0)]
    assert len(set(sets)) == draws and all(len(names) == shots and "patient5" not in names for names in sets)


def test_more_draws_than_sets_are_refused(collection):
    with pytest.raises(InputError, match="(?s)Only 5 training patients.*fewer than 6"):
        draw_references(collection, 1, 6, seed=0)
