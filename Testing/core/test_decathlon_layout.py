"""The layouts of nnU-Net and the Decathlon: exported datasets are read again voxel for voxel, results are predictions of nnU-Net."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mass_core.cli import main
from mass_core.data import phantoms
from mass_core.data.dataset import Case, Dataset, write_case
from mass_core.data.public_cases import find_cases
from mass_core.data.public_layouts import KINDS
from mass_core.evaluation.metrics import dice
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


def export(dataset: Dataset, output: Path, form: str = "nnunet") -> int:
    return mass("dataset", "export", dataset.folder, "--format", form, "--output", output)


def test_what_is_written_as_the_decathlon_has_it_is_read_again(ours: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert export(ours, tmp_path / "Task01", "msd") == 0
    assert "2 becomes 1, 300 becomes 2" in capsys.readouterr().err
    cases, told = find_cases([tmp_path / "Task01"], KINDS["msd"])
    assert not told and [(case.name, case.split) for case in cases] == [("a", "train"), ("b", "train"), ("c", "test"), ("d", "test")]
    assert cases[0].label_names == {1: "liver", 2: "spleen"}
    image, labels, truth = cases[0].read(), cases[0].read_labels(), ours.labels("a")
    assert truth is not None and labels is not None and np.array_equal(image.array, ours.image("a").astype(np.float32))
    assert np.array_equal(labels.array, (truth == 2) + 2 * (truth == 300).astype(np.uint8))
    description = json.loads((tmp_path / "Task01/dataset.json").read_text())
    assert description["labels"] == {"0": "background", "1": "liver", "2": "spleen"}
    assert (description["numTraining"], description["numTest"]) == (2, 2) and description["test"][0] == "./imagesTs/c.nii.gz"
    for entry in description["training"]:
        assert (tmp_path / "Task01" / entry["image"]).is_file() and (tmp_path / "Task01" / entry["label"]).is_file()
    assert not (tmp_path / "Task01/splits_final.json").exists()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A dataset of nnU-Net with two channels: a labelled scan and two to segment."""
    folder = tmp_path / "Dataset009_Body"
    for seed, (part, name) in enumerate((("Tr", "p_1"), ("Ts", "p_2"), ("Ts", "p_3"))):
        image, labels = phantoms.subject(seed, shape_zyx=(24, 30, 34), spacing_zyx=(12.0, 10.0, 10.0))
        for place in (folder / f"images{part}", folder / f"labels{part}"):
            place.mkdir(parents=True, exist_ok=True)
        for channel in ("0000", "0001"):
            image.write(folder / f"images{part}" / f"{name}_{channel}.mha")
        Volume(np.where(labels.array > 2, 0, labels.array), labels.geometry).write(folder / f"labels{part}" / f"{name}.mha")
    labels = {"background": 0, "organ one": 1, "organ two": 2}
    description = {"channel_names": {"0": "CT", "1": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".mha"}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def predict(raw: Path, weights: Path, *more: object, targets: str = "*_0000.mha") -> int:
    reference = ("--reference", raw / "imagesTr/p_1_0000.mha", raw / "labelsTr/p_1.mha")
    given = ("--target", *sorted((raw / "imagesTs").glob(targets)), "--spacing", 10, 10, 10, "--device", "cpu", "--format", "nnunet")
    return mass("segment", "--weights", weights, *reference, *given, *more)


def test_results_are_predictions_of_nnunet(raw: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """Named like its label maps, on their grid, with its label values and names."""
    assert predict(raw, tiny_weights, "--output-dir", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset.json", "p_2.mha", "p_3.mha"]
    described = json.loads((tmp_path / "out/dataset.json").read_text())
    assert described["labels"] == {"background": 0, "organ one": 1, "organ two": 2} and described["file_ending"] == ".mha"
    for name in ("p_2", "p_3"):
        found, truth = Volume.read(tmp_path / f"out/{name}.mha"), Volume.read(raw / f"labelsTs/{name}.mha")
        assert found.geometry.matches(truth.geometry) and set(np.unique(found.array)) <= {0, 1, 2}
    assert predict(raw, tiny_weights, "--output-dir", tmp_path / "out", "--overwrite", targets="p_2_0000.mha") == 0


def test_the_evaluator_of_nnunet_takes_them(raw: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """Each case is read and measured as the commands of nnU-Net do it, without their pool of processes. The Makefile installs it."""
    evaluator = pytest.importorskip("nnunetv2.evaluation.evaluate_predictions", reason="nnU-Net is not installed", exc_type=ImportError)
    out, truths = tmp_path / "out", raw / "labelsTs"
    assert predict(raw, tiny_weights, "--output-dir", out) == 0
    described = json.loads((out / "dataset.json").read_text())
    reader = evaluator.determine_reader_writer_from_dataset_json(described, str(truths / "p_2.mha"))()
    for name in ("p_2.mha", "p_3.mha"):
        metrics = evaluator.compute_metrics(str(truths / name), str(out / name), reader, [1, 2])["metrics"]
        found, truth = (Volume.read(folder / name).array for folder in (out, truths))
        for label in (1, 2):
            assert metrics[label]["Dice"] == pytest.approx(dice(found == label, truth == label), nan_ok=True)


def test_predictions_that_nnunet_could_not_take_are_refused(
    raw: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for options, targets, told in (
        (("--output-dir", tmp_path / "out"), "*.mha", "one channel: imagesTs/*_0000.nii.gz"),
        (("--output", tmp_path / "out.nii.gz"), "p_2_0000.mha", "Use --output-dir"),
        (("--output-dir", raw), "*_0000.mha", "does not describe predictions"),
        (("--output-dir", tmp_path / "out", "--save-probabilities"), "*_0000.mha", "as predictions"),
    ):
        assert predict(raw, tiny_weights, *options, targets=targets) == 2
        assert told in capsys.readouterr().err
    (raw / "imagesTs/p_3_0000.mha").rename(raw / "imagesTs/p_3_0000.nrrd")
    assert predict(raw, tiny_weights, "--output-dir", tmp_path / "out", targets="*_0000.*") == 2
    assert "end in .mha and .nrrd; nnU-Net expects a single ending" in capsys.readouterr().err


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
    assert "1 made, 3 already present" in capsys.readouterr().out


def test_what_nnunet_cannot_train_on_is_refused(ours: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    replace(ours, splits={"train": ("a", "d"), "val": ("b",)}).write()
    assert export(ours, tmp_path / "out") == 3
    assert "d has no label map" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/splits_final.json").read_text()) == [{"train": ["a"], "val": ["b"]}]
    replace(ours, label_names={2: "liver", 300: "liver"}).write()
    assert export(ours, tmp_path / "twice") == 2
    assert "'liver' is reserved or used more than once" in capsys.readouterr().err
    assert export(ours, ours.folder) == 2
    assert "would be overwritten" in capsys.readouterr().err
