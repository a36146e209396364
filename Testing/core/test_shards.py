"""--shard I/N means the same for every command: disjoint, together complete, resumable, one table of all."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mass_core.cli import main
from mass_core.cli.common.shards import Shard, merge_tables, write_table
from mass_core.data.dataset import Dataset
from mass_core.volumes.volume import Volume
from Testing.core.worker_process import Files, scan
from Testing.waiting import PATIENCE_S

SHARDS = 4
NAMES = [f"scan{number}" for number in range(6)]


@pytest.fixture
def scans(files: Files) -> Path:
    """Six scans of two balls, with label maps."""
    for folder in ("scans", "labels"):
        (files.folder / folder).mkdir()
    for number, name in enumerate(NAMES):
        for folder, volume in zip(("scans", "labels"), scan(number, 32), strict=True):
            volume.write(files.folder / folder / f"{name}.nii.gz")
    return files.folder / "scans"


def mass(*words: object) -> int:
    return main([str(word) for word in words])


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def segment(files: Files, scans: Path, output: Path, *more: object) -> int:
    network = ["--weights", files.common["weights"], "--device", "cpu", "--modality", "ct"]
    targets = [scans / f"{name}.nii.gz" for name in NAMES]
    return mass("segment", *network, "--reference", files.image, files.mask, "--target", *targets, "--output-dir", output, *more)


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_shards_are_disjoint_and_complete(count: int) -> None:
    for share in (Shard.of, Shard.block):
        parts = [share(Shard(number=number, count=count), NAMES) for number in range(1, count + 1)]
        assert sorted(name for part in parts for name in part) == NAMES
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_segment_in_four_shards(files: Files, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert segment(files, scans, whole) == 0
    assert not (whole / "summary.csv").exists()
    for number in range(1, SHARDS + 1):
        assert not (shared / "summary.csv").exists(), "not before all shards are there"
        assert segment(files, scans, shared, "--shard", f"{number}/{SHARDS}") == 0
    for name in NAMES:
        a, b = (Volume.read(folder / f"{name}_seg.nii.gz").array for folder in (whole, shared))
        assert np.array_equal(a, b)
    table = rows(shared / "summary.csv")
    assert [(row["case"], row["label"]) for row in table] == [(name, label) for name in NAMES for label in "12"]
    assert {row["status"] for row in table} == {"done"} and all(float(row["ml"]) >= 0 for row in table)


def test_a_shard_goes_on_where_it_was_stopped(
    files: Files, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "out"
    (scans / "scan2.nii.gz").rename(tmp_path / "away.nii.gz")
    assert segment(files, scans, output, "--shard", "1/2") == 3
    table = {row["case"]: row for row in rows(output / "summary_1of2.csv")}
    assert set(table) == {"scan0", "scan2", "scan4"} and table["scan2"]["status"] == "failed" and "no file" in table["scan2"]["reason"]
    made = (output / "scan0_seg.nii.gz").stat().st_mtime_ns
    (tmp_path / "away.nii.gz").rename(scans / "scan2.nii.gz")
    capsys.readouterr()
    assert segment(files, scans, output, "--shard", "1/2") == 0
    assert "1 made, 2 already present, 0 failed" in capsys.readouterr().out
    assert (output / "scan0_seg.nii.gz").stat().st_mtime_ns == made
    table = {row["case"]: row for row in rows(output / "summary_1of2.csv")}
    assert [table[name]["status"] for name in ("scan0", "scan2", "scan4")] == ["present", "done", "present"]
    assert table["scan0"]["ml"], "known from the run before"
    monkeypatch.setattr("mass_core.weights.checkpoint.load_model", None)  # nothing is to be done: no network is loaded
    assert segment(files, scans, output, "--shard", "1/2") == 0


def test_the_rank_is_the_shard(files: Files, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert segment(files, scans, tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"scan1_seg.nii.gz", "scan4_seg.nii.gz"}


def test_features_have_the_colours_of_all_shards(files: Files, scans: Path, tmp_path: Path) -> None:
    """Each shard looks at the same first scans for its colours."""
    targets = [scans / f"{name}.nii.gz" for name in NAMES[:3]]
    order = ["features", "--weights", files.common["weights"], "--device", "cpu", "--target", *targets, "--output-dir"]
    assert mass(*order, tmp_path / "whole") == 0
    for number in (1, 2):
        assert mass(*order, tmp_path / "shared", "--shard", f"{number}/2") == 0
    for name in NAMES[:3]:
        a, b = ((tmp_path / folder / f"{name}_features.nii.gz").read_bytes() for folder in ("whole", "shared"))
        assert a == b
    assert [(row["case"], row["status"]) for row in rows(tmp_path / "shared" / "summary.csv")] == [(name, "done") for name in NAMES[:3]]


def test_prepare_in_four_shards(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    order = ["prepare", scans, "--labels", scans.parent / "labels", "--spacing", "3", "3", "3", "--output"]
    assert mass(*order, tmp_path / "whole") == 0
    for number in (3, 1, 4, 2):
        assert mass(*order, tmp_path / "shared", "--shard", f"{number}/{SHARDS}") == 0
    whole, shared = (Dataset.read(tmp_path / folder) for folder in ("whole", "shared"))
    assert [case.name for case in shared.cases] == [case.name for case in whole.cases] == NAMES
    assert shared.splits == whole.splits
    assert "holds 1 of 6 scans so far" in capsys.readouterr().err
    assert [(row["case"], row["status"]) for row in rows(tmp_path / "shared" / "summary.csv")] == [(name, "done") for name in NAMES]
    (scans / "scan3.nii.gz").write_bytes(b"damaged")
    made = (tmp_path / "shared" / "cases" / "scan1").stat().st_mtime_ns
    assert mass(*order, tmp_path / "shared", "--shard", "2/2") == 3
    table = {row["case"]: row for row in rows(tmp_path / "shared" / "summary_2of2.csv")}
    assert {name: row["status"] for name, row in table.items()} == {"scan1": "present", "scan3": "failed", "scan5": "present"}
    assert "scan3.nii.gz" in table["scan3"]["reason"] and (tmp_path / "shared" / "cases" / "scan1").stat().st_mtime_ns == made


def test_evaluate_in_four_shards(files: Files, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The last shard writes the tables; a share that was stopped goes on, whatever share it is then."""
    dataset = tmp_path / "dataset"
    shares = ["--shares", 1, 0, 0]
    assert mass("prepare", scans, "--labels", scans.parent / "labels", "--spacing", "3", "3", "3", *shares, "--output", dataset) == 0
    network = ["--weights", files.common["weights"], "--device", "cpu"]
    order = ["evaluate", *network, "--dataset", dataset, "--split", "train", "--labels", 1, 2, "--methods", "copied", "in-context"]
    order += ["--pictures", 0, "--output"]
    assert mass(*order, tmp_path / "whole") == 0
    shared = tmp_path / "shared"
    for number in range(1, SHARDS + 1):
        assert not (shared / "summary.csv").exists(), "not before all shards are there"
        assert mass(*order, shared, "--shard", f"{number}/{SHARDS}") == 0
    assert "3 of 12 results are done" in capsys.readouterr().err
    for name in ("summary.csv", "scores.csv"):
        assert sorted(map(str, rows(shared / name))) == sorted(map(str, rows(tmp_path / "whole" / name)))
    judged = [len(rows(shared / f"scores_{number}of{SHARDS}.csv")) for number in range(1, SHARDS + 1)]
    assert judged == [6, 6, 6, 6], "three scans with two labels each"
    assert mass(*order, shared) == 0
    assert mass(*order, shared, "--self-reference", "--shard", "1/2") == 2


def test_masks_in_four_shards(scans: Path, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    order = ["masks", scans, "--max-masks", 20, "--compare", scans.parent / "labels", "--output"]
    assert mass(*order, tmp_path / "whole") == 0
    for number in range(1, SHARDS + 1):
        assert mass(*order, tmp_path / "shared", "--shard", f"{number}/{SHARDS}") == 0
    for name in ("summary.csv", "labels.csv"):
        whole, shared = (
            [{k: v for k, v in row.items() if k != "seconds"} for row in rows(tmp_path / f / name)] for f in ("whole", "shared")
        )
        assert whole == shared


@pytest.mark.slow
@pytest.mark.parametrize("command", ["masks", "prepare", "segment", "evaluate", "features"])
def test_two_processes_of_torchrun_are_two_shares(command: str, files: Files, scans: Path, tmp_path: Path) -> None:
    """The commands of docs/cluster.md."""
    output, labels, targets = tmp_path / "out", scans.parent / "labels", [scans / f"{name}.nii.gz" for name in NAMES]
    network = ["--weights", files.common["weights"], "--device", "cpu"]
    prepare = ["prepare", scans, "--labels", labels, "--spacing", "3", "3", "3", "--shares", 1, 0, 0, "--output"]
    words = {
        "masks": ["masks", scans, "--max-masks", 20, "--output", output],
        "prepare": [*prepare, output],
        "segment": ["segment", *network, "--reference", files.image, files.mask, "--target", *targets, "--output-dir", output],
        "features": ["features", *network, "--target", *targets, "--output-dir", output],
        "evaluate": ["evaluate", *network, "--dataset", tmp_path / "data", "--split", "train", "--methods", "copied", "--output", output],
    }[command]
    if command == "evaluate":
        assert mass(*prepare, tmp_path / "data") == 0
        words += ["--pictures", 0, "--labels", 1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node", "2", "--standalone"]
    program = [*torchrun, sys.executable, "-m", "mass_core", *map(str, words)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    parts = [rows(output / f"{'scores' if command == 'evaluate' else 'summary'}_{number}of2.csv") for number in (1, 2)]
    cases = [{row["case"] for row in part} for part in parts]
    assert not cases[0] & cases[1] and sorted(cases[0] | cases[1]) == NAMES and len(cases[0]) == len(cases[1]) == 3
    assert (output / "summary.csv").exists()


def test_tables_are_merged_once_all_are_there(tmp_path: Path) -> None:
    write_table(tmp_path / "t_1of2.csv", ["case", "a"], [{"case": "y", "a": 1}, {"case": "a", "a": 3}])
    assert merge_tables(tmp_path, "t", Shard(number=1, count=2)) is None
    write_table(tmp_path / "t_2of2.csv", ["case", "b"], [{"case": "x", "b": 2}])
    merged = merge_tables(tmp_path, "t", Shard(number=1, count=2))
    assert merged == tmp_path / "t.csv"
    assert rows(merged) == [{"case": "a", "a": "3", "b": ""}, {"case": "x", "a": "", "b": "2"}, {"case": "y", "a": "1", "b": ""}]


@pytest.mark.parametrize("command", ["segment", "features", "prepare", "masks", "evaluate"])
@pytest.mark.parametrize("shard", ["0/3", "4/3", "2", "a/b"])
def test_shards_that_do_not_exist(command: str, shard: str, files: Files, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words: dict[str, list[object]] = {
        "segment": ["--reference", files.image, files.mask, "--target", files.target, "--output-dir", tmp_path / "o"],
        "features": ["--target", files.target, "--output-dir", tmp_path / "o"],
        "prepare": [files.target, "--labels", files.folder, "--output", tmp_path / "o"],
        "masks": [files.target, "--output", tmp_path / "o"],
        "evaluate": ["--dataset", files.folder, "--output", tmp_path / "o"],
    }
    assert mass(command, *words[command], f"--shard={shard}") == 2
    assert "I/N with I from 1 to N" in capsys.readouterr().err
