"""The script of `make gpu` in miniature, so that it runs when a GPU is at hand: every section, what is saved, and what is told."""

import json
import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from Testing.benchmarks import gpu, gpu_sections
from Testing.benchmarks.gpu_sections import SECTIONS, NotHere, Result

SLOW = ("bundled weights", "pretraining, small", "SAM2", "table 8, ours, compiled", "table 8, ours, CUDA graphs", "whole CT, compiled")
UNITS = ("_s", "_ms", "_gb", "_share", "_per_s", "_dice", "_difference")


def call(output: Path, *words: str, device: str = "cpu") -> int:
    return gpu.main(["--device", device, "--miniature", "--output", str(output), *words])


def saved(output: Path) -> dict[str, Any]:
    sections: dict[str, Any] = json.loads(output.read_text())["sections"]
    return sections


def check(record: dict[str, Any]) -> None:
    """Numbers that are finite and can be of their units; a miniature takes no hour and no 100 GB."""
    assert "failed" not in record, record
    if "skipped" in record:
        return
    assert record["wrong"] == [] and record["numbers"]
    for name, value in record["numbers"].items():
        assert math.isfinite(value) and value >= 0 and name.endswith(UNITS), (name, value)
        if name.endswith(("_share", "_dice")):
            assert value <= 1, (name, value)
        if name.endswith(("_s", "_ms", "_gb")):
            assert 0 < value < (3.6e6 if name.endswith("_ms") else 3600 if name.endswith("_s") else 100), (name, value)


@pytest.mark.parametrize("section", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in SECTIONS])
def test_every_section_in_miniature(section: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "gpu.json"
    assert call(output, "--sections", section) == 0
    record = saved(output)[section]
    check(record)
    told = capsys.readouterr().out
    assert ("skipped" if "skipped" in record else section.removeprefix("table 8, ")) in told


def test_a_second_call_does_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ran, output = [], tmp_path / "gpu.json"

    def fails(scale: Any) -> Result:
        ran.append("b")
        raise RuntimeError("no kernel image is available")

    def absent(scale: Any) -> Result:
        raise NotHere("SAM2 is not installed")

    sections = {
        "a": (lambda scale: Result(numbers={"a_s": float(len(ran))}) if not ran.append("a") else None, 9),
        "b": (fails, 9),
        "c": (absent, 9),
    }
    monkeypatch.setattr(gpu_sections, "SECTIONS", sections)
    assert call(output, "--minutes", "0") == 1 and ran == [] and "no time left; call again" in capsys.readouterr().out
    assert call(output) == 1 and ran == ["a", "b"]
    told = capsys.readouterr().out
    assert "| b | failed | RuntimeError: no kernel image is available |" in told and "| c | skipped | SAM2 is not installed |" in told
    sections["b"] = (lambda scale: Result(numbers={"b_s": 1.0}, wrong=["It is slow."]), 9)
    assert call(output) == 1 and ran == ["a", "b"], "what ended well is not run again; what is wrong is told"
    assert "| b | WRONG | It is slow. |" in capsys.readouterr().out
    sections["b"] = (lambda scale: Result(numbers={"b_s": 1.0}), 9)
    assert call(output, "--again", "b", "a") == 0 and ran == ["a", "b", "a"]
    assert saved(output)["a"]["numbers"] == {"a_s": 3.0}
    kept = json.loads(output.read_text())
    output.write_text(json.dumps(kept | {"machine": {"device": "another"}}))
    assert call(output) == 0 and ran == ["a", "b", "a", "a"], "results of another machine are not mixed with these"
    with pytest.raises(SystemExit):
        call(output, "--sections", "d")
    assert "there is no section d; there are: a, b, c" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_how_to_try_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--output", str(tmp_path / "gpu.json")]) == 2
    assert "--device cpu --miniature" in capsys.readouterr().out and not (tmp_path / "gpu.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for Python is a shell script")
@pytest.mark.parametrize(
    ("script", "limit_s", "record"),
    [
        ("sleep 600 & sleep 600", 1, {"failed": "not done within 1 s"}),
        ("echo cannot >&2; exit 3", 60, {"failed": "cannot"}),
        ("""echo noise; echo '{"numbers": {"a_s": 1.5}}'""", 60, {"numbers": {"a_s": 1.5}}),
    ],
)
def test_a_section_in_a_process_of_its_own(
    script: str, limit_s: float, record: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that never ends, which is ended with its children; one that ends badly; one that is well."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(gpu.sys, "executable", str(program))
    assert gpu.in_process(Namespace(device="cpu", released=None), "cancel", limit_s) == record


def test_a_process_of_its_own_tells_its_record_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path / "gpu.json", "--measure", "table 8, released") == 0
    assert "RELEASED" in json.loads(capsys.readouterr().out.splitlines()[-1])["skipped"]
    assert not (tmp_path / "gpu.json").exists()
