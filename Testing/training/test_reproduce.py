"""The paper's tables: plans, what is missing, and each table in miniature on look-alike data."""

import contextlib
import csv
import io
import itertools
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mass_core.cli import build_parser
from mass_core.cli import main as mass
from mass_core.cli import masks as masks_command
from mass_core.cli.common.batch import terminated_as_interrupted
from mass_core.evaluation import trials
from mass_core.volumes.volume import Geometry, Volume
from mass_core.weights.store import folder as weights_folder
from mass_core.worker.requests import Finetune
from Testing.core.test_from_slices import Seer
from Testing.core.test_other_encoders import anatomix
from Testing.waiting import wait_until
from training.baselines.command import main as baselines
from training.classify.loop import main as classify
from training.finetune.command import main as tune
from training.pretrain.loop import main as pretrain
from training.reproduce import measure, running, tables
from training.reproduce.command import main
from training.reproduce.inputs import DATA, LABELS
from training.reproduce.plan import SAM2_WEIGHTS
from training.reproduce.report import paper
from training.reproduce.running import execute
from training.reproduce.tables import TABLES
from training.runs.stopping import SAVED

from .balls import scan, write_dataset, write_weights
from .classify_rows import write_csv

PROGRAMS: dict[str, Callable[[Sequence[str]], int]] = {
    "training.pretrain": pretrain,
    "training.baselines": baselines,
    "training.classify": classify,
    "training.reproduce.measure": measure.main,
}
NETWORK = "model.channels=8,32 model.stages=1 model.position_size=16 preprocess.window_zyx=16,16,16 precision=float32"
SMALL = {
    "pretrain": f"--set {NETWORK} early_window=16 episodes.task_slots=2 episodes.smallest_voxels=8 batch_size=2 log_every=1 steps=1",
    "evaluate": "--cases 1 --labels 1 2 --epochs 1 --set batch_size=2 steps_per_epoch=1 validate_cases=1 references=1",
    "classify": "--set size_zyx=32,32,32 epochs=1",
    "datasets": "--min-voxels 1",
    "masks": "--body-crop none",
}
SPLITS = {"train": tuple("abcdefghijkl"), "val": ("m",), "test": ("n",)}


def in_process(command: Sequence[str], log: Path) -> int:
    """Carry out a command here, which spares the start of Python and PyTorch."""
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stderr(file), contextlib.redirect_stdout(file):
        return mass(command[1:]) if command[0] == "mass" else PROGRAMS[command[2]](command[3:])


def reproduce(place: Path, *words: str, small: dict[str, str] = SMALL, carry_out: Callable[..., int] = in_process) -> int:
    added = [word for kind, options in small.items() for word in ("--add", f"{kind}={options}")]
    fixed = ["--data", str(place / "data"), "--output", str(place / "runs"), "--recipe", "smoke", "--device", "cpu", "--draws", "1"]
    names = list(itertools.takewhile(lambda word: not word.startswith("--"), words))
    return main([*names, *fixed, *added, *words[len(names) :]], carry_out)


def table(place: Path, name: str) -> dict[tuple[str, str], dict[str, str]]:
    with (place / "runs" / f"{name}.csv").open(newline="") as file:
        return {(row["row"], row["column"]): row for row in csv.DictReader(file)}


def numbers(place: Path, name: str) -> dict[tuple[str, str], float]:
    return {key: float(row["ours"]) for key, row in table(place, name).items() if row["ours"]}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets with balls, prepared, under the names of the paper's."""
    place = tmp_path_factory.mktemp("reproduce")
    for name in ("bcv", "amos_mr", "ss_hn", "acdc", "pelvic"):
        write_dataset(place / "data" / name, SPLITS, masked=True)
    write_classified(place / "data" / "rsna_ich", "labels.csv")
    return place


def linked(template: Path, place: Path) -> Path:
    (place / "data").mkdir()
    for folder in (template / "data").iterdir():
        (place / "data" / folder.name).symlink_to(folder)
    return place


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Path:
    return linked(template, tmp_path)


@pytest.fixture(scope="module")
def common(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place whose runs the tables share, as they do in use; each test makes what is not there yet."""
    return linked(template, tmp_path_factory.mktemp("common"))


@pytest.fixture
def one_organ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ORGANS", ("bcv",))


@pytest.fixture
def tuned_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are finetuned by this process, which spares the start of another one for each."""

    def finetune(request: Finetune, progress: object) -> dict[str, Any]:
        file, text = tmp_path / "request.json", io.StringIO()
        file.write_text(json.dumps(asdict(replace(request, folder=f"{request.output}.run"))))
        with contextlib.redirect_stdout(text):
            assert tune(["--config", str(file), "--json"]) == 0
        return json.loads(text.getvalue().splitlines()[-1])

    monkeypatch.setattr(trials, "finetune", finetune)


def write_classified(folder: Path, name: str) -> None:
    (folder / "images").mkdir(parents=True)
    rows = [{"filename": f"s{n}", "label": n % 2, "split": "train" if n < 40 else "val" if n < 42 else "test"} for n in range(44)]
    for n, row in enumerate(rows):
        image, _ = scan(n, (n % 2 + 1,))
        Volume((image * 100).astype(np.int16), Geometry(shape_zyx=image.shape, spacing_xyz=(1, 1, 2))).write(
            folder / f"images/{row['filename']}.nii.gz"
        )
    write_csv(folder / name, rows)


def never(command: Sequence[str], log: Path) -> int:
    raise AssertionError(command)


def test_a_list_names_every_command_and_everything_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    assert reproduce(tmp_path, "all", "--dry-run", carry_out=never, small={}) == 3
    told = capsys.readouterr().out
    for one in (*DATA.values(), *LABELS.values()):
        assert one.source in told
    for weights in ("openmind-mae", "suprem-unet", "merlin", "anatomix", SAM2_WEIGHTS, "TotalSegmentator"):
        assert weights in told
    commands = [line.strip() for line in told.splitlines() if line.startswith(" " * 21)]
    assert len(commands) == len(set(commands)) > 300
    parser = build_parser()
    for line in {re.sub("draw[1-9]", "draw0", line) for line in commands if line.startswith("mass ")}:
        parser.parse_args(line.split()[1:])
    assert not (tmp_path / "runs").exists()


def test_every_cell_of_the_paper_has_runs_or_is_a_fact(tmp_path: Path) -> None:
    from training.reproduce.plan import Planner

    planner = Planner(data=tmp_path, output=tmp_path / "runs")
    without = [
        (name, *key) for name, one in TABLES.items() for key in paper(one.paper).cells if not one.cell(planner, *key).runs
    ]  # fmt: skip
    assert {name for name, *_ in without} == {"table7"} and all(row != "MASS" or column == "supervision" for _, row, column in without)


def test_the_page_names_every_table_and_its_tests() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/reproduce.md").read_text(encoding="utf-8")
    assert [name for name in TABLES if f"`{name}`" not in page] == []
    named = re.findall(r"`(test_\w+)`( \(slow\))?", page)
    assert [name for name, _ in named if name not in globals()] == []
    assert [name for name, slow in named if bool(slow) != is_slow(globals()[name])] == []
    assert [name for name in (*DATA, *LABELS) if f"`{name}`" not in page and f"`{name}.csv`" not in page] == []


def is_slow(test: Callable[..., None]) -> bool:
    return any(mark.name == "slow" for mark in getattr(test, "pytestmark", ()))


def test_the_papers_numbers_are_those_of_its_text(shared: Path) -> None:
    """Rows and numbers of each table follow one another there as in our files."""
    file = shared / "paper.txt"
    if not file.is_file():
        pytest.skip("the paper's text is not at hand")
    text = re.sub(r"</?[ui]>", "", file.read_text(encoding="utf-8"))
    rows = [re.split(r"\t+", line.strip("\t")) for line in text.splitlines() if "\t" in line]
    wanted = ("table1", "table3", "table4a", "table4b", "table4c", "table5", "table6", "table9")
    for name in wanted:
        theirs = paper(name)
        for row in theirs.rows:
            numbers = [theirs.cells[row, column] for column in theirs.columns if (row, column) in theirs.cells]
            flat = [value.rstrip("%") for value in numbers]
            assert any(_holds([cell.rstrip("%") for cell in line], [row, *flat]) for line in rows), (name, row, flat)


def _holds(line: Sequence[str], part: Sequence[str]) -> bool:
    names = {"SuPreM": "SuPrem"}
    return any(list(line[at : at + len(part)]) in (list(part), [names.get(part[0], part[0]), *part[1:]]) for at in range(len(line)))


TWO = ("--upstream", "bcv", "amos_mr")
ONE = ("--datasets", "bcv", "--shots", "1")
METHODS = ("Scratch", "MG", "MAE", "S3D", "SimCLR", "MASS-IC", "MASS-FT")


def test_table_1_in_context(common: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(common, "table1", "--rows", "mass-ic", *ONE) == 0
    assert set(numbers(common, "table1")) == {("MASS-IC", "bcv:1")}
    told = capsys.readouterr().out
    assert "| | BCV 1-shot |" in told and re.search(r"\| MASS-IC \| \d+\.\d / 65\.5\(1\.8\) \|", told)
    assert (common / "runs/table1.md").read_text(encoding="utf-8") in told
    assert reproduce(common, "table1", "--rows", "mass-ic", *ONE, carry_out=never) == 0
    assert reproduce(common, "table9", "--rows", "both", carry_out=never) == 0  # the same runs
    assert numbers(common, "table9")["Both", "bcv:1"] == numbers(common, "table1")["MASS-IC", "bcv:1"]


def test_table_1(place: Path, tuned_here: None) -> None:
    """All methods with one labelled scan; the pretrained network in context and finetuned with five and ten as well."""
    assert reproduce(place, "table1", *ONE) == 0
    assert set(numbers(place, "table1")) == {(row, "bcv:1") for row in METHODS}
    assert reproduce(place, "table1", "--rows", "MASS-IC", "MASS-FT", "--datasets", "bcv", "--shots", "5", "10") == 0
    assert set(numbers(place, "table1")) == {(row, f"bcv:{shots}") for row in ("MASS-IC", "MASS-FT") for shots in (5, 10)}


@pytest.mark.slow
def test_table_1_in_processes_of_its_own(place: Path) -> None:
    assert reproduce(place, "table1", *ONE, carry_out=execute) == 0
    assert {row for row, _ in numbers(place, "table1")} == set(METHODS)
    assert reproduce(place, "table1", "--rows", "Full supervision", "--datasets", "bcv") == 0
    assert set(numbers(place, "table1")) == {("Full supervision", "bcv:all")}


def test_table_2_in_context_and_of_data_the_paper_does_not_have(common: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (common / "data/mine").symlink_to(common / "data/acdc")
    words = ("--rows", "MASS (IC)", "OM-MAE", "--datasets", "bcv", "mine", "--shots", "1", "all", *TWO)
    assert reproduce(common, "table2", *words) == 3
    assert set(numbers(common, "table2")) == {("MASS (IC)", column) for column in ("bcv:1", "mine:1", "mine:all")}
    record = json.loads((common / "runs/evaluate/mine/mass_upstream_in-context/all-shot/draw0/summary.json").read_text())
    assert record["means"][0]["shots"] == len(SPLITS["train"])
    told = capsys.readouterr().err
    assert "ResEncL-OpenMind-MAE" in told and "CC BY 4.0" in told
    assert reproduce(common, "table6", *words, carry_out=never) == 3
    assert numbers(common, "table6") == numbers(common, "table2")


@pytest.mark.slow
def test_tables_2_and_6_with_published_weights_and_without(place: Path) -> None:
    write_weights_of_anatomix()
    pretrain = SMALL["pretrain"].replace("position_size=16", "position_size=32")
    small = {**SMALL, "pretrain": pretrain, "evaluate": f"{SMALL['evaluate']} window=32 --window 32 32 32"}
    words = ("--rows", "MASS (IC)", "MASS (FT)", "Iris (IC)", "AnatoMix", "OM-MAE", *ONE, "--upstream", "bcv", "amos_mr")
    assert reproduce(place, "table2", *words, small=small) == 3
    assert {row for row, _ in numbers(place, "table2")} == {"MASS (IC)", "MASS (FT)", "Iris (IC)", "AnatoMix"}
    assert reproduce(place, "table6", *words, small=small, carry_out=never) == 3
    assert numbers(place, "table6") == numbers(place, "table2")


def test_table_3(place: Path) -> None:
    write_weights_of_anatomix()
    words = ("table3", "--rows", "Scratch", "AnatoMix", "Merlin", "--datasets", "rsna_ich", "--shots", "5")
    assert reproduce(place, *words) == 3
    found = numbers(place, "table3")
    assert set(found) == {("Scratch", "rsna_ich:5"), ("AnatoMix", "rsna_ich:5")} and all(0 <= auc <= 100 for auc in found.values())
    assert table(place, "table3")["Merlin", "rsna_ich:5"]["paper"] == "57.3"


def write_weights_of_anatomix() -> None:
    """Under the names of the published ones, where its owner would put them."""
    state = {name: torch.full_like(value, 1 if "running_var" in name else 0.01) for name, value in anatomix().items()}
    weights_folder().mkdir(parents=True, exist_ok=True)
    torch.save(state, weights_folder() / "anatomix.pth")


def test_table_4a(common: Path) -> None:
    assert reproduce(common, "table4a", "--rows", "BCV") == 0
    found = numbers(common, "table4a")
    assert found["BCV", "best"] == 100.0 and {column for _, column in found} == {"best", "mean", "above_40", "dice"}


def test_table_4b(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published(place, 4)
    small = {**SMALL, "masks": "--body-crop none --max-masks 10"}
    assert reproduce(place, "table4b", "--datasets", "bcv", "--rows", "TotalSegmentator", "SAM2", "SLIC", small=small) == 3
    assert set(numbers(place, "table4b")) == {("SLIC", "bcv:1")}
    told = capsys.readouterr().err
    assert "github.com/wasserth/TotalSegmentator" in told and "mass weights download sam2.1_hiera_large" in told


def test_table_4c(common: Path, one_organ: None) -> None:
    assert reproduce(common, "table4c", "--rows", "MASS-ResUNet", *TWO) == 0
    assert len(numbers(common, "table4c")) == 2


@pytest.mark.slow
def test_table_4c_whole(place: Path) -> None:
    small = {**SMALL, "pretrain": SMALL["pretrain"].replace("channels=8,32", "channels=8,32,32")}
    assert reproduce(place, "table4c", "--upstream", "bcv", "amos_mr", small=small) == 0
    assert len(numbers(place, "table4c")) == 4


@pytest.mark.parametrize("rows", [["Three-channel windows"], pytest.param([*tables.CHANNELS], marks=pytest.mark.slow)])
def test_table_5_and_figures_3_and_4(rows: Sequence[str], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network that knows the answers in place of SAM2's."""
    published(place, 4)
    weights_folder().mkdir(parents=True, exist_ok=True)
    (weights_folder() / f"{SAM2_WEIGHTS}.pt").touch()
    monkeypatch.setattr(masks_command, "_loaded", lambda arguments, config: Seer())
    fine = "--points-per-side 16 --crop-layers 0 --min-voxels 10 --min-pixels 4 --interval 8 --body-crop none"
    assert reproduce(place, "table5", "--rows", *rows, small={**SMALL, "masks": fine}) == 0
    assert {row for row, _ in numbers(place, "table5")} == set(rows)
    assert reproduce(place, "fig3", "fig4", "--rows", "Abdomen CT", small={**SMALL, "masks": fine}, carry_out=never) == 0
    for name in ("fig3", "fig4"):
        picture = place / "runs" / table(place, name)["Abdomen CT", "picture"]["ours"]
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_table_7_and_the_parameters_of_table_8(place: Path) -> None:
    assert reproduce(place, "table7", "--upstream", "bcv", "amos_mr") == 0
    assert {key: row["ours"] for key, row in table(place, "table7").items() if row["ours"]} == {
        ("MASS", "samples"): "24",
        ("MASS", "modalities"): "MR",
    }
    assert reproduce(place, "table8", "--rows", "Encoder, M", "Decoder, M", "Task encoding module, M", "Total, M") == 0
    assert [round(value, 2) for value in numbers(place, "table8").values()] == [37.66, 46.00, 36.47, 120.13]


@pytest.mark.slow
def test_table_8(place: Path) -> None:
    assert reproduce(place, "table8", small={"speed": "--size 32 --repeats 1"}, carry_out=execute) == 0
    found = numbers(place, "table8")
    assert len(found) == 9 and min(found.values()) > 0


def test_table_9(common: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(common, "table9", "--rows", "Large") == 0
    assert len(numbers(common, "table9")) == 1
    settings = json.loads((common / "runs/pretrain/mass_bcv_large/config.json").read_text())
    assert settings["appearance"]["gamma"] == [0.6, 1.6] and settings["episodes"]["rotation_degrees"] == 60
    assert reproduce(common, "table9", "--rows", "Spatial only", "Appearance only", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "--set validate_every=0 appearance.probability=0 " in told and "--set validate_every=0 episodes.affine_probability=0 " in told


def test_figure_2(common: Path, one_organ: None) -> None:
    assert reproduce(common, "fig2", "--rows", "BCV") == 0
    assert set(numbers(common, "fig2")) == {("BCV", "segmentation"), ("BCV", "classification")}


@pytest.mark.slow
def test_figure_2_whole(place: Path) -> None:
    for name in ("kits", "lits"):
        (place / "data" / name).symlink_to(place / "data/bcv")
    assert reproduce(place, "fig2", "--rows", "BCV", "+ KiTS", "+ LiTS", "+ BraTS") == 3
    found = numbers(place, "fig2")
    assert len(found) == 6 and table(place, "fig2")["+ BraTS", "segmentation"]["paper"] == "73.9"


def test_figures_6_and_7(place: Path) -> None:
    words = ("--weights", str(write_weights(place / "w.safetensors")))
    assert reproduce(place, "fig6", *words, "--rows", "BCV") == 0
    assert reproduce(place, "fig7", *words, "--rows", "Abdomen CT") == 0
    for name, row in (("fig6", "BCV"), ("fig7", "Abdomen CT")):
        picture = place / "runs" / table(place, name)[row, "picture"]["ours"]
        assert picture.read_bytes().startswith(b"\x89PNG")


class Recorder:
    """Carries nothing out, but leaves what an evaluation would; runs whose name holds `bad` fail."""

    def __init__(self, bad: str = "nothing", stop: str = "nothing") -> None:
        self.names: list[str] = []
        self._bad, self._stop = bad, stop

    def __call__(self, command: Sequence[str], log: Path) -> int:
        name = "/".join(log.parts[log.parts.index("runs") + 1 : -1])
        if self._stop in name:
            raise KeyboardInterrupt
        self.names.append(name)
        log.write_text("error: The disk is full.\n       Make room.\n", encoding="utf-8")
        if name.startswith("evaluate"):
            (log.parent / "summary.json").write_text(json.dumps({"means": [{"dice": 0.5 + 0.1 * ("draw1" in name)}]}))
        return 2 if self._bad in name else 0


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
            log.write_text(f"{SAVED} 3 of 9; the same command goes on from there.\n")
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


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("table10",), "There is no 'table10'"),
        (("table1", "--rows", "MASS-IT"), "There is no row 'MASS-IT'"),
        (("table1", "--rows", "Full supervision", "--shots", "7"), "Nothing is left"),
        (("table1", "--upstream", "moon"), "--upstream names 'moon'"),
        (("table1", "--add", "cook=--hot"), "--add has 'cook=--hot'"),
        (("table1", "--draws", "0"), "--draws 0"),
        (("table1", "--shots", "few"), "--shots has 'few'"),
        (("table1", "--shard", "4/3"), "The shard is '4/3'"),
    ],
)
def test_bad_orders_are_told(place: Path, words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ("--data", str(place / "data"), "--output", str(place / "runs"))
    assert main([*folders, *words], never) == 2
    assert told in capsys.readouterr().err


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


def published(place: Path, count: int) -> None:
    """Scans with balls in BCV's layout, beside the prepared dataset."""
    for number in range(count):
        image, labels = scan(number)
        geometry = Geometry(shape_zyx=image.shape, spacing_xyz=(1.0, 1.0, 2.0))
        for kind, array in (("img", (image * 100).astype(np.int16)), ("label", labels)):
            folder = place / "data/bcv_published/RawData/Training" / kind
            folder.mkdir(parents=True, exist_ok=True)
            Volume(array, geometry).write(folder / f"{kind}{number:04}.nii.gz")
