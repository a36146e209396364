"""Weights by name: the store and downloads from a local server that fails on request."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mass_core.cli import main
from mass_core.errors import Cancelled, InputError, OutputError, WeightsError
from mass_core.weights import download
from mass_core.weights import store as weights_store
from mass_core.weights.store import REMOTE, Remote

CONTENT = bytes(range(256)) * 10_000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT under any path; the attributes make it misbehave."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.breaks_after: int | None = None
        self.status = 200
        self.tag = f'"{SHA}"'
        self.ranges: list[str | None] = []
        self.knows_ranges = True
        self.redirects = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mass_base.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        """As Hugging Face: a redirection that tells the checksum, then storage that does not."""
        server = self.server
        if server.status != 200:
            self.send_error(server.status)
        elif server.redirects and not self.path.startswith("/storage"):
            self.send_response(302)
            self.send_header("Location", "/storage" + self.path)
            self.send_header("X-Linked-Etag", server.tag)
            self.end_headers()
        else:
            self.send_content(self.headers.get("Range"))

    def send_content(self, range_: str | None) -> None:
        self.server.ranges.append(range_)
        content, begin = self.server.content, 0
        if range_ and self.server.knows_ranges:
            begin = int(re.fullmatch(r"bytes=(\d+)-", range_)[1])
            if begin >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[begin : self.server.breaks_after])

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def home(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder; the released weights come from the server above."""
    monkeypatch.setenv("MASS_HOME", str(tmp_path))
    monkeypatch.setitem(REMOTE, "mass_base", Remote(url=server.url, licence="MIT", about="test"))
    return tmp_path / "weights"


def record(home: Path) -> dict[str, object]:
    return json.loads((home / "mass_base.pth.json").read_text())


def test_download_is_checked_against_the_redirection_and_recorded(server: Server, home: Path) -> None:
    heard: list[tuple[str, float]] = []
    path = weights_store.download("mass_base", progress=lambda stage, fraction, eta: heard.append((stage, fraction)))
    assert path == home / "mass_base.pth" and path.read_bytes() == CONTENT
    assert (record(home)["sha256"], record(home)["checked_against"], record(home)["licence"]) == (SHA, "server", "MIT")
    assert heard[-1] == ("download", 1.0) and heard == sorted(heard)
    assert sorted(p.name for p in home.iterdir()) == ["mass_base.pth", "mass_base.pth.json"]
    assert weights_store.locate("mass_base") == path
    assert weights_store.download("mass_base") == path and len(server.ranges) == 1, "it is there already"


def test_a_broken_off_download_goes_on_where_it_ended(server: Server, home: Path) -> None:
    server.breaks_after = 1_500_000
    with pytest.raises(WeightsError, match=r"broke off after 1\.5 of 2\.6 MB") as caught:
        weights_store.download("mass_base")
    assert "continues from there" in caught.value.cure and not (home / "mass_base.pth").exists()
    server.breaks_after = None
    assert weights_store.download("mass_base").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1500000-"]


def test_cancelled_download_keeps_its_part(server: Server, home: Path) -> None:
    answers = iter([False, True])
    with pytest.raises(Cancelled):
        weights_store.download("mass_base", cancelled=lambda: next(answers))
    assert (home / "mass_base.pth.part").stat().st_size == download.CHUNK
    weights_store.download("mass_base")
    assert server.ranges[-1] == f"bytes={download.CHUNK}-"


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_part_of_an_older_file_is_thrown_away(knows_ranges: bool, server: Server, home: Path) -> None:
    server.knows_ranges = knows_ranges
    home.mkdir(parents=True)
    (home / "mass_base.pth.part").write_bytes(b"older" * 1000)
    assert weights_store.download("mass_base").read_bytes() == CONTENT


def test_a_part_longer_than_the_file(server: Server, home: Path) -> None:
    home.mkdir(parents=True)
    (home / "mass_base.pth.part").write_bytes(b"x" * (len(CONTENT) + 1))
    assert weights_store.download("mass_base").read_bytes() == CONTENT


def test_damaged_on_the_way(server: Server, home: Path) -> None:
    server.content = b"!" + CONTENT[1:]
    with pytest.raises(WeightsError, match="damaged or a different one"):
        weights_store.download("mass_base")
    assert list(home.iterdir()) == []


def test_the_checksum_of_the_table_rules(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REMOTE, "mass_base", Remote(url=server.url, licence="MIT", about="", sha256="0" * 64))
    with pytest.raises(WeightsError, match="not 0000"):
        weights_store.download("mass_base")


def test_without_any_checksum_it_is_recorded_as_unchecked(server: Server, home: Path) -> None:
    server.redirects = False
    weights_store.download("mass_base")
    assert (record(home)["sha256"], record(home)["checked_against"]) == (SHA, "nothing")


@pytest.mark.parametrize("status", [404, 403, 503])
def test_server_says_no(status: int, server: Server, home: Path) -> None:
    server.status = status
    with pytest.raises(WeightsError, match=f"answers {status}"):
        weights_store.download("mass_base")


def test_offline_names_the_url_and_the_place_for_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REMOTE, "mass_base", Remote(url="http://127.0.0.1:9/mass_base.pth", licence="MIT", about=""))
    with pytest.raises(WeightsError, match="cannot be reached") as caught:
        weights_store.download("mass_base")
    assert "http://127.0.0.1:9/mass_base.pth" in caught.value.cure
    assert f"{home} as mass_base.pth" in caught.value.cure and "HTTPS_PROXY" in caught.value.cure


def test_proxy_of_the_environment_is_used(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name does not exist: only the proxy can have answered."""
    monkeypatch.setenv("http_proxy", server.url.rsplit("/", 1)[0])
    monkeypatch.setitem(REMOTE, "mass_base", Remote(url="http://weights.invalid/mass_base.pth", licence="MIT", about=""))
    server.redirects = False
    assert weights_store.download("mass_base").read_bytes() == CONTENT


def test_too_little_space(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000})())
    with pytest.raises(OutputError, match="GB free"):
        weights_store.download("mass_base")


def test_verify_notices_a_changed_file(server: Server, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = weights_store.download("mass_base")
    assert weights_store.verify_checksum(path) is True
    path.write_bytes(CONTENT[:-1])
    assert weights_store.verify_checksum(path) is False
    assert main(["weights", "verify", "mass_base"]) == 2
    assert "is not the file that was downloaded" in capsys.readouterr().err
    assert weights_store.verify_checksum(home / "absent.pth") is None


def test_list_download_list_remove(server: Server, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> list[dict[str, object]]:
        assert main(["weights", *arguments, "--json"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    def where() -> object:
        return next(line["where"] for line in told("list") if line["name"] == "mass_base")

    assert where() == "available"
    events = told("download", "mass_base")
    assert events[0]["event"] == "progress" and events[-1]["path"] == str(home / "mass_base.pth")
    assert where() == "downloaded"
    told("remove", "mass_base")
    assert where() == "available" and list(home.iterdir()) == []


@pytest.mark.parametrize("name", ["nothing", "small"])
def test_names_that_cannot_be_downloaded_or_removed(name: str, home: Path) -> None:
    with pytest.raises(InputError, match="download"):
        weights_store.download(name)
    with pytest.raises(InputError, match="No downloaded weights"):
        weights_store.remove(name)


def test_info_and_verify_of_a_file(tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "info", str(tiny_weights), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["model"]["channels"] == [8, 16, 32, 64, 128] and info["recipe"]["window_zyx"] == [32, 32, 32]
    assert main(["weights", "info", str(tiny_weights)]) == 0
    assert "position_size: 32" in capsys.readouterr().out
    assert main(["weights", "verify", str(tiny_weights)]) == 0
    assert "is complete and intact" in capsys.readouterr().out


def test_convert_refuses_to_overwrite(tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "half.safetensors"
    convert = ["weights", "convert", str(tiny_weights), str(output), "--dtype", "float16"]
    assert main(convert) == 0
    assert output.stat().st_size < 0.6 * tiny_weights.stat().st_size
    assert main(convert) == 2
    assert main([*convert, "--overwrite"]) == 0
    assert main(["weights", "convert", str(tiny_weights), str(tmp_path / "x.pth")]) == 2
    assert "End it with .safetensors" in capsys.readouterr().err
