"""Folders as found in practice: every scan is found, other files are named."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from mass_core.cli import main
from mass_core.data.scan_files import find_scans, scan_named
from mass_core.volumes.volume import Geometry, Volume
from Testing.core.dicom_files import write_slices


def made(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("files", "scans"),
    [
        (("P/1.dcm", "P/2.dcm", "P/scout/1.dcm"), ["P", "P_scout"]),
        (("P/1.dcm", "P/2.dcm", "P/report/r.txt"), ["P"]),
        (("P/1.ima", "P/T1/1.ima", "P/T2/1.ima"), ["P", "P_T1", "P_T2"]),
        (("P/T1/1.dcm", "P/T2/1.dcm", "P/notes.txt"), ["T1", "T2"]),
        (("P/a.nii", "P/1.dcm"), ["P", "a"]),
        (("P/1.dcm", "P/scout/1.dcm", "Q/1.dcm", "Q/scout/1.dcm"), ["P", "P_scout", "Q", "Q_scout"]),
    ],
)
def test_all_series_of_a_patient_are_found(tmp_path: Path, files: tuple[str, ...], scans: list[str]) -> None:
    assert [scan.name for scan in find_scans([made(tmp_path, *files)])] == scans


def test_slices_are_known_by_their_beginning(tmp_path: Path) -> None:
    made(tmp_path, "P/IM0001", "P/DICOMDIR", "P/README")
    for name in ("IM0001", "DICOMDIR"):
        (tmp_path / "P" / name).write_bytes(bytes(128) + b"DICM")
    left: list[Path] = []
    (scan,) = find_scans([tmp_path], left)
    assert scan.path == tmp_path / "P"
    assert [path.name for path in left] == ["DICOMDIR", "README"]


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    made(tmp_path, "a.nii", "b.mhd", "b.raw", "c.nhdr", "c.raw.gz", "d.hdr", "d.img", "lonely.img", "notes.txt", ".hidden")
    (tmp_path / "gone.nii").symlink_to(tmp_path / "nowhere.nii")
    left: list[Path] = []
    assert [scan.name for scan in find_scans([tmp_path], left)] == ["a", "b", "c", "d"]
    assert sorted(path.name for path in left) == ["gone.nii", "lonely.img", "notes.txt"]


@pytest.mark.parametrize("name", ["x.nhdr", "x.hdr", "x.mhd"])
def test_headers_beside_their_voxels_are_read(tmp_path: Path, name: str) -> None:
    import SimpleITK as sitk

    volume = Volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5), Geometry(shape_zyx=(3, 4, 5), spacing_xyz=(1.0, 2.0, 3.0)))
    sitk.WriteImage(volume.to_sitk(), str(tmp_path / name))
    (scan,) = find_scans([tmp_path])
    assert np.array_equal(scan.read().array, volume.array) and scan.read().geometry.spacing_xyz == pytest.approx((1, 2, 3))


def test_label_maps_of_nnunet_are_found(tmp_path: Path) -> None:
    made(tmp_path, "case.nii.gz", "other_0000.nii.gz", "third.mha")
    assert scan_named("case_0000", tmp_path) == tmp_path / "case.nii.gz"
    assert scan_named("other_0000", tmp_path) == tmp_path / "other_0000.nii.gz"
    assert scan_named("third_0001", tmp_path) == tmp_path / "third.mha"
    assert scan_named("fourth_0000", tmp_path) is None and scan_named("case_12", tmp_path) is None


def test_the_command_names_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, "a.nii", *(f"notes{n}.txt" for n in range(7)))
    assert main(["masks", str(tmp_path), "--output", str(tmp_path / "m")]) == 2
    told = "Skipped, not scans: notes0.txt, notes1.txt, notes2.txt, notes3.txt, notes4.txt and 2 more."
    assert told in capsys.readouterr().err


def test_two_series_in_one_folder_fail_alone_in_a_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """mass masks names both, goes on with the other patients, and makes nothing of the mixture."""

    def scout(data: Dataset, number: int) -> None:
        data.SeriesInstanceUID, data.SeriesDescription = "1.2.99", "scout"

    planes = np.random.default_rng(0).integers(0, 900, (12, 24, 24)).astype(np.int16)
    write_slices(tmp_path / "scans" / "mixed", planes)
    write_slices(tmp_path / "scans" / "mixed", planes[:1], first=20, change=scout)
    write_slices(tmp_path / "scans" / "plain", planes)
    words = ["masks", str(tmp_path / "scans"), "--output", str(tmp_path / "m"), "--method", "slic", "--max-masks", "20"]
    assert main(words) == 3
    told = capsys.readouterr().err.replace("\n", " ")
    assert "holds 2 DICOM series" in told and "MR (12 files, s00.dcm … s11.dcm)" in told and "scout (1 file, s20.dcm)" in told
    assert [path.name for path in (tmp_path / "m").glob("*.masks")] == ["plain.masks"]
