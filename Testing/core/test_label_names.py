"""Names of labels from a dataset.json, whichever of the usual forms it has."""

from pathlib import Path

import pytest

from mass_core.data.label_names import label_names, names_beside
from mass_core.errors import InputError


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "1": "liver", "3": "spleen"},
        {"background": 0, "liver": 1, "spleen": 3},
        {"background": "0", "spleen": "3", "liver": "1"},
    ],
)
def test_both_orders_are_read(labels: dict) -> None:
    assert label_names(labels) == {1: "liver", 3: "spleen"}


def test_values_are_called_like_the_smallest_region_they_belong_to() -> None:
    regions = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}
    assert label_names(regions) == {1: "whole tumor", 2: "tumor core", 3: "enhancing tumor"}


def test_voxels_to_be_ignored_are_refused() -> None:
    with pytest.raises(ValueError, match="ignore"):
        label_names({"background": 0, "liver": 1, "ignore": 2})


def test_a_description_beside_or_above_is_found(tmp_path: Path) -> None:
    (tmp_path / "labelsTr").mkdir()
    assert names_beside(tmp_path / "labelsTr") == {}
    (tmp_path / "dataset.json").write_text('{"labels": {"liver": 1}}')
    assert names_beside(tmp_path / "labelsTr") == {1: "liver"}
    (tmp_path / "labelsTr" / "dataset.json").write_text('{"labels": {"1": "spleen"}}')
    assert names_beside(tmp_path / "labelsTr") == {1: "spleen"}
    (tmp_path / "labelsTr" / "dataset.json").write_text('{"labels": {"liver": "one"}}')
    with pytest.raises(InputError, match="does not name its labels"):
        names_beside(tmp_path / "labelsTr")
