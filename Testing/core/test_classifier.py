"""Classifiers: input, attention without padding, strict files, the command."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mass_core.cli import main
from mass_core.config import ModelConfig, Recipe
from mass_core.errors import InputError, WeightsError
from mass_core.inference.classifier import (
    Classifier,
    ClassifierConfig,
    ClassifierNetwork,
    Head,
    as_input,
    cells_of,
    classifier_input,
    classify,
    load_classifier,
    padded,
    save_classifier,
)
from mass_core.volumes.boxes import Box
from mass_core.volumes.volume import Geometry, Volume
from mass_core.weights import store as weights_store
from mass_core.weights.checkpoint import load_model

CLASSES = ("none", "lesion")


def config_of(model: ModelConfig, **changes) -> ClassifierConfig:
    recipe = Recipe(spacing_zyx=(2.0, 2.0, 2.0), window_zyx=(32, 32, 32), body_crop="none")
    return ClassifierConfig(model=model, recipe=recipe, classes=CLASSES, **changes)


@pytest.fixture(scope="module")
def file(tiny_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    config = config_of(tiny_config)
    path = tmp_path_factory.mktemp("classifier") / "lesion.safetensors"
    save_classifier(path, ClassifierNetwork(config), config, {"recipe": "tests"}, licence="CC0-1.0")
    return path


@pytest.fixture(scope="module")
def classifier(file: Path) -> Classifier:
    return load_classifier(file, "cpu")


def scan(shape=(20, 24, 28), seed=0, **geometry) -> Volume:
    values = np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)
    return Volume(values, Geometry(shape_zyx=shape, spacing_xyz=(2.0, 2.0, 2.0), **geometry), "mr")


# Pooling


def test_without_preference_the_pool_is_the_mean_of_what_is_inside() -> None:
    head = Head(8, 3, dropout=0.0)
    torch.nn.init.zeros_(head.attention[2].weight)
    features = torch.randn(2, 8, 3, 4, 5)
    inside = torch.zeros(2, 3, 4, 5, dtype=torch.bool)
    inside[:, 1:, :2, 1:3] = True
    expected = head.linear(features[:, :, 1:, :2, 1:3].mean((2, 3, 4)))
    torch.testing.assert_close(head(features, inside), expected)


def test_attention_follows_a_place_and_never_one_outside() -> None:
    """The first channel is the score; a place of score 50 takes all, one of score 1000 outside nothing."""
    head = Head(4, 4, dropout=0.0)
    with torch.no_grad():
        head.attention[0].weight.zero_()
        head.attention[0].weight[0, 0] = 1
        head.attention[0].bias.zero_()
        head.attention[2].weight.fill_(1)
        head.linear.weight.copy_(torch.eye(4))
        head.linear.bias.zero_()
    features, inside = torch.zeros(1, 4, 2, 2, 2), torch.ones(1, 2, 2, 2, dtype=torch.bool)
    features[0, :, 1, 0, 1] = torch.tensor([50.0, 1.0, 2.0, 3.0])
    features[0, :, 0, 0, 0] = torch.tensor([1000.0, 9.0, 9.0, 9.0])
    inside[0, 0, 0, 0] = False
    torch.testing.assert_close(head(features, inside), torch.tensor([[50.0, 1.0, 2.0, 3.0]]))


# What is seen of a scan


def test_what_is_smaller_lies_in_the_middle() -> None:
    image, box = padded(np.ones((3, 4, 8), np.float32), (6, 4, 9))
    assert box == ((1, 0, 0), (4, 4, 8))
    assert image.shape == (6, 4, 9) and image.sum() == 96 and image[1:4, :, :8].all()


def test_places_that_see_some_of_the_scan() -> None:
    assert cells_of(Box((1, 15, 16), (17, 32, 33)), 16) == ((0, 0, 1), (2, 2, 3))


def test_padding_is_outside(tiny_config: ModelConfig) -> None:
    image, inside = as_input(np.ones((8, 32, 32), np.float32), replace_window(config_of(tiny_config), (64, 32, 32)))
    assert image.shape == (64, 32, 32) and inside.shape == (4, 2, 2)
    assert inside[1:3].all() and not inside[[0, 3]].any(), "the scan fills planes 28 to 35"


def replace_window(config: ClassifierConfig, window) -> ClassifierConfig:
    return replace(config, recipe=replace(config.recipe, window_zyx=window))


def test_the_network_sees_every_scan_the_same_way_round(tiny_config: ModelConfig) -> None:
    """A scan stored with x to the left and z to the feet: its bright corner at the right, anterior, superior comes to the last voxel."""
    values = np.random.default_rng(0).normal(0, 1, (32, 32, 32)).astype(np.float32)
    values[0, 0, -1] = 50  # stored: z to inferior, y to posterior, x to the right
    direction = (-1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0)
    seen = classifier_input(Volume(values, Geometry(shape_zyx=values.shape, spacing_xyz=(2.0, 2.0, 2.0), direction=direction), "mr"),
                replace(config_of(tiny_config).recipe, percentiles=(0.0, 100.0)))  # fmt: skip
    assert np.unravel_index(seen.array.argmax(), seen.array.shape) == (31, 31, 31)


def test_only_the_middle_of_a_large_scan_counts_and_that_is_said(classifier: Classifier) -> None:
    whole = scan((40, 32, 32))
    seen = classifier_input(whole, classifier.config.recipe)
    assert seen.array.shape == (32, 32, 32)
    assert seen.warnings == ("The classifier uses only the middle 64 x 64 x 64 mm of the scan, 80% of it.",)
    assert not classifier_input(scan(), classifier.config.recipe).warnings
    flipped = classifier_input(whole, replace(classifier.config.recipe, orientation="none", percentiles=(0.0, 100.0)))
    whole_z = (whole.array - whole.array.mean()) / whole.array.std()
    np.testing.assert_allclose(flipped.array, whole_z[4:36], atol=1e-4)


def test_voxels_that_are_no_numbers_are_refused(classifier: Classifier) -> None:
    bad = scan()
    bad.array[1, 2, 3] = np.nan
    with pytest.raises(InputError, match=r"1 of 13440 voxels are not numbers.*\(3, 2, 1\)"):
        classify(classifier, bad)


# Answers


def test_probabilities_of_one_class_sum_to_one(classifier: Classifier) -> None:
    result = classify(classifier, scan())
    assert list(result.probabilities) == list(CLASSES) and sum(result.probabilities.values()) == pytest.approx(1)
    assert result.predicted == (max(CLASSES, key=result.probabilities.__getitem__),) and result.modality == "mr"


def test_several_labels_are_answered_one_by_one(tiny_config: ModelConfig, tmp_path: Path) -> None:
    config = replace(config_of(tiny_config), classes=("a", "b", "c"), multi_label=True)
    network = ClassifierNetwork(config)
    torch.nn.init.zeros_(network.head.linear.weight)
    with torch.no_grad():
        network.head.linear.bias.copy_(torch.tensor([0.0, 2.0, -2.0]))
    save_classifier(tmp_path / "c.safetensors", network, config, {})
    result = classify(load_classifier(tmp_path / "c.safetensors", "cpu"), scan())
    assert result.probabilities == pytest.approx({"a": 0.5, "b": 0.880797, "c": 0.119203}, abs=1e-5)
    assert result.predicted == ("a", "b")


# Files


def test_a_file_holds_everything(file: Path, classifier: Classifier, tiny_config: ModelConfig) -> None:
    assert classifier.config == config_of(tiny_config)
    assert (classifier.provenance, classifier.licence, classifier.name) == ({"recipe": "tests"}, "CC0-1.0", "lesion")
    again = load_classifier(file, "cpu")
    assert again.fingerprint == classifier.fingerprint and not again.network.training
    assert classify(again, scan()).probabilities == classify(classifier, scan()).probabilities


def test_a_classifier_is_not_taken_for_segmentation(file: Path) -> None:
    with pytest.raises(WeightsError, match="classifier of whole scans") as caught:
        load_model(file, "cpu")
    assert "mass classify" in caught.value.cure
    with pytest.raises(WeightsError, match="classifier of whole scans"):
        weights_store.classes(file)


def test_weights_for_segmentation_are_no_classifier(tiny_weights: Path) -> None:
    for weights in (tiny_weights, "small"):
        with pytest.raises(WeightsError, match="not a classifier") as caught:
            load_classifier(weights, "cpu")
        assert "training.classify" in caught.value.cure


def test_other_files_are_no_classifier(tmp_path: Path) -> None:
    (tmp_path / "c.pth").write_bytes(b"PK")
    with pytest.raises(WeightsError, match="safetensors"):
        load_classifier(tmp_path / "c.pth", "cpu")


def test_a_cut_file_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        load_classifier(tmp_path / "c.safetensors", "cpu")


@pytest.mark.parametrize(
    "header, match",
    [
        ({"format": 99}, "format version 99"),
        ({"classes": ["one"]}, "classes are one"),
        ({"model": None}, "header"),
        ({"format": None}, "header"),
        ({"preprocess": {"shadow": 1}}, "settings unknown to this version: shadow"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(file: Path, tmp_path: Path, header, match) -> None:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        values = json.loads(opened.metadata()["mass-classifier"])
    save_file(load_file(file), tmp_path / "c.safetensors", {"mass-classifier": json.dumps({**values, **header})})
    with pytest.raises(WeightsError, match=match):
        load_classifier(tmp_path / "c.safetensors", "cpu")


def test_a_missing_tensor_is_named(file: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    del tensors["head.linear.bias"]
    save_file(tensors, tmp_path / "c.safetensors", metadata)
    with pytest.raises(WeightsError, match=r"1 tensors missing: head\.linear\.bias"):
        load_classifier(tmp_path / "c.safetensors", "cpu")


@pytest.mark.parametrize(
    "changes, match",
    [({"classes": ("a",)}, "classes"), ({"classes": ("a", "a")}, "classes"), ({"recipe": Recipe(spacing_zyx=None)}, "one working spacing"),
     ({"recipe": Recipe(window_zyx=(40, 32, 32))}, "multiple of 16")],
)  # fmt: skip
def test_classifiers_nobody_can_build_are_refused(tiny_config: ModelConfig, changes, match) -> None:
    with pytest.raises(WeightsError) as caught:
        replace(config_of(tiny_config), **changes)
    assert match in str(caught.value)


# The command


@pytest.fixture
def scans(tmp_path: Path) -> list[Path]:
    """Two scans and one that holds NaN."""
    paths = [tmp_path / f"Männer {name}.nii.gz" for name in ("a", "b", "bad")]
    for seed, path in enumerate(paths):
        volume = scan(seed=seed)
        if path.name.endswith("bad.nii.gz"):
            volume.array[0] = np.nan
        volume.write(path)
    return paths


def test_a_bad_scan_does_not_stop_the_others(file: Path, scans: list[Path], tmp_path: Path, capsys) -> None:
    table = tmp_path / "new" / "table.csv"
    targets = [str(scans[2]), *map(str, scans[:2])]
    assert main(["classify", "--weights", str(file), "--target", *targets, "--output", str(table), "--device", "cpu", "--json"]) == 3
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    failed, results = ([e for e in events if e["event"] == kind] for kind in ("failed", "result"))
    assert [e["target"] for e in failed] == targets[:1] and "not numbers" in failed[0]["message"]
    assert [e["target"] for e in results] == targets[1:]
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert [row["target"] for row in rows] == targets[1:] and list(rows[0]) == ["target", "predicted", *CLASSES]
    for row, event in zip(rows, results, strict=True):
        assert row["predicted"] == event["predicted"][0]
        assert float(row["lesion"]) == pytest.approx(event["probabilities"]["lesion"], abs=1e-6)


def test_the_command_tells_one_line_a_scan(file: Path, scans: list[Path], capsys) -> None:
    assert main(["classify", "--weights", str(file), "--target", str(scans[0]), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{scans[0]}: ") and "lesion 0." in out and out.count("\n") == 1


def test_the_file_can_be_looked_into_and_verified(file: Path, classifier: Classifier, capsys) -> None:
    assert main(["weights", "info", str(file), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["parameters"] == sum(value.numel() for value in classifier.network.parameters()) and info["licence"] == "CC0-1.0"
    assert info["classes"] == [{"name": "none"}, {"name": "lesion"}] and info["multi_label"] is False
    assert main(["weights", "info", str(file)]) == 0
    assert "  1: lesion" in capsys.readouterr().out
    assert main(["weights", "verify", str(file)]) == 0
    assert classifier.fingerprint in capsys.readouterr().out


@pytest.mark.parametrize(
    "output, overwrite, match",
    [("table.csv", False, "exists already"), ("table.xlsx", True, "not a valid file name for a table")],
)
def test_a_table_that_cannot_be_written_is_refused_first(file, scans, capsys, output, overwrite, match) -> None:
    table = scans[0].with_name(output)
    table.write_text("mine")
    words = ["classify", "--weights", str(file), "--target", str(scans[0]), "--output", str(table), "--device", "cpu"]
    assert main([*words, *(["--overwrite"] if overwrite else [])]) == 2
    assert match in capsys.readouterr().err and table.read_text() == "mine"


def test_missing_and_only_bad_targets(file: Path, scans: list[Path], tmp_path: Path, capsys) -> None:
    assert main(["classify", "--weights", str(file), "--target", str(tmp_path / "gone.nii"), "--device", "cpu"]) == 2
    assert "gone.nii" in capsys.readouterr().err
    assert main(["classify", "--weights", str(file), "--target", str(scans[2]), "--device", "cpu"]) == 2
    assert "not numbers" in capsys.readouterr().err
