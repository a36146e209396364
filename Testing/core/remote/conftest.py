"""The ssh server of these tests, and a user who may send scans to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from Testing.core.ssh_server import Server, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(autouse=True)
def user(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who agreed to send scans to the server."""
    monkeypatch.setenv("MASS_HOME", str(tmp_path / "home"))
    server.befriend(monkeypatch)
