"""Workers as real processes, and files to give them.

A network with random weights that takes 32-voxel windows keeps the runs short.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mass_core.volumes.volume import Geometry, Volume
from mass_core.worker import protocol
from mass_core.worker.client import Call
from mass_core.worker.protocol import Request
from mass_core.worker.transport import LocalClient, worker_command
from Testing.waiting import PATIENCE_S, wait_until

LONG = {"overlap": 0.9, "skip_uniform": False}
"""Options with which a run takes some hundred windows."""


def scan(seed: int = 0, size: int = 40) -> tuple[Volume, Volume]:
    """A noisy CT cube with two balls, and their labels 1 and 2."""
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"))
    image = np.random.default_rng(seed).normal(0, 20, (size,) * 3)
    labels = np.zeros(image.shape, np.uint8)
    for value, centre in ((1, (12, 12, 12)), (2, (26, 26, 24))):
        inside = ((grid - np.reshape(centre, (3, 1, 1, 1)) - seed) ** 2).sum(0) <= 36
        image[inside] += 150 * value
        labels[inside] = value
    geometry = Geometry(shape_zyx=(size,) * 3, spacing_xyz=(3.0,) * 3)
    return Volume(image.astype(np.int16), geometry), Volume(labels, geometry)


class Files:
    """A folder with a reference and a target, and params for requests about them."""

    def __init__(self, folder: Path, weights: Path | str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.image, self.mask, self.target, self.task = (folder / n for n in ("ref.nrrd", "ref_mask.nii.gz", "new.nrrd", "two.masstask"))
        for volume, path in zip((*scan(), scan(1)[0]), (self.image, self.mask, self.target), strict=True):
            volume.write(path)
        self.common = {"weights": str(weights), "device": "cpu", "options": {"modality": "ct"}}

    @property
    def references(self) -> list[dict[str, Any]]:
        return [{"image": str(self.image), "mask": str(self.mask)}]

    def encode(self, **changes: Any) -> dict[str, Any]:
        return {**self.common, "references": self.references, "output": str(self.task), "overwrite": True, **changes}

    def segment(self, name: str = "out.nrrd", *, options: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        what = {} if "task" in changes else {"references": self.references}
        options = {**self.common["options"], **(options or {})}
        return {**self.common, **what, "options": options, "target": str(self.target), "output": str(self.folder / name), **changes}

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


class Recorder:
    """A client whose calls write down what happens to them."""

    def __init__(self, **options: Any) -> None:
        self.logged: list[str] = []
        self.started: list[bool] = []
        self.events: list[tuple[str, Any]] = []
        self.patience_s = PATIENCE_S
        self.client = LocalClient(on_log=self.logged.append, on_started=self.started.append, **options)

    def ask(self, method: str, params: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        return self.client.ask(method, params, timeout_s=self.patience_s, **options)

    def request(self, method: str, params: dict[str, Any] | None = None, name: str = "") -> Call:
        return self.client.request(
            method,
            params,
            progress=lambda stage, fraction, eta, values=None: self.events.append((f"{name}{stage}", values or fraction)),
            done=lambda reply: self.events.append((f"{name}done", reply)),
            failed=lambda error: self.events.append((f"{name}failed", error)),
            cancelled=lambda: self.events.append((f"{name}cancelled", None)),
        )

    def until(self, condition: Callable[[], bool]) -> None:
        """Let things happen until something is so."""
        wait_until(condition, news=lambda: f"{self.events[-5:]} {self.logged[-5:]}", turn=self.client.pump)

    def until_computing(self, name: str = "") -> None:
        """Until the network goes over the target."""
        self.until(lambda: any(kind == f"{name}segment" and fraction > 0 for kind, fraction in self.events))

    def last(self, name: str = "") -> Any:
        """The last event of a call that ended."""
        return next(value for kind, value in reversed(self.events) if kind in {f"{name}{last}" for last in protocol.LAST})

    @property
    def pid(self) -> int:
        assert self.client.transport is not None and self.client.transport.pid is not None
        return self.client.transport.pid


def alike(found: np.ndarray, wanted: np.ndarray) -> bool:
    """The same but for rounding: another process may add up with another number of threads."""
    return bool(np.mean(np.abs(found.astype(np.float32) - wanted) > 0.05) < 0.01)


def patched(code: str) -> list[str]:
    """A worker in whose process some code ran before."""
    return [sys.executable, "-c", f"{code}\nfrom mass_core.cli import main\nraise SystemExit(main(['worker']))"]


def alive(pid: int) -> bool:
    """True if a process runs; a zombie does not."""
    psutil = pytest.importorskip("psutil")
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Talk:
    """Replies of a worker until its input ended."""

    def __init__(self, process: "subprocess.CompletedProcess[bytes]") -> None:
        self.returncode = process.returncode
        self.replies = [json.loads(line) for line in process.stdout.splitlines()]
        self.stderr = process.stderr.decode()


def talk(*said: Request | bytes, command: list[str] | None = None) -> Talk:
    """Say something to a worker and end its input."""
    data = b"".join(one.line() if isinstance(one, Request) else one for one in said)
    return Talk(subprocess.run(command or worker_command(), input=data, capture_output=True, timeout=PATIENCE_S, check=False))
