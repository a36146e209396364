"""No case ends a batch, and no output stream a command: odd names, missing files, other encodings, closed pipes."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mass_core.cli import main
from mass_core.console import JsonLines, escape_unencodable
from mass_core.data import phantoms
from mass_core.volumes.volume import Volume
from Testing.waiting import PATIENCE_S

LIVER = "肝臓"


@pytest.fixture(scope="module")
def subject() -> tuple[Volume, Volume]:
    return phantoms.subject(0, shape_zyx=(24, 30, 34), spacing_zyx=(12.0, 10.0, 10.0))


@pytest.fixture
def batch(tmp_path: Path, subject: tuple[Volume, Volume], tiny_weights: Path) -> Callable[..., int]:
    """Segment a good target and others besides."""
    image, labels = subject
    image.write(tmp_path / "good.nii.gz")
    Volume((labels.array == 1).astype(np.uint8), labels.geometry).write(tmp_path / "mask.nii.gz")

    def run(*targets: str, spacing: int = 10) -> int:
        words = ["segment", "--weights", tiny_weights, "--reference", tmp_path / "good.nii.gz", tmp_path / "mask.nii.gz"]
        words += ["--target", *targets, tmp_path / "good.nii.gz", "--output-dir", tmp_path / "out", "--device", "cpu"]
        return main([str(word) for word in [*words, "--spacing", spacing, spacing, spacing, "--modality", "ct"]])

    return run


def copied(source: Path, name: str) -> str:
    path = source.parent / name
    try:
        path.write_bytes(source.read_bytes())
    except OSError:
        pytest.skip("this disk does not take such names")
    return str(path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("absent.nii.gz", "There is no file"),
        ("broken.nii.gz", "is not an image"),
        (os.fsdecode(b"caf\xe9.nii.gz"), "is not UTF-8"),
        ("x" * 248 + ".nii.gz", "is too long"),
        ("y" * 400 + ".nii.gz", "is too long"),
    ],
    ids=["missing", "broken", "latin1", "255 bytes", "400 bytes"],
)
def test_one_target_of_each_kind_fails_alone(
    batch: Callable[..., int], tmp_path: Path, name: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = str(tmp_path / name)
    if name == "broken.nii.gz":
        Path(target).write_text("words")
    elif name not in ("absent.nii.gz", "y" * 400 + ".nii.gz"):
        target = copied(tmp_path / "good.nii.gz", name)
    assert batch(target) == 3
    assert told in capsys.readouterr().err
    assert os.listdir(tmp_path / "out") == ["good_seg.nii.gz"]


def test_masks_of_a_folder_with_such_names(batch: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "scans").mkdir()
    source = tmp_path / "scans" / "good.nii.gz"
    source.write_bytes((tmp_path / "good.nii.gz").read_bytes())
    for name in (os.fsdecode(b"caf\xe9.nii.gz"), "x" * 251 + ".nii", f"{LIVER}.nii.gz"):
        copied(source, name)
    labels = ["--labels", str(tmp_path / "scans"), "--method", "labels"]
    assert main(["masks", str(tmp_path / "scans"), "--output", str(tmp_path / "m"), *labels]) == 3
    told = capsys.readouterr().err
    assert "is not UTF-8" in told and (tmp_path / "m" / "summary.csv").is_file()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("text", [LIVER, os.fsdecode(b"caf\xe9"), "\U0001f600"], ids=["kanji", "not utf-8", "emoji"])
def test_streams_say_all_letters(encoding: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    escape_unencodable()
    print(text)
    JsonLines().warn(text)
    stream.flush()
    plain, line = stream.buffer.getvalue().decode(encoding).splitlines()
    assert plain and json.loads(line)["message"] == text


@pytest.mark.parametrize("closed", ["out", "both"])
def test_a_closed_pipe_ends_a_command_quietly(closed: str) -> None:
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": write, "stderr": write if closed == "both" else subprocess.PIPE}
    process = subprocess.run([sys.executable, "-m", "mass_core", "weights", "list"], **streams, timeout=PATIENCE_S, check=False)
    os.close(write)
    assert process.returncode == 141
    assert not process.stderr


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    words = ["segment", "--reference", "~/a.nii", "~/b.nii", "--target=~/c.nii", "--output-dir=~/r"]
    assert main(words) == 2
    assert f"There is no file {tmp_path / 'a.nii'}" in capsys.readouterr().err
