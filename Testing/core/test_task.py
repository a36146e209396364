"""The task file: what it keeps, what it refuses."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from mass_core.config import Recipe
from mass_core.encoding.location import Location
from mass_core.encoding.task import FORMAT, Task, TaskLabel
from mass_core.errors import InputError, OutputError, WeightsError

CHANNELS = (512, 256, 128)


def label(value: int, spacing: float = 1.5, **changes: object) -> TaskLabel:
    tokens = tuple(torch.randn(11, c) for c in CHANNELS)
    return replace(TaskLabel(value=value, name=f"label {value}", spacing_zyx=(spacing,) * 3, tokens=tokens), **changes)


@pytest.fixture
def task() -> Task:
    liver = label(1, name="liver", color=(0.5, 0.25, 1.0), terminology="SCT^10200004^Liver", references=3, kept=0.75)
    liver = replace(liver, ml=1500.0, extent_mm=(200.0, 150.0, 160.0))
    return Task(
        labels=(liver, label(2, 3.0, place=Location((1.0, -2.0, 3.5), (300.0, 200.0, 400.0))), label(300)),
        fingerprint="f" * 64,
        weights="small",
        recipe=Recipe(spacing_zyx=None, overlap=0.25),
        modality="mr",
        warnings=("The mask was resampled.",),
    )


def test_what_is_saved_comes_back(task: Task, tmp_path: Path) -> None:
    loaded = Task.load(task.save(tmp_path / "organs.masstask"))
    for name in ("fingerprint", "weights", "recipe", "modality", "warnings"):
        assert getattr(loaded, name) == getattr(task, name)
    for ours, theirs in zip(loaded.labels, task.labels, strict=True):
        assert replace(ours, tokens=()).__dict__ == replace(theirs, tokens=()).__dict__
        assert all(torch.equal(a, b) for a, b in zip(ours.tokens, theirs.tokens, strict=True))


def test_warnings_are_those_of_a_label_or_of_none(task: Task) -> None:
    told = ("Liver: 41% was left out.", "No body was found.", "Label 2 exceeds the window.", "Not aligned: liver, label 300; too far.")
    assert task.about(1, told) == (told[0], told[1], told[3])
    assert task.about(2, told) == (told[1], told[2])
    assert task.about(300, told) == (told[1], told[3]), "label 300 is not label 3, nor 30"
    assert task.about(2, ("label 20 is far", "Labels were resampled.")) == ("label 20 is far", "Labels were resampled.")


@pytest.mark.parametrize("names", [("kidney", "left kidney", "kidney (right)"), ("a.b", "a", "axb"), ("肝臓", "肝臓 左", "Leber")])
def test_warnings_of_a_label_whose_name_is_in_that_of_another(task: Task, names: tuple[str, ...]) -> None:
    labels = tuple(replace(label, name=name) for label, name in zip(task.labels, names, strict=True))
    told = tuple(f"{name}: 41% was left out." for name in names)
    assert [replace(task, labels=labels).about(label.value, told) for label in labels] == [(text,) for text in told]


def test_older_files_do_not_tell_sizes(task: Task, tmp_path: Path) -> None:
    path = task.save(tmp_path / "organs.masstask")
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[FORMAT])
    for stored in header["labels"]:
        assert stored.pop("ml") == (1500.0 if stored["value"] == 1 else None)
        del stored["extent_mm"], stored["place"]
    save_file(load_file(path), path, {FORMAT: json.dumps(header)})
    assert [(x.ml, x.extent_mm, x.place) for x in Task.load(path).labels] == [(None, None, None)] * 3


def test_small_and_without_image(task: Task, tmp_path: Path) -> None:
    path = task.save(tmp_path / "organs.masstask")
    assert path.stat().st_size < 64 * 1024 * len(task.labels)
    assert {tuple(tensor.shape) for tensor in load_file(path).values()} == {(11, c) for c in CHANNELS}


def test_labels_of_one_spacing_are_a_group(task: Task) -> None:
    assert task.groups() == {(1.5, 1.5, 1.5): [0, 2], (3.0, 3.0, 3.0): [1]}
    stages = task.tokens([0, 2])
    assert [tuple(stage.shape) for stage in stages] == [(1, 2, 11, c) for c in CHANNELS]
    assert torch.equal(stages[1][0, 1], task.labels[2].tokens[1])


def test_other_weights_are_refused(task: Task) -> None:
    task.require("f" * 64, "small")
    with pytest.raises(WeightsError, match=r"with the weights small \(ffffffffffff\), not with big \(aaaaaaaaaaaa\)") as caught:
        task.require("a" * 64, "big")
    assert "encode the references again with big" in caught.value.cure


def test_choosing_labels(task: Task) -> None:
    assert [x.value for x in task.only([300, 1]).labels] == [1, 300]
    with pytest.raises(InputError, match="no label 4; it has 1, 2, 300"):
        task.only([1, 4])


def test_another_number(task: Task) -> None:
    assert task.only([1]).renumbered(7).labels[0].value == 7
    with pytest.raises(InputError, match="One number is given for 3 labels"):
        task.renumbered(7)
    with pytest.raises(InputError, match="70000 is not a valid label number"):
        task.only([1]).renumbered(70000)


def test_numbers_are_distinct(task: Task) -> None:
    with pytest.raises(InputError, match="distinct"):
        replace(task, labels=(label(1), label(1)))


def test_existing_file_is_kept(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "organs.masstask"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists"):
        task.save(path)
    assert path.read_bytes() == b"precious"
    task.save(path, overwrite=True)
    assert len(Task.load(path).labels) == 3


def test_unwritable_folder_leaves_nothing(task: Task, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Cannot write into"):
        task.save(tmp_path / "missing" / "organs.masstask")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_task_is_refused(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "x.masstask"
    with pytest.raises(InputError, match="no task file"):
        Task.load(path)
    path.write_bytes(b"not a task at all")
    with pytest.raises(InputError, match="not a task file, or is damaged"):
        Task.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="holds tensors, but no task"):
        Task.load(path)
    whole = task.save(path, overwrite=True).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        Task.load(path)


@pytest.mark.parametrize(("changes", "message"), [({"version": 99}, "version 99"), ({"labels": [{"value": 1}]}, "incomplete")])
def test_headers_of_other_versions(task: Task, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = task.save(tmp_path / "x.masstask")
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[FORMAT])
    save_file(load_file(path), path, {FORMAT: json.dumps({**header, **changes})})
    with pytest.raises(InputError, match=message):
        Task.load(path)
