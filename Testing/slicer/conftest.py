"""Fixtures of the Slicer module's tests: `host` (a scene, no window) and `bench` (the module's window on it).

Both give every test a fresh scene and a fresh import of the module. Import MASSSlicerLib inside tests: it can be found only while a host is
there. A crash in native code ends its test's process; under pytest-xdist (`make test`) that test fails and a new process does the others.
"""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from Testing.waiting import PATIENCE_S

if TYPE_CHECKING:
    from .testbench.bench import Bench
    from .testbench.host import Host


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Slicer's scene, logics and `slicer.util` without a window."""
    if reason := _why_no_slicer():
        pytest.skip(reason)
    from Testing.slicer.testbench.host import Host

    made = Host(tmp_path_factory.mktemp("slicer"))
    yield made
    made.close()


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A host with Qt's widgets, on which modules run: `widget = bench.module("MASSSlicer")`; the worker runs in this Python."""
    if reason := _why_no_slicer() or _why_no_qt():
        pytest.skip(reason)
    from Testing.slicer.testbench.bench import Bench

    monkeypatch.setenv("MASS_PYTHON", sys.executable)
    made = Bench(tmp_path_factory.mktemp("slicer"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finetuned model that finds liver and spleen of the phantoms."""
    from Testing.slicer import patients
    from Testing.slicer.teaching import make_model

    path = tmp_path_factory.mktemp("tuned") / "torso.safetensors"
    return make_model(path, patients.people(1), (patients.LIVER, patients.SPLEEN), ("liver", "spleen"))


@pytest.fixture
def quick(request: pytest.FixtureRequest, quick_weights: Path) -> None:
    """The test's window or runs use the quick weights."""
    if "clinic" in request.fixturenames:
        request.getfixturevalue("clinic").window.advanced.use_file(quick_weights)
    else:
        request.getfixturevalue("study").weights = str(quick_weights)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, made: Path) -> Any:
    """A worker that finetunes as the test says (`trainer.Trainer`)."""
    from Testing.slicer.trainer import Trainer

    return Trainer(monkeypatch, made)


@pytest.fixture
def ball(request: pytest.FixtureRequest) -> tuple[Any, Any, str]:
    """A scan with a ball drawn on it: volume, segmentation, segment ID; on the test's bench or host."""
    request.getfixturevalue("bench" if "bench" in request.fixturenames else "host")
    import slicer

    z, y, x = np.mgrid[:30, :40, :50]
    mask = (z - 15) ** 2 + (y - 20) ** 2 + (x - 25) ** 2 < 100
    volume = slicer.util.addVolumeFromArray((x * 5).astype(np.int16), ijkToRAS=np.diag([-1.0, -1.0, 1.5, 1.0]), name="scan")
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = segmentation.GetSegmentation().AddEmptySegment("ball", "ball", [1, 0, 0])
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), segmentation, segment, volume)
    return volume, segmentation, segment


@pytest.fixture
def nodes(host: Host) -> Any:
    """Makes nodes with known places."""
    from Testing.slicer.scene_nodes import Nodes

    return Nodes()


@pytest.fixture
def clinic(request: pytest.FixtureRequest, bench: Bench, workers: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The module's window, with hands that click. Its worker has served other tests, unless the test uses `own_worker`."""
    from Testing.slicer.clinic import Clinic

    monkeypatch.setenv("MASS_HOME", str(tmp_path / "home é"))
    bench.application.testing = True
    made = Clinic(bench)
    if "own_worker" not in request.fixturenames:
        made.borrow(workers, monkeypatch)
    yield made
    made.timer.stop()


@pytest.fixture
def own_worker() -> None:
    """For tests whose worker is a process of Slicer's, started for them, and sees their environment."""


@pytest.fixture(scope="session")
def workers() -> Iterator[Any]:
    """Real workers, the same for all tests of a process."""
    from Testing.slicer.lent_worker import Pool

    pool = Pool()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def worker_client(workers: Any) -> Iterator[Any]:
    """To a real worker, the same for all tests of a process."""
    from mass_core.worker.transport import LocalClient
    from Testing.slicer.lent_worker import Lent

    client = LocalClient(transport=lambda: Lent(workers))
    yield client
    client.close()


@pytest.fixture
def study(host: Host, worker_client: Any) -> Iterator[Any]:
    """A scene with people in it, and a way to run."""
    from Testing.slicer.study import Study

    made = Study(worker_client)
    yield made
    made.exports.close()


@functools.cache
def _why_no_slicer() -> str:
    """The reason slicer-core cannot be used; empty: it can."""
    try:
        importlib.import_module("slicer_core")
    except ModuleNotFoundError:
        return "the package slicer-core is not installed: pip install '.[slicer]'"
    except ImportError as error:
        return f"slicer-core lacks a library of the system: {error}"
    return ""


@functools.cache
def _why_no_qt() -> str:
    """The reason Qt cannot be used; empty: it can. Tested in a child process, which Qt ends where a system library is missing."""
    program = "from PySide6 import QtUiTools, QtWidgets; QtWidgets.QApplication([])"
    environment = {"QT_QPA_PLATFORM": "offscreen"} | os.environ
    tried = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment
    )
    if tried.returncode == 0:
        return ""
    if "No module named" in tried.stderr:
        return "the package PySide6-Essentials is not installed: pip install '.[slicer]'"
    return f"Qt lacks something of the system: {tried.stderr.strip()[-300:]}"
