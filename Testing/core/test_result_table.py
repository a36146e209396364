"""mass segment --table: volumes and warnings of a batch, of targets without a result the reason."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mass_core.cli import main
from mass_core.data import phantoms
from mass_core.inference.segmenter import Segmenter
from mass_core.volumes.volume import Volume
from Testing.core.dicom_files import write_slices

LIVER, SPLEEN = 1, 2


@pytest.fixture
def segment(tmp_path: Path, tiny_weights: Path) -> Callable[..., int]:
    """Segment two structures in some targets, coarsely."""
    image, labels = phantoms.subject(0, shape_zyx=(24, 30, 34), spacing_zyx=(12.0, 10.0, 10.0))
    image.write(tmp_path / "good.nii.gz")
    Volume(np.where(labels.array <= SPLEEN, labels.array, 0), labels.geometry).write(tmp_path / "mask.nii.gz")

    def run(*words: object) -> int:
        fixed = ["segment", "--weights", tiny_weights, "--reference", tmp_path / "good.nii.gz", tmp_path / "mask.nii.gz", "--device", "cpu"]
        fixed += ["--spacing", 10, 10, 10, "--modality", "ct", "--output-dir", tmp_path / "out", "--overwrite"]
        return main([str(word) for word in [*fixed, *words]])

    return run


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_line_for_each_label_and_the_reason_of_each_failure(segment: Callable[..., int], tmp_path: Path) -> None:
    table = tmp_path / "tables" / "results.csv"
    (tmp_path / "broken.nii.gz").write_text("words")
    assert segment("--target", tmp_path / "good.nii.gz", tmp_path / "broken.nii.gz", "--threshold", 0.01, "--table", table) == 3
    one, two, failed = rows_of(table)
    assert [(row["label"], row["name"], row["error"]) for row in (one, two)] == [("1", "label 1", ""), ("2", "label 2", "")]
    voxels = Volume.read(tmp_path / "out" / "good_seg.nii.gz")
    for row in (one, two):
        ml = np.count_nonzero(voxels.array == int(row["label"])) * 1.2
        assert float(row["ml"]) == pytest.approx(ml, abs=1e-3) and row["decided_by"] == "network" and row["quality"] == ""
    assert failed["target"].endswith("broken.nii.gz") and "is not an image" in failed["error"] and failed["ml"] == ""


def test_warnings_stand_beside_their_label(segment: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts left out of one label, something about the scan, and nothing found of a label; with --assess the reasons for its flag."""
    plain = Segmenter.segment
    told = ("label 1: 41% of the segmented volume was removed.", "No body was found.", "Label 2 exceeds the reference window.")

    def found(self: Segmenter, *given: object, **more: object) -> object:
        result = plain(self, *given, **more)
        array = np.where(result.labels.array == SPLEEN, 0, result.labels.array)
        return replace(result, labels=replace(result.labels, array=array), volumes_ml={**result.volumes_ml, SPLEEN: 0.0}, warnings=told)

    monkeypatch.setattr(Segmenter, "segment", found)
    table = tmp_path / "results.csv"
    assert segment("--target", tmp_path / "good.nii.gz", "--assess", "--threshold", 0.01, "--table", table) == 0
    one, two = rows_of(table)
    assert (
        one["warnings"].startswith("label 1: 41% of the segmented volume was removed. No body was found.")
        and "exceeds" not in one["warnings"]
    )
    assert two["warnings"].startswith("Nothing was found. No body was found. Label 2 exceeds the reference window.")
    assert "41%" not in two["warnings"] and (two["quality"], two["expected_dice"]) == ("check", "")
    assert one["quality"] in ("good", "check", "unreliable") and 0 < float(one["expected_dice"]) < 1


def test_names_that_cannot_work(segment: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert segment("--target", tmp_path / "good.nii.gz", "--table", tmp_path / "results.txt") == 2
    assert "End it with .csv" in capsys.readouterr().err
    assert segment("--target", tmp_path / "good.nii.gz", "--table", tmp_path / "good.nii.gz") == 2
    assert not (tmp_path / "out").exists()


def test_a_folder_with_two_series_fails_alone_and_names_both(
    segment: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even where both are called the same, the files tell them apart."""

    def other(data: object, number: int) -> None:
        data.SeriesInstanceUID = "1.2.99"  # type: ignore[attr-defined]

    planes = np.arange(4 * 30 * 34, dtype=np.int16).reshape(4, 30, 34)
    write_slices(tmp_path / "both", planes)
    write_slices(tmp_path / "both", planes, first=10, change=other)
    table = tmp_path / "results.csv"
    assert segment("--target", tmp_path / "both", tmp_path / "good.nii.gz", "--table", table) == 3
    failed, *rest = rows_of(table)
    for told in (capsys.readouterr().err.replace("\n", " "), failed["error"]):
        assert "holds 2 DICOM series" in told and "MR (4 files, s00.dcm … s03.dcm)" in told and "MR (4 files, s10.dcm … s13.dcm)" in told
        assert "Give one of the files of the one to use." in told
    assert len(rest) == 2 and Path(rest[0]["output"]).is_file()
