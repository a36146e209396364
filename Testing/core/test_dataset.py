"""Datasets on disk: round trip, resume, splits that do not leak, damaged folders."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mass_core.data.dataset import Case, Dataset, finished_case, write_case
from mass_core.data.splits import check_splits, split_by_patient
from mass_core.errors import InputError, OutputError
from mass_core.masks.mask_set import MaskSet

SHAPE = (4, 5, 6)


def case(name: str, patient: str = "", **changes: object) -> Case:
    values = {
        "name": name,
        "patient": patient or name,
        "modality": "ct",
        "shape_zyx": SHAPE,
        "spacing_zyx": (3.0, 1.5, 1.5),
        "origin_xyz": (1.0, 2.0, 3.0),
        "direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        "masks": "mask_set.masks",
        "labels": "labels.npy",
        "settings": "abc",
    }
    return Case(**{**values, **changes})


IMAGE = np.arange(120, dtype=np.float16).reshape(SHAPE) / 64
LABELS = (np.arange(120).reshape(SHAPE) * 5).astype(np.uint16)
MASKS = MaskSet.of([(((1, 1, 1), (3, 3, 3)), np.ones((2, 2, 2), bool))], SHAPE, (3.0, 1.5, 1.5))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset of two cases; the second has nothing but an image."""
    write_case(tmp_path, case("a"), IMAGE, LABELS, MASKS)
    bare = case("b", masks=None, labels=None)
    write_case(tmp_path, bare, IMAGE)
    splits = {"train": ("a",), "val": ("b",), "test": ()}
    Dataset(folder=tmp_path, name="set", cases=(case("a"), bare), splits=splits, label_names={300: "liver"}).write()
    return tmp_path


def test_what_is_written_comes_back(folder: Path) -> None:
    dataset = Dataset.read(folder)
    assert dataset.name == "set" and dataset.cases[0] == case("a") and dataset.label_names == {300: "liver"}
    assert dataset.splits == {"train": ("a",), "val": ("b",), "test": ()}
    image, labels = dataset.image("a"), dataset.labels("a")
    assert isinstance(image, np.memmap) and image.dtype == np.float16 and np.array_equal(image, IMAGE)
    assert labels is not None and labels.dtype == np.uint16 and labels.max() == 595 and np.array_equal(labels, LABELS)
    assert dataset.masks("a").voxels.tolist() == [8] and dataset.spacing_zyx("a") == (3.0, 1.5, 1.5)
    assert dataset.labels("b") is None and len(dataset.masks("b")) == 0


def test_unknown_cases_are_named(folder: Path) -> None:
    with pytest.raises(InputError, match="'c'"):
        Dataset.read(folder).image("c")


def test_a_case_is_finished_when_its_record_says_how_it_was_made(folder: Path) -> None:
    assert finished_case(folder, "a", "abc") == case("a")
    assert finished_case(folder, "a", "other settings") is None
    assert finished_case(folder, "never", "abc") is None
    (folder / "cases" / "a" / "case.json").write_text('{"name": "a"')
    assert finished_case(folder, "a", "abc") is None
    (folder / "cases" / "b" / "case.json").write_text('{"name": "b"}')
    assert finished_case(folder, "b", "abc") is None


def test_a_case_written_half_does_not_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old record goes first, so an interruption cannot leave it beside new arrays."""

    def full(*_: object) -> None:
        raise OutputError("The disk is full.")

    monkeypatch.setattr("mass_core.data.dataset.write_array", full)
    with pytest.raises(OutputError):
        write_case(folder, case("a"), IMAGE, LABELS, MASKS)
    assert finished_case(folder, "a", "abc") is None


def change(folder: Path, **changes: object) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"cases": [{"name": "a"}]}, "lacks fields"),
        ({"cases": 3}, "lacks fields"),
        ({"splits": {"train": ["a", "zz"]}}, "'zz'"),
        ({"splits": {"train": ["a"], "test": ["a"]}}, "train and in test"),
        ({"labels": {"one": "liver"}}, "lacks fields"),
    ],
)
def test_damaged_records_are_refused(folder: Path, changes: dict, message: str) -> None:
    change(folder, **changes)
    with pytest.raises(InputError, match=message):
        Dataset.read(folder)


def test_missing_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        Dataset.read(tmp_path)
    (tmp_path / "dataset.json").write_text("[1]")
    with pytest.raises(InputError, match="JSON object"):
        Dataset.read(tmp_path)


def test_arrays_that_do_not_fit_their_record_are_refused(folder: Path) -> None:
    place = folder / "cases" / "a"
    np.save(place / "image.npy", IMAGE[:2])
    with pytest.raises(InputError, match="shape"):
        Dataset.read(folder).image("a")
    (place / "image.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match="cannot be read"):
        Dataset.read(folder).image("a")
    MaskSet.of([], (4, 5, 7), (3.0, 1.5, 1.5)).write(place / "mask_set.masks")
    with pytest.raises(InputError, match="grid"):
        Dataset.read(folder).masks("a")


def test_arrays_never_run_code(folder: Path) -> None:
    np.save(folder / "cases" / "a" / "image.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        Dataset.read(folder).image("a")


def test_a_patient_on_two_sides_is_a_leak() -> None:
    patients = {"scan1": "p", "scan2": "p", "scan3": "q"}
    check_splits({"train": ["scan1", "scan2"], "test": ["scan3"]}, patients)
    with pytest.raises(InputError, match="Patient 'p' is in train and in test"):
        check_splits({"train": ["scan1"], "test": ["scan2", "scan3"]}, patients)
    with pytest.raises(InputError, match="'scan4'"):
        check_splits({"train": ["scan4"]}, patients)
    one = case("scan1", patient="p")
    with pytest.raises(InputError, match="Patient 'p'"):
        Dataset(folder=Path("."), name="", cases=(one, replace(one, name="scan2")), splits={"train": ("scan1",), "val": ("scan2",)})


def test_patients_are_dealt_by_shares_and_stay_whole() -> None:
    patients = {f"p{i}_{visit}": f"p{i}" for i in range(50) for visit in "ab"}
    splits = split_by_patient(patients, (0.7, 0.1, 0.2))
    assert {name: len(members) for name, members in splits.items()} == {"train": 70, "val": 10, "test": 20}
    check_splits(splits, patients)
    assert sorted(name for members in splits.values() for name in members) == sorted(patients)
    assert split_by_patient(dict(reversed(patients.items())), (0.7, 0.1, 0.2)) == splits
    assert split_by_patient(patients, (0.7, 0.1, 0.2), seed=1) != splits
    assert split_by_patient(patients, (1, 0, 0))["train"] == tuple(sorted(patients))


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.2, 0.1), (1.2, -0.1, -0.1)])
def test_shares_that_cannot_be_dealt_are_refused(shares: tuple) -> None:
    with pytest.raises(InputError):
        split_by_patient({"a": "a"}, shares)
