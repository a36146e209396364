"""The command `mass`: options, names of results, exit codes, JSON lines, Ctrl-C."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mass_core.cli import build_parser, main
from mass_core.cli.common.batch import Batch
from mass_core.cli.common.options import as_request, chosen_recipe
from mass_core.config import RELEASED_SWITCHES, Recipe
from mass_core.console import Terminal
from mass_core.data import phantoms
from mass_core.encoding.task import Task
from mass_core.errors import InputError, OutputError
from mass_core.outputs import Job, plan, stem
from mass_core.pictures.label_map import Image
from mass_core.volumes.volume import Volume
from mass_core.worker.requests import Load
from Testing.waiting import PATIENCE_S

REPOSITORY = Path(__file__).resolve().parents[2]
Run = Callable[..., int]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference with its mask (liver and right kidney) and two targets, of coarse voxels."""
    folder = tmp_path_factory.mktemp("scans")
    for seed, name in enumerate(("reference", "target", "other")):
        image, labels = phantoms.subject(seed, shape_zyx=(24, 30, 34), spacing_zyx=(12.0, 10.0, 10.0))
        image.write(folder / f"{name}.nii.gz")
        if name == "reference":
            Volume(np.where(labels.array > 2, 0, labels.array), labels.geometry).write(folder / "mask.nii.gz")
    return folder


@pytest.fixture
def segment(scans: Path, tiny_weights: Path) -> Run:
    """`mass segment` with the tiny network, 10 mm voxels and the reference, and more options."""
    return lambda *options: main(["segment", *common(scans, tiny_weights), *map(str, options)])


def common(scans: Path, weights: Path) -> list[str]:
    pair = [str(scans / "reference.nii.gz"), str(scans / "mask.nii.gz")]
    return ["--weights", str(weights), "--reference", *pair, "--spacing", "10", "10", "10", "--device", "cpu"]


def options(*given: str) -> Recipe:
    arguments = build_parser().parse_args(["segment", "--target", "t", "--output", "o", *given])
    return chosen_recipe(arguments, Recipe(threshold=0.6))


def test_what_is_left_out_comes_from_the_weights() -> None:
    assert options() == Recipe(threshold=0.6)


def test_options_say_their_order_and_become_array_order() -> None:
    """Mend 42: spacing is x y z on the command line, as viewers show it, and named z y x inside."""
    chosen = options("--spacing", "1", "2", "3", "--body-margin", "4", "5", "6", "--window", "16", "32", "48")
    assert chosen.spacing_zyx == (3.0, 2.0, 1.0)
    assert chosen.body_margin_zyx == (4, 5, 6)
    assert chosen.window_zyx == (16, 32, 48)


def test_every_option_reaches_the_recipe() -> None:
    chosen = options(
        *["--modality", "pet", "--orientation", "none", "--interpolation", "bspline", "--ct-clip", "-100", "200"],
        *["--body-crop", "none", "--body-threshold", "-300", "--overlap", "0.25", "--threshold", "0.4"],
        *["--classes-per-pass", "2", "--keep-largest"],
    )
    expected = Recipe(
        modality="pet", orientation="none", interpolation="bspline", ct_clip_hu=(-100.0, 200.0), body_crop="none",
        body_threshold_hu=-300.0, overlap=0.25, threshold=0.4, classes_per_pass=2, parts="largest",
    )  # fmt: skip
    assert chosen == expected


def test_released_recipe_and_its_exceptions() -> None:
    released = options("--recipe", "released")
    assert {name: getattr(released, name) for name in RELEASED_SWITCHES} == RELEASED_SWITCHES
    assert options("--recipe", "released", "--no-keep-largest").parts == "all"


@pytest.mark.parametrize(
    ("given", "expected"),
    [((), None), (("--ema",), True), (("--no-ema",), False), (("--recipe", "released"), False), (("--recipe", "released", "--ema"), True)],
)
def test_averaged_weights(given: tuple[str, ...], expected: bool | None) -> None:
    assert as_request(Load, build_parser().parse_args(["segment", "--target", "t", *given])).averaged is expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--overlap", "1"), "overlap of windows is 1"),
        (("--threshold", "0"), "threshold is 0"),
        (("--spacing", "1", "0", "1"), "spacing is"),
        (("--window", "0", "1", "1"), "window is"),
        (("--ct-clip", "5", "5"), "clip range"),
        (("--classes-per-pass", "-1"), "--classes-per-pass is -1"),
    ],
)
def test_impossible_values(given: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        options(*given)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a/scan.nii.gz", "scan"), ("scan.v2.nii", "scan.v2"), ("x.seg.nrrd", "x"), ("X.NII.GZ", "X"), ("y.mha", "y"), ("dicom", "dicom")],
)
def test_stem(name: str, expected: str) -> None:
    assert stem(Path(name)) == expected


def test_names_of_results(tmp_path: Path) -> None:
    targets = [tmp_path / "a.nii.gz", tmp_path / "series"]
    targets[0].touch()
    targets[1].mkdir()
    a, b = plan(targets, None, tmp_path / "out", Path("view.png"))
    assert a == Job(targets[0], tmp_path / "out/a_seg.nii.gz", "a", Path("view_a.png"))
    assert b.output == tmp_path / "out/series_seg.nii.gz"
    assert a.probability(3) == tmp_path / "out/a_label3_prob.nii.gz"
    [one] = plan(targets[:1], tmp_path / "mine.nrrd", None, Path("view.png"))
    assert (one.output, one.picture) == (tmp_path / "mine.nrrd", Path("view.png"))
    assert one.probability(3) == tmp_path / "mine_label3_prob.nii.gz"


def test_names_that_cannot_be(tmp_path: Path) -> None:
    a, b = tmp_path / "a.nii.gz", tmp_path / "sub/a.nii"
    b.parent.mkdir()
    a.touch()
    b.touch()
    with pytest.raises(InputError, match="Several targets are called a"):
        plan([a, b], None, tmp_path, None)
    with pytest.raises(InputError, match="2 targets"):
        plan([a, b], tmp_path / "o.nii.gz", None, None)
    with pytest.raises(InputError, match="No output was given"):
        plan([a], None, None, None)
    with pytest.raises(OutputError, match="no ending"):
        plan([a], tmp_path / "o.txt", None, None)
    with pytest.raises(OutputError, match=r"\.png"):
        plan([a], tmp_path / "o.nii.gz", None, Path("view.jpg"))


def test_segment_writes_what_was_asked_for(segment: Run, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder"
    code = segment("--target", scans / "target.nii.gz", "--output-dir", out, "--save-probabilities", "--picture", out / "view.png")
    told = capsys.readouterr()
    assert (code, sorted(path.name for path in out.iterdir())) == (
        0,
        ["target_label1_prob.nii.gz", "target_label2_prob.nii.gz", "target_seg.nii.gz", "view.png"],
    ), told.err
    target, labels = Volume.read(scans / "target.nii.gz"), Volume.read(out / "target_seg.nii.gz")
    assert labels.geometry.matches(target.geometry)
    assert set(np.unique(labels.array)) <= {0, 1, 2}
    assert Volume.read(out / "target_label2_prob.nii.gz").array.max() <= 1
    with Image.open(out / "view.png") as picture:
        assert picture.width > 600
    assert told.out.count("\n") == 1, "one line a target"
    assert "target_seg.nii.gz: label 1" in told.out and " s)" in told.out


def test_task_gives_the_same_as_its_reference(
    segment: Run, scans: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tmp_path / "organs.masstask"
    assert main(["encode", *common(scans, tiny_weights), "--output", str(task)]) == 0
    assert [label.value for label in Task.load(task).labels] == [1, 2]
    target = str(scans / "target.nii.gz")
    assert segment("--target", target, "--output", tmp_path / "a.nii.gz") == 0
    by_task = ["segment", "--weights", str(tiny_weights), "--task", str(task), "--target", target, "--device", "cpu"]
    assert main([*by_task, "--output", str(tmp_path / "b.nii.gz")]) == 0
    assert np.array_equal(Volume.read(tmp_path / "a.nii.gz").array, Volume.read(tmp_path / "b.nii.gz").array)
    assert main([*by_task, "--labels", "2", "--output-label", "9", "--output", str(tmp_path / "c.nii.gz")]) == 0
    assert set(np.unique(Volume.read(tmp_path / "c.nii.gz").array)) <= {0, 9}
    assert main([*by_task, "--spacing", "5", "5", "5", "--output", str(tmp_path / "d.nii.gz")]) == 2
    assert "encoded with spacing_zyx" in capsys.readouterr().err


def test_one_bad_target_does_not_stop_a_batch(segment: Run, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_text("no image")
    out = tmp_path / "out"
    code = segment("--target", scans / "target.nii.gz", bad, scans / "other.nii.gz", "--output-dir", out)
    assert code == 3
    assert sorted(path.name for path in out.iterdir()) == ["other_seg.nii.gz", "target_seg.nii.gz"]
    assert "bad.nii.gz is not an image" in capsys.readouterr().err


@pytest.mark.parametrize("before", [True, False])
def test_json_lines(before: bool, scans: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.nii.gz"
    arguments = ["segment", *common(scans, tiny_weights), "--target", str(scans / "target.nii.gz"), "--output", str(out)]
    assert main(["--json", *arguments] if before else [*arguments, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    events = [line["event"] for line in lines]
    assert set(events) <= {"progress", "warning", "result"} and events.count("result") == 1
    assert {"encode", "prepare", "segment", "place"} == {line["stage"] for line in lines if line["event"] == "progress"}
    result = next(line for line in lines if line["event"] == "result")
    assert result["output"] == str(out)
    assert [label["value"] for label in result["labels"]] == [1, 2]
    assert result["passes"] == [[1, 2]] and result["modality"] == "ct" and result["device"] == "cpu"


def test_progress_is_a_line_a_minute_where_no_bar_can_be(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr("mass_core.console.time.monotonic", lambda: float(next(clock)))
    terminal = Terminal()
    for tenth in range(1, 11):
        terminal.progress("segment", tenth / 10, 100.0 - 10 * tenth, {"loss": 0.5})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "segment: 30 %  70 s left  loss 0.5" and 2 <= len(lines) <= 4


def test_a_batch_tells_how_long_all_of_it_takes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 10000, 70))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    batch = Batch(Terminal(), targets=3, visits=3)
    for _ in range(3):
        with batch.target(Path("scan.nii.gz")):
            pass
    first, second, last = capsys.readouterr().err.splitlines()
    assert (first, second[:11], last[:11]) == ("all: 0 %", "all: 33 %  ", "all: 67 %  ") and last.endswith(" s left")


def test_json_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "segment", "--target", "x.nii.gz", "--output", "y.nii.gz"]) == 2
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "event": "failed",
        "error": "InputError",
        "message": "What to segment must be given exactly once.",
        "cure": "Give either references (--reference IMAGE MASK) or a task (--task FILE); finetuned weights need neither.",
    }


def test_warnings_are_said_once(segment: Run, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(scans / "target.nii.gz", tmp_path / "again.nii.gz")
    assert segment("--target", scans / "target.nii.gz", tmp_path / "again.nii.gz", "--output-dir", tmp_path) == 0
    told = capsys.readouterr().err.splitlines()
    notes = [line for line in told if line.startswith("note:")]
    assert notes and len(notes) == len(set(notes))


def test_overwrite(segment: Run, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.nii.gz"
    out.write_text("precious")
    target = scans / "target.nii.gz"
    assert segment("--target", target, "--output", out) == 2
    assert "exists already" in capsys.readouterr().err
    assert out.read_text() == "precious"
    assert segment("--target", target, "--output", out, "--overwrite") == 0
    assert Volume.read(out).array.shape == Volume.read(target).array.shape


def test_interrupted_while_writing_leaves_nothing(
    segment: Run, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mass_core.pictures.label_map.render", interrupted)
    out = tmp_path / "out"
    code = segment("--target", scans / "target.nii.gz", "--output-dir", out, "--save-probabilities", "--picture", out / "v.png")
    assert code == 130
    assert "Cancelled" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [], "the folder made for the results is gone too"


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_stops_a_run_between_windows(scans: Path, tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["segment", *common(scans, tiny_weights), "--target", str(scans / "target.nii.gz"), "--output-dir", str(out)]
    arguments += ["--spacing", "1", "1", "1", "--no-keep-largest"]  # some thousand windows
    command = [sys.executable, "-m", "mass_core", "--json", *arguments]
    # Whoever runs the tests in the background of a script has Ctrl-C ignored, and so would the command.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            news = json.loads(line)
            if news.get("stage") == "segment" and news["fraction"] > 0:
                break
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert json.loads(rest.splitlines()[-1]) == {"event": "cancelled"}
    assert list(tmp_path.iterdir()) == []


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("segment", "encode"):
        with pytest.raises(SystemExit) as left:
            main([command, "--help"])
        assert left.value.code == 0
        assert "--weights" in capsys.readouterr().out


def test_usage_errors_have_the_code_of_bad_input() -> None:
    with pytest.raises(SystemExit) as left:
        main(["segment", "--target"])
    assert left.value.code == 2
