"""An encoder that others have pretrained is finetuned and classifies by the same commands as ours."""

import csv
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("monai", reason="MONAI is not installed: pip install '.[train]'")

from monai.networks.nets import UNet

from mass_core.cli import main as mass
from mass_core.inference.classifier import load_classifier
from mass_core.inference.segmenter import Segmenter
from mass_core.volumes.volume import Volume
from mass_core.weights.checkpoint import load_model
from training.classify.loop import main as classify
from training.finetune.command import main as finetune

from .balls import write_dataset, write_files

NETWORK = ("UNet", "spatial_dims=3", "in_channels=1", "out_channels=3", "channels=8,32,32", "strides=2,2")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    torch.save(UNet(3, 1, 3, (8, 32, 32), (2, 2)).state_dict(), folder / "net.pt")
    words = ["weights", "convert", str(folder / "net.pt"), str(folder / "unet.safetensors"), "--network", *NETWORK]
    assert mass([*words, "--spacing", "2", "2", "2", "--window", "16", "16", "16", "--body-margin", "2", "2", "2"]) == 0
    return folder / "unet.safetensors"


def test_it_is_finetuned_and_then_segments(weights: Path, tmp_path: Path) -> None:
    images, _ = write_files(tmp_path / "files", 1)
    data, run = write_dataset(tmp_path / "data"), tmp_path / "run"
    small = ["batch_size=2", "steps_per_epoch=2", "validate_cases=1", "references=1"]
    words = ["--weights", str(weights), "--data", str(data), "--recipe", "smoke", "--epochs", "1", "--device", "cpu", "--output", str(run)]
    assert finetune([*words, "--set", *small]) == 0
    before, after = load_model(weights, "cpu"), load_model(run / "last.safetensors", "cpu")
    learned = [
        name
        for name, value in after.network.encoder.state_dict().items()
        if not torch.equal(value, before.network.encoder.state_dict()[name])
    ]
    assert any(name.startswith("backbone.network.model.0") for name in learned)
    assert after.config.encoder_arguments == NETWORK and "learned" not in after.provenance and after.task is not None
    scan = Volume.read(images / "scan0.nii.gz")
    found = Segmenter(after, after.recipe.changed(modality="mr")).segment(scan, after.task)
    assert found.labels.array.shape == scan.array.shape


def test_a_frozen_classifier_learns_on_its_deepest_features(weights: Path, tmp_path: Path) -> None:
    images, _ = write_files(tmp_path, 6)
    splits = ("train", "train", "train", "train", "val", "test")
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = [(f"scan{number}", "ab"[number % 2], split) for number, split in enumerate(splits)]
        csv.writer(file).writerows([("filename", "label", "split"), *rows])
    words = [
        "--weights",
        str(weights),
        "--labels",
        str(tmp_path / "labels.csv"),
        "--images",
        str(images),
        "--output",
        str(tmp_path / "run"),
    ]
    assert classify([*words, "--frozen", "--device", "cpu", "--set", "size_zyx=16,16,16", "epochs=1"]) == 0
    classifier, model = load_classifier(tmp_path / "run/best.safetensors", "cpu"), load_model(weights, "cpu")
    own = model.network.encoder.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in classifier.network.encoder.state_dict().items())
    assert classifier.network.head.linear.in_features == classifier.network.encoder.width == 64
    assert json.loads((tmp_path / "run/metrics.json").read_text())["test"]["scans"] == 1
