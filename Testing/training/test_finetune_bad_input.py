"""Input that finetuning refuses or warns of, and ends of memory, disk and patience."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from mass_core.colors import LabelStyle
from mass_core.data.dataset import Dataset
from mass_core.evaluation.scoring import case_volumes
from mass_core.volumes.appearance import write_labels
from mass_core.volumes.volume import Geometry, Volume
from mass_core.weights.checkpoint import load_model
from training.finetune import command as finetune_command
from training.finetune import loop as finetune
from training.finetune.reporting import FinetuneProgress

from .balls import SHAPE, SPACING, scan, write_dataset, write_files, write_weights

QUICK = ["batch_size=2", "steps_per_epoch=2", "epochs=1", "log_every=1", "save_every=1", "workers=0"]
GEOMETRY = Geometry(shape_zyx=SHAPE, spacing_xyz=SPACING[::-1])


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def tune(weights, tmp_path, capsys):
    """Runs the command; returns its exit code, the last line it printed, and all warnings."""

    def run(*words, settings=(), weights=weights):
        common = ["--weights", str(weights), "--device", "cpu", "--recipe", "smoke", "--json", "--output", str(tmp_path / "run")]
        code = finetune_command.main([*common, *map(str, words), "--set", *QUICK, *settings])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return code, lines[-1], [line["message"] for line in lines if line["event"] == "warning"]

    return run


@pytest.fixture
def refused(tune, tmp_path):
    """Runs the command and expects a message with a cure; no weights may be left."""

    def run(*words, **more) -> str:
        code, failed, _ = tune(*words, **more)
        assert code == 2 and failed["event"] == "failed" and failed["cure"]
        assert not list(tmp_path.glob("run/*.safetensors"))
        return failed["message"]

    return run


def segmentation(path: Path, names: dict[int, str], seed: int = 0) -> None:
    """A label map that says how its segments are called."""
    labels = scan(seed)[1]
    write_labels(Volume(labels, GEOMETRY), {value: LabelStyle(name=name) for value, name in names.items()}, path)


# Scans


def test_one_scan_trains_without_validation(tune, tmp_path):
    images, labels = write_files(tmp_path / "files", 1)
    code, result, warnings = tune("--images", images, "--labels-dir", labels)
    assert code == 0 and any("There is one labelled scan: there is no validation" in text for text in warnings)
    assert result["best_dice"] is None and Path(result["output"]).name == "last.safetensors"
    assert [label["dice"] for label in result["labels"]] == [None, None]


def test_no_validation_scans_are_said(tune, tmp_path):
    code, result, warnings = tune("--data", write_dataset(tmp_path / "data", {"train": ("a", "b"), "val": (), "test": ()}))
    assert code == 0 and any("No labelled scan is held out" in text for text in warnings)


def test_a_class_of_no_scan_and_of_one_scan(tune, refused, tmp_path):
    data = write_dataset(tmp_path / "data", shown={"a": (1, 2), "b": (1,), "c": (1,)})
    assert "Label 7 is in none of the 3 training scans; they show 1." in refused("--data", data, "--labels", 1, 7)
    code, _, warnings = tune("--data", data)
    assert code == 0 and any("Only one of the 3 training scans shows label 2" in text for text in warnings)


def test_a_name_for_nothing_is_told(tune, tmp_path):
    images, labels = write_files(tmp_path / "files", 2)
    code, _, warnings = tune("--images", images, "--labels-dir", labels, "--names", "1=bright", "7=spleen")
    assert code == 0 and [text for text in warnings if "is named" in text] == ["No training scan shows spleen, although it is named."]


def test_scans_without_labels(refused, tmp_path):
    data = write_dataset(tmp_path / "data", shown={"a": (), "b": (), "c": ()})
    assert "None of the 3 training scans" in refused("--data", data)


def test_numbers_that_mean_different_things(refused, tmp_path):
    """3D Slicer numbers segments in the order they were made."""
    images, labels = write_files(tmp_path / "files", 2)
    segmentation(labels / "scan0.seg.nrrd", {1: "liver", 2: "spleen"})
    segmentation(labels / "scan1.seg.nrrd", {1: "spleen", 2: "liver"}, seed=1)
    message = refused("--images", images, "--labels-dir", labels)
    assert "Label 1 is called 'liver'" in message and "'spleen'" in message and "scan1.seg.nrrd" in message


def test_segments_of_one_name(refused, tmp_path):
    images, labels = write_files(tmp_path / "files", 1)
    segmentation(labels / "scan0.seg.nrrd", {1: "kidney", 2: "kidney"})
    assert refused("--images", images, "--labels-dir", labels) == "Several labels are called 'kidney': 1, 2."


@pytest.mark.parametrize("change", [{"origin_xyz": (900.0, 0.0, 0.0)}, {"spacing_xyz": (1.0, 1.0, 1.0)}], ids=["elsewhere", "header lost"])
def test_labels_that_lie_elsewhere(refused, tmp_path, change):
    images, labels = write_files(tmp_path / "files", 2)
    Volume(scan(1)[1], replace(GEOMETRY, **change)).write(labels / "scan1.nii.gz")
    message = refused("--images", images, "--labels-dir", labels)
    assert "scan1.nii.gz has the shape of its image but another position or spacing" in message and "header was lost" in message


def test_labels_on_another_grid_are_brought_to_the_image_s(tune, tmp_path):
    """Twice the voxel size, the same place: what is trained on lies where the label map says."""
    images, labels = write_files(tmp_path / "files", 1)
    coarse = Geometry(shape_zyx=(24, 16, 16), spacing_xyz=(2.0, 2.0, 2.0), origin_xyz=(0.5, 0.5, 0.0))
    Volume(scan(0)[1][:, ::2, ::2], coarse).write(labels / "scan0.nii.gz")
    assert tune("--images", images, "--labels-dir", labels, settings=["epochs=1"])[0] == 0
    made = Dataset.read(tmp_path / "run/data")
    moved = case_volumes(made, "scan0")[1]
    centres = []
    for volume in (moved, Volume(scan(0)[1], GEOMETRY)):
        index = np.argwhere(volume.array == 1).mean(0)[::-1]
        centres.append((volume.geometry.affine @ [*index, 1])[:3])
    assert np.allclose(*centres, atol=1.0)


def test_what_is_not_there(refused, tmp_path):
    images, labels = write_files(tmp_path / "files", 1)
    assert "must be given exactly once" in refused()
    assert "no labels to train on" in refused("--images", images)
    (tmp_path / "empty").mkdir()
    assert "has a label map in" in refused("--images", images, "--labels-dir", tmp_path / "empty")
    data = write_dataset(tmp_path / "data")
    assert "no labelled training scan nobody" in refused("--data", data, "--train-cases", "a", "nobody")
    assert "9 training scans were requested, but there are 3" in refused("--data", data, "--shots", 9)
    assert "no finetuning recipe 'best'" in refused("--data", data, "--recipe", "best")
    assert "'optim.loss=hope' does not fit" in refused("--data", data, settings=["optim.loss=hope"])
    assert "batch_size is 0" in refused("--data", data, settings=["batch_size=0"])
    assert "names no field" in refused("--data", data, settings=["optim.hope=1"])


# Weights


def test_weights_that_cannot_be_finetuned(tune, refused, tmp_path):
    data = write_dataset(tmp_path / "data")
    _, result, _ = tune("--data", data)
    fixed = Path(result["output"]).rename(tmp_path / "fixed.safetensors")
    for path in tmp_path.glob("run/*"):
        path.unlink() if path.is_file() else [part.unlink() for part in path.iterdir()]
    assert "take no references" in refused("--data", data, weights=fixed)
    with safe_open(fixed, framework="pt") as file:
        header = json.loads(file.metadata()["mass"])
    for change, told in (({"format": 99}, "format version 99"), ({"task": {**header["task"], "version": 9}}, "version 9")):
        save_file(load_file(fixed), tmp_path / "other.safetensors", {"mass": json.dumps({**header, **change})})
        assert told in refused("--data", data, weights=tmp_path / "other.safetensors")


def test_crops_whose_gradients_would_be_wrong(refused, tmp_path):
    """Two levels: crops of 4 voxels lead to features 2 voxels deep; see `training.runs.precision.check_depth`."""
    data = write_dataset(tmp_path / "data")
    assert "2 voxels deep" in refused("--data", data, settings=["window=4", "precision=bfloat16"])


# Memory, disk, patience


def test_too_little_memory_makes_smaller_parts(tune, tmp_path, monkeypatch):
    whole, sizes = finetune.compute_loss, []

    def compute_loss(config, network, crops, *rest, **more):
        sizes.append(len(crops))
        if len(crops) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return whole(config, network, crops, *rest, **more)

    monkeypatch.setattr(finetune, "compute_loss", compute_loss)
    code, _, warnings = tune("--data", write_dataset(tmp_path / "data"), settings=["batch_size=4"])
    assert code == 0 and sizes == [4, 2, 1, 1, 1, 1, 1, 1, 1, 1]
    assert [text for text in warnings if "4 parts" in text] and state_step(tmp_path / "run") == 2


def test_too_little_memory_for_one_crop(refused, tmp_path, monkeypatch):
    def compute_loss(*_, **__):
        raise MemoryError("no memory left")

    monkeypatch.setattr(finetune, "compute_loss", compute_loss)
    data = write_dataset(tmp_path / "data", {"train": ("a",), "val": (), "test": ()})
    assert "Not enough memory" in refused("--data", data)


def test_parts_add_up_to_the_whole(tune, tmp_path):
    """Without chance, a batch in parts moves the weights as the whole batch does."""
    data = write_dataset(tmp_path / "data")
    still = ["crops.affine_probability=0", "appearance.probability=0", "batch_size=4"]
    found = []
    for name, parts in (("whole", 1), ("parts", 4)):
        assert tune("--data", data, "--output", tmp_path / name, settings=[*still, f"accumulate={parts}"])[0] == 0
        found.append(load_model(tmp_path / name / "last.safetensors", "cpu").network.state_dict())
    assert all(torch.allclose(value, found[1][name], atol=1e-3) for name, value in found[0].items())


def test_a_stop_before_the_first_validation_leaves_nothing(tune, tmp_path, monkeypatch):
    data = write_dataset(tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(FinetuneProgress, "cancelled", lambda self: (tmp_path / "run/start.masstask").exists())
        code, last, _ = tune("--data", data)
    assert (code, last) == (130, {"event": "cancelled"})
    assert not (tmp_path / "run/best.safetensors").exists()
    assert tune("--data", data, "--resume")[0] == 0 and (tmp_path / "run/best.safetensors").exists()


def test_a_stop_in_the_first_epoch_keeps_what_was_validated(tune, tmp_path, monkeypatch):
    log = tmp_path / "run/log.jsonl"
    monkeypatch.setattr(FinetuneProgress, "cancelled", lambda self: log.exists() and "loss" in log.read_text())
    code, result, _ = tune("--data", write_dataset(tmp_path / "data"), settings=["steps_per_epoch=9"])
    assert code == 0 and (result["stopped"], result["epochs"], result["best_epoch"]) == ("cancelled", 0, 0)
    assert state_step(tmp_path / "run") == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of files")
def test_a_full_disk_leaves_what_there_was(tune, tmp_path):
    """A limit on the size of files stands for the full disk: writing fails in the middle of a file, as there."""
    import resource

    data = write_dataset(tmp_path / "data")
    assert tune("--data", data)[0] == 0
    before = {path: path.read_bytes() for path in [*tmp_path.glob("run/*.safetensors"), *tmp_path.glob("run/state/*")]}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        code, failed, _ = tune("--data", data, "--resume", settings=["epochs=2"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2 and "Cannot write" in failed["message"] and failed["cure"]
    after = {path: path.read_bytes() for path in [*tmp_path.glob("run/*.safetensors"), *tmp_path.glob("run/state/*")]}
    assert len(before) == 3 and before == after


def test_gradients_that_are_not_finite_end_the_run(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "mask_loss", lambda logits, *_: (logits.sum() * float("nan"), torch.tensor(0.0)))
    data = write_dataset(tmp_path / "data", {"train": ("a",), "val": (), "test": ()})
    assert "2 steps had gradients that are not finite" in refused("--data", data, settings=["optim.most_bad_steps=1"])


def state_step(run: Path) -> int:
    return int(max((run / "state").glob("step_*.pt")).stem.split("_")[1])
