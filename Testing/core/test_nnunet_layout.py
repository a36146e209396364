"""mass dataset export --format nnunet: what is written is read again as a dataset of nnU-Net, voxel for voxel."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mass_core.cli import main
from mass_core.data.dataset import Case, Dataset, write_case
from mass_core.data.public_cases import find_cases
from mass_core.data.public_layouts import KINDS
from mass_core.volumes.volume import Volume

SHAPE = (5, 6, 7)
SPLITS = {"train": ("a",), "val": ("b",), "test": ("c", "d")}


def mass(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def ours(tmp_path: Path) -> Dataset:
    """Four scans turned round, with labels 2 and 300; the last one has none."""
    cases = []
    for seed, name in enumerate("abcd"):
        case = Case(
            name=name,
            patient=name,
            modality="mr",
            shape_zyx=SHAPE,
            spacing_zyx=(3.0, 1.5, 1.0),
            origin_xyz=(5.0, -6.0, 7.0 + seed),
            direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
            labels=None if name == "d" else "labels.npy",
        )
        image = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float16)
        labels = np.zeros(SHAPE, np.uint16)
        labels[seed, 1:3], labels[4] = 2, 300
        write_case(tmp_path / "ours", case, image, labels)
        cases.append(case)
    dataset = Dataset(folder=tmp_path / "ours", name="four", cases=tuple(cases), splits=SPLITS, label_names={2: "liver", 300: "spleen"})
    dataset.write()
    return dataset


def export(dataset: Dataset, output: Path) -> int:
    return mass("dataset", "export", dataset.folder, "--format", "nnunet", "--output", output)


def test_what_is_written_is_read_again(ours: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert export(ours, tmp_path / "Dataset001_Four") == 0
    assert "2 becomes 1, 300 becomes 2" in capsys.readouterr().err
    cases, told = find_cases([tmp_path / "Dataset001_Four"], KINDS["nnunet"])
    assert not told and [(case.name, case.split) for case in cases] == [("a", "train"), ("b", "val"), ("c", "test"), ("d", "test")]
    assert cases[0].label_names == {1: "liver", 2: "spleen"}
    for case in cases[:3]:
        image, labels = case.read(), case.read_labels()
        truth = ours.labels(case.name)
        assert truth is not None and labels is not None and image.geometry.matches(labels.geometry)
        assert np.array_equal(image.array, ours.image(case.name).astype(np.float32))
        assert np.array_equal(labels.array, (truth == 2) + 2 * (truth == 300).astype(np.uint8))
    assert cases[3].read_labels() is None
    assert Volume.read(cases[2].image).geometry.origin_xyz == pytest.approx((5.0, -6.0, 9.0))
    description = json.loads((tmp_path / "Dataset001_Four/dataset.json").read_text())
    assert description["channel_names"] == {"0": "noNorm"} and description["numTraining"] == 2 and description["file_ending"] == ".nii.gz"
    assert json.loads((tmp_path / "Dataset001_Four/splits_final.json").read_text()) == [{"train": ["a"], "val": ["b"]}]


def test_only_what_changed_is_written_again(ours: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert export(ours, tmp_path / "out") == 0
    (tmp_path / "out/labelsTr/b.nii.gz").unlink()
    assert export(ours, tmp_path / "out") == 0
    assert "1 made, 3 there before" in capsys.readouterr().out


def test_what_nnunet_cannot_train_on_is_refused(ours: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    replace(ours, splits={"train": ("a", "d"), "val": ("b",)}).write()
    assert export(ours, tmp_path / "out") == 3
    assert "d has no label map" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/splits_final.json").read_text()) == [{"train": ["a"], "val": ["b"]}]
    replace(ours, label_names={2: "liver", 300: "liver"}).write()
    assert export(ours, tmp_path / "twice") == 2
    assert "'liver' cannot be one" in capsys.readouterr().err
    assert export(ours, ours.folder) == 2
    assert "would be lost" in capsys.readouterr().err
