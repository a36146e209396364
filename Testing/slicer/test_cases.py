"""Targets, names of results, and the table."""

import csv
import os

import pytest

from mass_core.errors import InputError, WeightsError


def test_a_folder_of_images_leaves_out_masks_results_and_other_files(host, tmp_path):
    from MASSSlicerLib.runs import folders

    for name in (
        "b.nii.gz",
        "a.NRRD",
        "a_seg.nii.gz",
        "a.seg.nrrd",
        "b_mask.nii",
        "c-label.nrrd",
        "c_label.nrrd",
        "b_label1_prob.nii.gz",
        ".mass-x.nrrd",
        "x.txt",
    ):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert [path.name for path in folders.scans_in(tmp_path)] == ["a.NRRD", "b.nii.gz"]
    assert [folders.stem(path) for path in folders.scans_in(tmp_path)] == ["a", "b"]


def test_a_folder_of_series(host, tmp_path):
    from MASSSlicerLib.runs import folders

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "IM0001").touch()
    (tmp_path / "empty").mkdir()
    assert [path.name for path in folders.scans_in(tmp_path)] == ["one", "two"]
    with pytest.raises(InputError, match="holds no scans"):
        folders.scans_in(tmp_path / "empty")
    with pytest.raises(InputError, match="no folder"):
        folders.scans_in(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("files", "scans", "left"),
    [
        (("1.dcm", "2.dcm"), ["patient"], []),
        (("1.dcm", "2.dcm", "scout/1.dcm", "report/r.txt"), ["patient", "scout"], ["r.txt"]),
        (("T1/1.ima", "T2/1.ima", "notes.txt"), ["T1", "T2"], ["notes.txt"]),
        (("old_seg.nii.gz", "T1/1.dcm"), ["T1"], ["old_seg.nii.gz"]),
        (("a.nii", "a.seg.nrrd", "b.nhdr", "b.raw", "c.img", "d.mrb"), ["a.nii", "b.nhdr"], ["a.seg.nrrd", "c.img", "d.mrb"]),
        (("one/week 1/1.dcm", "two/week 1/1.dcm"), ["week 1", "week 1"], []),
    ],
)
def test_folders_of_patients(host, tmp_path, files, scans, left):
    """Slices alone, beside subfolders and below them; other files are named."""
    from MASSSlicerLib.runs import folders

    for name in files:
        (tmp_path / "patient" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "patient" / name).touch()
    left_out = []
    assert [path.name for path in folders.scans_in(tmp_path / "patient", left_out)] == scans
    assert sorted(path.name for path in left_out) == left


def test_names_of_results_are_distinct_and_possible(host, tmp_path):
    from MASSSlicerLib.runs.cases import Case, output_paths

    names = ["CT 1: chest", "CT 1/ chest", "ct 1_ chest", "  ", "Ärztin é"]
    paths = output_paths([Case(name) for name in names], tmp_path, ".seg.nrrd")
    assert [path.name for path in paths] == [
        "CT 1_ chest.seg.nrrd",
        "CT 1_ chest_2.seg.nrrd",
        "ct 1_ chest_3.seg.nrrd",
        "target.seg.nrrd",
        "Ärztin é.seg.nrrd",
    ]


def test_the_table_has_a_line_for_each_structure(host, tmp_path):
    from MASSSlicerLib.runs.cases import Case, write_summary

    done = Case("a", status="done", seconds=1.23, volumes_ml={"liver": 1234.5, "milz, links": 0.0}, warnings=("first.", "second."))
    failed = Case("b", status="failed", message="cause\ncure")
    path = tmp_path / "table.csv"
    write_summary([done, failed], path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["target"], row["structure"], row["volume_ml"]) for row in rows] == [
        ("a", "liver", "1234"),
        ("a", "milz, links", "0"),
        ("b", "", ""),
    ]
    assert rows[0]["message"] == "first. second." and rows[2]["message"] == "cause cure"


def test_series_of_the_dicom_database_are_linked_not_copied(host, tmp_path):
    from MASSSlicerLib.scene import dicom

    files = []
    for number in range(3):
        files.append(tmp_path / f"IM{number}")
        files[-1].write_bytes(b"slice")
    with pytest.raises(InputError, match="not open yet"):
        dicom.series_folder("1.2.3", tmp_path / "too early")
    assert dicom.database_series() == []
    host.open_dicom().content = {"patient": {"study": {"1.2.3": [str(path) for path in files]}}}
    folder = dicom.series_folder("1.2.3", tmp_path / "links")
    linked = sorted(folder.iterdir())
    assert len(linked) == 3 and all(os.path.samefile(link, file) for link, file in zip(linked, files, strict=True))
    files[1].unlink()
    with pytest.raises(InputError, match="are missing"):
        dicom.series_folder("1.2.3", tmp_path / "again")
    with pytest.raises(InputError, match="are missing"):
        dicom.series_folder("9.9", tmp_path / "none")


def test_task_files_say_what_they_are_without_pytorch(host, tmp_path, monkeypatch):
    monkeypatch.setenv("MASS_HOME", str(tmp_path))
    from MASSSlicerLib.library import tasks

    assert tasks.listing() == []
    for name, content in (("empty", b""), ("text", b"not a task at all"), ("long", (1 << 40).to_bytes(8, "little"))):
        file = tmp_path / f"{name}.masstask"
        file.write_bytes(content)
        with pytest.raises(WeightsError, match="is not a task file"):
            tasks.read(file)
        with pytest.raises(WeightsError):
            tasks.add(file, "name")
    assert tasks.listing() == [] and not tasks.folder().exists()


@pytest.mark.parametrize("name", ["", "  ", "a/b", "a\\b", "..", ".hidden", "a:b", "a\nb"])
def test_names_of_tasks_that_cannot_be_files(host, name, tmp_path, monkeypatch):
    monkeypatch.setenv("MASS_HOME", str(tmp_path))
    from MASSSlicerLib.library import tasks

    with pytest.raises(InputError, match="cannot be the name"):
        tasks.free(name)
