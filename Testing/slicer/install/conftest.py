"""Fixtures of the tests of packages and weights."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from Testing.slicer.install.stand_ins import REPOSITORY, Python, Slicer


@pytest.fixture
def slicer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slicer]:
    """Slicer 5.10, without the PyTorch extension and without PythonSlicer."""
    made = Slicer(tmp_path / "Slicer")
    for name in [name for name in sys.modules if name.split(".")[0] in ("slicer", "MASSSlicerLib")]:
        monkeypatch.delitem(sys.modules, name)
    for module in (made, made.util, made.i18n):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(str(REPOSITORY / "MASSSlicer"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("MASS_PYTHON", raising=False)
    yield made
    for name in [name for name in sys.modules if name.split(".")[0] == "MASSSlicerLib"]:
        del sys.modules[name]


@pytest.fixture
def install(slicer: Slicer) -> Any:
    return importlib.import_module("MASSSlicerLib.install.packages")


@pytest.fixture
def readiness(slicer: Slicer) -> Any:
    return importlib.import_module("MASSSlicerLib.install.readiness")


@pytest.fixture
def weights(slicer: Slicer) -> Any:
    return importlib.import_module("MASSSlicerLib.library.weights")


@pytest.fixture
def python(install: Any, readiness: Any, tmp_path: Path) -> Python:
    try:
        return Python(tmp_path / "Pythón with späces", install, readiness)
    except OSError as error:
        pytest.skip(f"this computer makes no symbolic links: {error}")
