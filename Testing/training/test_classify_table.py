"""Tables of labels: checked whole before anything is computed, and all faults told at once."""

from pathlib import Path

import pytest

from mass_core.errors import InputError
from Testing.training.classify_rows import ROWS, write_csv
from training.classify.table import read_table


@pytest.fixture
def images(tmp_path) -> Path:
    """Nobody looks into the scans here."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for row in ROWS:
        (folder / f"{row['filename']}.nii.gz").touch()
    return folder


@pytest.fixture
def rows():
    return ROWS


def refused(images, path, match):
    with pytest.raises(InputError) as caught:
        read_table(path, images)
    for words in [match] if isinstance(match, str) else match:
        assert words in caught.value.message
    assert caught.value.cure


def test_all_faults_are_told_at_once(images, rows, tmp_path):
    bad = [dict(row) for row in rows]
    bad[0]["filename"] = "gone"
    bad[1]["label"] = ""
    bad[2]["split"] = "training"
    bad[4]["filename"] = "s3.nii.gz"
    patients = [{**row, "patient": "p1" if row["filename"] in ("s5", "s15") else row["filename"]} for row in bad]
    refused(
        images,
        write_csv(tmp_path / "l.csv", patients),
        ["1 scans are not in", "gone", "1 scans lack an entry in the column label: s1", "'training' (s2)",
         "1 scans are listed more than once: s3.nii.gz",
         "1 patients are in several splits", "p1 (test and train)"],
    )  # fmt: skip


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda rows: [{"filename": r["filename"], "label": r["label"]} for r in rows], "no column 'split'"),
        (lambda rows: [{"filename": r["filename"], "split": r["split"]} for r in rows], "neither a column 'label'"),
        (lambda rows: [{**r, "label_x": 1} for r in rows], "as well"),
        (lambda rows: [{**r, "label": "same"} for r in rows], "All scans have the label 'same'"),
        (lambda rows: [{"filename": r["filename"], "split": r["split"], "label_x": 1} for r in rows], "or none, have x"),
        (lambda rows: [{"filename": r["filename"], "split": r["split"], "label_x": "yes"} for r in rows], "lack 0 or 1"),
        (
            lambda rows: [{**r, "label": "rare" if r["filename"] == "s9" else r["label"]} for r in rows],
            "No scan of the split train has rare",
        ),
        (lambda rows: rows[:8], "No scan is in the split val"),
        (lambda rows: rows[8:], "No scan is in the split train"),
    ],
)
def test_tables_nobody_can_learn_from(images, rows, tmp_path, change, match):
    refused(images, write_csv(tmp_path / "l.csv", change(rows)), match)


@pytest.mark.parametrize("data, match", [(b"", "no column 'filename'"), (b"\xff\xfe\x00", "UTF-8"), (b'filename,split,label\n"s0', "CSV"),
                          (b"filename;split;label\ns0;train;a", "no column 'filename' among 'filename;split;label'"),
                          (b"filename,split,label\ns0,train,a\ns1,val,a,b", "1 lines of")])  # fmt: skip
def test_files_that_are_no_table(images, tmp_path, data, match):
    (tmp_path / "l.csv").write_bytes(data)
    refused(images, tmp_path / "l.csv", match)
    refused(images, tmp_path / "gone.csv", "cannot be read")


def test_numbers_are_classes_in_their_order(images, rows, tmp_path):
    numbered = [{**row, "label": str(9 + n % 2)} for n, row in enumerate(rows)]
    table = read_table(write_csv(tmp_path / "l.csv", numbered), images)
    assert table.classes == ("9", "10") and table.splits["train"][1].target == (0.0, 1.0)


def test_a_share_holds_whole_patients_and_a_larger_one_the_smaller(images, rows, tmp_path):
    paired = [{**row, "patient": f"p{number // 2}"} for number, row in enumerate(rows)]
    table = read_table(write_csv(tmp_path / "l.csv", paired), images)
    few, more = ({row.name for row in table.with_share(share, 3).splits["train"]} for share in (0.2, 0.5))
    assert len(few) == 2 and len(more) == 4 and few < more
    assert table.with_share(0.5, 3).splits["test"] == table.splits["test"] and table.with_share(1.0, 3) == table
    with pytest.raises(InputError, match="Of 8 training scans 1 were drawn") as caught:
        read_table(write_csv(tmp_path / "l.csv", rows), images).with_share(0.01, 0)
    assert "train_share" in caught.value.cure
