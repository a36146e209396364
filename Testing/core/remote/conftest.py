"""The ssh server of these tests, a user who may send scans to it, and workers on it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mass_core.remote.ssh import SshTransport
from Testing.core.ssh_server import HERE, Server, running
from Testing.core.worker_process import Recorder
from Testing.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(autouse=True)
def user(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who agreed to send scans to the server."""
    monkeypatch.setenv("MASS_HOME", str(tmp_path / "home"))
    server.befriend(monkeypatch)


def recorder(name: str = HERE, **options: Any) -> Recorder:
    one = Recorder(transport=lambda: SshTransport(name, **options))
    one.patience_s = PATIENCE_S
    return one


@pytest.fixture
def fresh() -> Iterator[Callable[..., Recorder]]:
    """Clients of the test's own."""
    made: list[Recorder] = []

    def make(name: str = HERE, **options: Any) -> Recorder:
        made.append(recorder(name, **options))
        return made[-1]

    yield make
    for one in made:
        one.client.close()


@pytest.fixture(scope="module")
def shared(server: Server) -> Iterator[Recorder]:
    one = recorder()
    yield one
    one.client.close()


@pytest.fixture
def remote(shared: Recorder) -> Recorder:
    """A worker that other tests of this file used before."""
    shared.events.clear()
    return shared
