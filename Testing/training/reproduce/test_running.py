"""Runs of the paper's tables: resumed, shared, failed, stopped, remembered."""

import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from mass_core.cli.common.batch import terminated_as_interrupted
from Testing.waiting import wait_until
from training.reproduce import running
from training.reproduce.command import main
from training.reproduce.running import execute
from training.runs.stopping import SAVED

from .miniature import ONE, SMALL, Recorder, never, numbers, published, reproduce, table


def test_a_seed_is_everyones_and_stands_beside_the_results(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("table1", "--rows", "MAE", *ONE, "--draws", "2", "--seed", "7")
    assert reproduce(place, *words, carry_out=Recorder()) == 0
    assert {row["seed"] for row in table(place, "table1").values()} == {"7"}
    assert (place / "runs/table1.md").read_text(encoding="utf-8").endswith("\nSeed: 7\n")
    assert reproduce(place, *words, "--dry-run", carry_out=never) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if " --" in line]
    assert [re.findall(r"--seed (\d+)", line) for line in commands] == [["7"], ["7"], ["8"]]


def test_a_run_that_only_saved_is_not_finished(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Stopped(Recorder):
        def __call__(self, command: Sequence[str], log: Path) -> int:
            super().__call__(command, log)
            log.write_text(f"{SAVED} 3 of 9; the same command continues from there.\n")
            return 0

    words = ("table1", "--rows", "MAE", *ONE)
    assert reproduce(place, *words, carry_out=Stopped()) == 3
    told = capsys.readouterr().err
    assert "pretrain/mae_bcv was stopped before its end" in told and not numbers(place, "table1")
    again = Recorder()
    assert reproduce(place, *words, carry_out=again) == 0 and again.names[0] == "pretrain/mae_bcv"
    assert re.search(r"evaluate/bcv/mae_bcv_finetuned/1-shot/draw0, \d+\.\d h left \(log", capsys.readouterr().err)


FULL = ("table1", "--rows", "MAE", "MASS-FT", "--datasets", "bcv", "ss_hn")


def test_a_failed_run_stops_only_what_needs_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(place, *FULL, carry_out=Recorder(bad="pretrain/mae_bcv")) == 3
    assert set(numbers(place, "table1")) == {
        (row, f"{name}:{k}") for row, name in (("MAE", "ss_hn"), ("MASS-FT", "bcv"), ("MASS-FT", "ss_hn")) for k in (1, 5, 10)
    }
    told = capsys.readouterr().err
    assert "pretrain/mae_bcv failed with exit status 2: The disk is full. Make room." in told
    assert "pretrain/mae_bcv failed. Left out: evaluate/bcv/mae_bcv_finetuned/1-shot/draw0 and 2 more runs." in told
    assert "12 of 16 runs are finished" in told
    again = Recorder()
    assert reproduce(place, *FULL, carry_out=again) == 0
    assert again.names == ["pretrain/mae_bcv", *(f"evaluate/bcv/mae_bcv_finetuned/{k}-shot/draw0" for k in (1, 5, 10))]


def test_an_interrupted_call_goes_on(place: Path) -> None:
    first, second = Recorder(stop="ss_hn"), Recorder()
    assert reproduce(place, *FULL, carry_out=first) == 130
    assert reproduce(place, *FULL, carry_out=second) == 0
    assert len(first.names) + len(second.names) == len({*first.names, *second.names}) == 16


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends programs without asking them")
def test_a_run_saves_when_this_program_is_told_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_GRACE_S", 0.01)
    log = tmp_path / "log.txt"
    code = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(print('saved'))); print('ready', flush=True); time.sleep(600)"

    def tell() -> None:
        wait_until(lambda: log.exists() and "\nready" in log.read_text())
        os.kill(os.getpid(), signal.SIGTERM)

    teller = threading.Thread(target=tell)
    teller.start()
    with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
        execute(["python", "-c", code], log)
    teller.join()
    assert log.read_text().endswith("saved\n")


def test_shards_share_all_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = [Recorder() for _ in range(6)]
    statuses = [reproduce(place, *FULL, "--shard", f"{number % 3 + 1}/3", carry_out=one) for number, one in enumerate(done)]
    assert statuses[0] == 3 and statuses[-1] == 0
    names = [name for one in done for name in one.names]
    assert len(names) == len(set(names)) == 16 and all(one.names for one in done[:3])
    assert "is not finished" in capsys.readouterr().err


def test_results_that_are_gone_are_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("table1", "--rows", "MAE", *ONE)
    assert reproduce(place, *words, carry_out=Recorder()) == 0
    folder = place / "runs/evaluate/bcv/mae_bcv_finetuned/1-shot/draw0"
    (folder / "summary.json").unlink()
    assert reproduce(place, *words, carry_out=never) == 2
    assert f"The results in {folder} are missing" in capsys.readouterr().err
    (folder / "done.json").write_text("{")
    assert reproduce(place, *words, carry_out=Recorder()) == 0


def test_draws_are_averaged(place: Path) -> None:
    assert reproduce(place, *FULL[:3], *ONE, "--draws", "3", carry_out=Recorder()) == 0
    row = table(place, "table1")["MAE", "bcv:1"]
    assert (float(row["ours"]), float(row["sd"]), row["draws"]) == (pytest.approx(160 / 3, abs=1e-3), pytest.approx(5.7735, abs=1e-3), "3")
    assert "53.3(5.8) / 46.3(3.0)" in (place / "runs/table1.md").read_text(encoding="utf-8")


def test_scans_that_failed_are_remembered(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published(place, 1)
    (place / "data/bcv").unlink()

    class Partly(Recorder):
        def __call__(self, command: Sequence[str], log: Path) -> int:
            super().__call__(command, log)
            return 3 * ("datasets" in log.parts)

    (place / "data/bcv").symlink_to(place / "data/bcv_published")
    assert reproduce(place, "table1", "--rows", "Scratch", *ONE, carry_out=Partly()) == 0
    assert reproduce(place, "table1", "--rows", "Scratch", *ONE, carry_out=never) == 0
    assert "Scans failed in" in capsys.readouterr().err


def test_other_settings_are_refused_where_runs_are_finished(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("table1", "--rows", "MAE", *ONE)
    assert reproduce(place, *words, carry_out=Recorder()) == 0
    assert reproduce(place, *words, small={**SMALL, "evaluate": "--cases 2"}, carry_out=never) == 2
    told = capsys.readouterr().err
    assert "was made by another command: now --cases 2 in place of --cases 1 --labels 1 2 --epochs 1 --set" in told
    assert main([*words, "--data", str(place / "moon"), "--output", str(place)], never) == 2
    assert "There is no folder" in capsys.readouterr().err
    (place / "file").touch()
    assert main([*words, "--data", str(place / "data"), "--output", str(place / "file")], never) == 2
    assert str(place / "file") in capsys.readouterr().err
