"""Weights finetuned to fixed classes: what they hold, what they segment without references, and what they refuse."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from mass_core.cli import main
from mass_core.config import ModelConfig, Recipe
from mass_core.encoding.task import Task
from mass_core.errors import InputError, WeightsError
from mass_core.inference.segmenter import Segmenter
from mass_core.model import MASS
from mass_core.volumes.volume import Volume
from mass_core.weights import store as weights_store
from mass_core.weights.checkpoint import load_model, save_weights
from Testing.core.worker_process import Files, Recorder, scan

Rewrite = Callable[..., Path]


@pytest.fixture(scope="module")
def task(tiny_weights: Path) -> Task:
    """Two balls, encoded with the tiny network."""
    learned = Segmenter(load_model(tiny_weights, "cpu")).encode([scan()])
    one, two = learned.labels
    return replace(learned, labels=(replace(one, name="ball", color=(1.0, 0.5, 0.0), terminology="T~1"), replace(two, value=300)))


@pytest.fixture(scope="module")
def fixed(task: Task, tiny_network: MASS, tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fixed-class weights of the same two balls."""
    path = tmp_path_factory.mktemp("fixed") / "balls.safetensors"
    save_weights(path, tiny_network.with_fixed_classes(task.tokens([0, 1])), tiny_recipe, {"recipe": "tests"}, licence="CC0", task=task)
    return path


@pytest.fixture
def rewritten(fixed: Path, tmp_path: Path) -> Rewrite:
    """The weights with another header, or other tensors."""

    def write(change: Callable[[dict[str, Any]], Any], **tensors: torch.Tensor) -> Path:
        with safe_open(fixed, framework="pt") as file:
            header = json.loads(file.metadata()["mass"])
        change(header)
        save_file({**load_file(fixed), **tensors}, tmp_path / "other.safetensors", {"mass": json.dumps(header)})
        return tmp_path / "other.safetensors"

    return write


def test_the_paper_s_size_without_task_encoding() -> None:
    """83.66 M: encoder and decoder (paper section 7.6); our count of a network has the dynamic classifier besides."""
    with torch.device("meta"):
        network = MASS(ModelConfig(task_encoding=False))
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert round((parts["encoder"] + parts["decoder"]) / 1e6, 2) == 83.66
    assert parts == {"encoder": 37_657_440, "task_encoders": 0, "decoder": 46_000_384, "classifier": 836_320}


def test_the_classes_come_back_as_a_task(fixed: Path, task: Task) -> None:
    model = load_model(fixed, "cpu")
    assert model.task is not None and not model.config.task_encoding
    assert not any(name.startswith("task_encoders") for name in load_file(fixed))
    assert (model.task.fingerprint, model.task.weights) == (model.fingerprint, "balls")
    for ours, theirs in zip(model.task.labels, task.labels, strict=True):
        assert replace(ours, tokens=()).__dict__ == replace(theirs, tokens=()).__dict__
        assert all(torch.equal(a, b) for a, b in zip(ours.tokens, theirs.tokens, strict=True))


def test_they_segment_as_the_network_with_references_did(fixed: Path, task: Task, tiny_weights: Path) -> None:
    """Same encoder, same decoder, same tokens: same result, voxel for voxel, without a reference."""
    target = scan(1)[0]
    before = Segmenter(load_model(tiny_weights, "cpu")).segment(target, task)
    model = load_model(fixed, "cpu")
    assert model.task is not None
    after = Segmenter(model).segment(target, model.task)
    assert np.array_equal(before.labels.array, after.labels.array) and set(np.unique(after.labels.array)) - {0}
    with pytest.raises(WeightsError, match="balls"):
        Segmenter(load_model(tiny_weights, "cpu")).segment(target, model.task)


def test_they_take_no_references(fixed: Path) -> None:
    with pytest.raises(InputError, match="finetuned to fixed classes") as caught:
        Segmenter(load_model(fixed, "cpu")).encode([scan()])
    assert "finetuned from" in caught.value.cure


def test_names_and_colours_without_pytorch(fixed: Path, tiny_weights: Path, tmp_path: Path) -> None:
    found = weights_store.classes(fixed)
    assert [(value, one.name, one.color) for value, one in found.items()] == [(1, "ball", (1.0, 0.5, 0.0)), (300, "label 2", None)]
    assert weights_store.classes(tiny_weights) == {}
    for content in (b"", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}"):
        (tmp_path / "x.safetensors").write_bytes(content)
        with pytest.raises(WeightsError, match="damaged or not from MASSSlicer"):
            weights_store.classes(tmp_path / "x.safetensors")


# The command


def test_segment_without_references(fixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, output = tmp_path / "new.nrrd", tmp_path / "out.seg.nrrd"
    scan(1)[0].write(target)
    command = ["--json", "segment", "--weights", str(fixed), "--target", str(target), "--device", "cpu", "--output", str(output)]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(x["value"], x["name"]) for x in result["labels"]] == [(1, "ball"), (300, "label 2")]
    assert main([*command, "--overwrite", "--labels", "300"]) == 0
    assert set(np.unique(Volume.read(output).array)) <= {0, 300}


def test_fixed_classes_or_references_but_not_both(fixed: Path, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    reference = ["--reference", str(files.image), str(files.mask)]
    common = ["--weights", str(fixed), "--device", "cpu"]
    assert main(["segment", *common, *reference, "--target", str(files.target), "--output", str(files.folder / "o.nrrd")]) == 2
    assert main(["encode", *common, *reference, "--output", str(files.folder / "o.masstask")]) == 2
    assert capsys.readouterr().err.count("take no references") == 2
    assert files.names() == {"new.nrrd", "ref.nrrd", "ref_mask.nii.gz"}


def test_info_lists_classes_and_convert_keeps_them(fixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = tmp_path / "half.safetensors"
    assert main(["weights", "convert", str(fixed), str(half), "--dtype", "float16"]) == 0
    capsys.readouterr()
    assert main(["weights", "info", str(half)]) == 0
    assert "classes\n  1: ball\n  300: label 2\n" in capsys.readouterr().out
    assert main(["weights", "verify", str(half)]) == 0


# The worker


def test_the_worker_segments_without_references(worker: Recorder, files: Files, fixed: Path) -> None:
    params = {**files.segment(references=[]), "weights": str(fixed)}
    result = worker.ask("segment", params)["result"]
    assert [(x["value"], x["name"], x["color"]) for x in result["labels"]] == [(1, "ball", [1.0, 0.5, 0.0]), (300, "label 2", None)]
    assert Volume.read(result["output"]).geometry.matches(Volume.read(files.target).geometry)
    told = worker.ask("load", {"weights": str(fixed), "device": "cpu"})["result"]["classes"]
    assert told[0] == {"value": 1, "name": "ball", "color": [1.0, 0.5, 0.0]}


# Other files


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda header: header["task"].update(version=99), "version 99"),
        (lambda header: header.pop("task"), "incomplete: 'task'"),
        (lambda header: header["task"].update(labels=[]), "incomplete"),
        (lambda header: header["task"].update(labels=header["task"]["labels"][:1]), "incomplete"),
        (lambda header: header["model"].update(task_encoding=True), "missing: task_encoders"),
        (lambda header: header["model"].update(dreams=3), "settings unknown to this version: dreams"),
    ],
)
def test_headers_that_do_not_fit(rewritten: Rewrite, change: Callable[[dict[str, Any]], Any], told: str) -> None:
    with pytest.raises(WeightsError, match=told) as caught:
        load_model(rewritten(change), "cpu")
    assert caught.value.cure
