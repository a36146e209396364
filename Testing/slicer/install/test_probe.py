"""The probe of packages, against really broken ones, in processes of their own."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mass_core import __version__
from Testing.slicer.install.stand_ins import REPOSITORY, Python, lines
from Testing.waiting import PATIENCE_S

COMPUTES = """
from types import SimpleNamespace
__version__ = "2.6.0"
print("a banner")
version = SimpleNamespace(cuda=None)
cuda = SimpleNamespace(is_available=lambda: False)
class ones:
    def __init__(self, n): pass
    def __add__(self, other): return self
    def numpy(self): return [2.0, 2.0]
"""
"""A torch that passes its own check; the network cannot be built with it."""


@pytest.mark.slow
def test_probe_of_what_works(install: Any, readiness: Any) -> None:
    """The packages these tests run with; without a window, in which `test_window.py` has it read by the same probe."""
    done = subprocess.run(install.probe_command(sys.executable), capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    found = readiness.read_probe(done.stdout, done.returncode)
    assert found.ready and found.missing == () and found.broken is None and found.replace == ()
    assert found.torch == importlib.import_module("torch").__version__
    assert __version__ in found.details and str(REPOSITORY / "mass_core") in found.details


def test_torchvision_of_another_torch_is_told_but_no_obstacle(install: Any, readiness: Any, tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = install.probe_command(sys.executable)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S, env=environment)
    found = readiness.read_probe(done.stdout, done.returncode)
    assert found.ready and "torchvision does not fit" in found.broken and "nms" in found.broken
    assert str(tmp_path) in found.broken and found.replace == (), "it lies outside Slicer: not ours to remove"


def test_torch_is_missing(python: Python) -> None:
    found = python.probe()
    assert not found.ready and found.torch is None and found.missing == ("torch",) and found.broken is None and found.replace == ()


def test_safetensors_is_missing_too(python: Python) -> None:
    for path in python.site.glob("safetensors*"):
        path.unlink()
    assert python.probe().missing == ("safetensors", "torch")


@pytest.mark.parametrize(
    ("code", "recorded", "told"),
    [
        ("", ("2.6.0",), "Only a part of torch is installed"),
        (COMPUTES, (), "its record is missing"),
        (COMPUTES, ("2.5.1", "2.6.0"), r"Several versions of torch are installed over each other \(2.5.1, 2.6.0\)"),
        (COMPUTES, ("2.5.1+cu121",), r"Several versions of torch .*2.5.1\+cu121, 2.6.0"),
        (COMPUTES.replace("2.6.0", "2.1.2"), ("2.1.2",), "PyTorch 2.1.2 is too old"),
        (COMPUTES.replace("return [2.0, 2.0]", 'raise RuntimeError("Numpy is not available")'), ("2.6.0",), "built for another NumPy"),
        ('raise OSError("[WinError 126] module not found: fbgemm.dll")', ("2.6.0",), "library of torch is missing.*fbgemm.*Visual C"),
        ("import typing_extensions_of_torch", ("2.6.0",), "torch does not load .*typing_extensions_of_torch"),
        ("import os; os._exit(7)", ("2.6.0",), r"Loading torch crashes Python \(exit code 7\)"),
        ("import sys; sys.stdout.write('{half a line'); raise ImportError('cannot')", ("2.6.0",), "torch does not load .*cannot"),
    ],
)
def test_broken_torch_is_told_and_replaced(code: str, recorded: tuple[str, ...], told: str, python: Python) -> None:
    python.add("torch", code, recorded=recorded)
    found = python.probe()
    assert not found.ready and found.missing == ()
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(found.broken)
    assert found.broken.endswith("Install… replaces it.") and found.replace == ("torch",)


def test_torch_without_its_init_file(python: Python) -> None:
    """Python imports the bare folder without complaint."""
    (python.site / "torch/lib").mkdir(parents=True)
    found = python.probe()
    assert "Only a part of torch is installed" in found.broken and found.replace == ("torch",) and found.missing == ()


def test_torchvision_goes_with_a_broken_torch(python: Python) -> None:
    python.add("torch", "")
    python.add("torchvision", "import torch; torch.__version__")
    found = python.probe()
    assert "torch is installed" in found.broken and found.replace == ("torch", "torchvision")


def test_broken_torch_outside_slicer_is_left_alone(python: Python, tmp_path: Path) -> None:
    python.add("torch", "", place=tmp_path / "elsewhere")
    found = python.probe(PYTHONPATH=str(tmp_path / "elsewhere"))
    assert found.replace == () and str(tmp_path / "elsewhere") in found.broken and "PYTHONPATH" in found.broken


def test_slicers_own_package_broken(python: Python) -> None:
    (python.site / "SimpleITK").unlink()
    python.add("SimpleITK", "raise ImportError('undefined symbol')")
    found = python.probe()
    assert "SimpleITK does not load" in found.broken and "reinstall Slicer" in found.broken and "SimpleITK" not in found.replace


def test_probe_that_did_not_run(readiness: Any) -> None:
    found = readiness.read_probe("", 127, "no such file")
    assert not found.ready and "exit code 127" in found.broken and found.details == "no such file"


@pytest.mark.parametrize(
    ("torch", "note", "replace"),
    [
        ({"cuda": "12.6", "cuda_works": True}, "", ()),
        ({}, "RTX 4090 is not used: this PyTorch is CPU-only", ("torch",)),
        ({"cuda": "12.6"}, "driver is too old for this PyTorch (CUDA 12.6)", ()),
        ({"cuda": "12.6", "cuda_error": "no kernel image is available"}, "no kernel image is available", ()),
    ],
)
def test_unused_graphics_card(torch: dict[str, Any], note: str, replace: tuple[str, ...], readiness: Any) -> None:
    found = readiness.read_probe(lines(readiness, **torch), 0)
    assert found.ready and found.broken is None and found.replace == replace
    assert note in found.device_note and bool(note) == bool(found.device_note)
