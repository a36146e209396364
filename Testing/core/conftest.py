"""Fixtures of the tests that talk to a worker."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from Testing.core.worker_process import Files, Recorder
from Testing.waiting import PATIENCE_S


@pytest.fixture
def files(tmp_path: Path, tiny_weights: Path) -> Files:
    return Files(tmp_path / "Ärzte & Söhne", tiny_weights)


@pytest.fixture(scope="session")
def shared_worker() -> Iterator[Recorder]:
    recorder = Recorder(grace_s=PATIENCE_S)
    yield recorder
    recorder.client.close()


@pytest.fixture
def worker(shared_worker: Recorder) -> Recorder:
    """A worker that other tests used before."""
    shared_worker.events.clear()
    shared_worker.logged.clear()
    return shared_worker


@pytest.fixture
def fresh() -> Iterator[Callable[..., Recorder]]:
    """Workers of the test's own."""
    made: list[Recorder] = []

    def make(**options: Any) -> Recorder:
        made.append(Recorder(**options))
        return made[-1]

    yield make
    for recorder in made:
        recorder.client.close()
