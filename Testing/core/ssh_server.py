"""A real ssh server on this computer, with keys and settings of its own; nothing of the user's is read or changed."""

import getpass
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mass_core.remote import hosts
from mass_core.remote.ssh import SshTransport
from Testing.core.worker_process import Recorder

HERE = "loopback"
"""The ssh name of the server."""
PHRASE = "open sesame"
"""Opens the key of the host `locked`."""


def sshd() -> str:
    """The server's program; the test is skipped where it is missing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which("sshd", path=path)
    missing = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]
    if sys.platform == "win32" or found is None or missing:
        pytest.skip("no ssh server is installed here (Debian, Ubuntu: apt install openssh-server)")
    return found


SLOW_BYTES_PER_S = 800_000
"""Of the host `slow`: a 6 Mbit/s line."""
_SLOW_LINE = f"""
import os, socket, sys, threading, time
line = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def back():
    while data := line.recv(65536):
        os.write(1, data)
    os._exit(0)
threading.Thread(target=back, daemon=True).start()
while data := os.read(0, 16384):
    line.sendall(data)
    time.sleep(16384 / {SLOW_BYTES_PER_S})
"""


class Server:
    """The server, its user's files and the client's configuration, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.tmp = folder / "tmp"
        """Temporary folder of what runs on it."""
        self.tmp.mkdir()
        for name, phrase in (("host", ""), ("user", ""), ("stranger", ""), ("locked", PHRASE)):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-a", "1", "-N", phrase, "-f", str(folder / name)], check=True)
        (folder / "authorized").write_text("".join((folder / f"{name}.pub").read_text() for name in ("user", "locked")))
        key = " ".join((folder / "host.pub").read_text().split()[:2])
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {key}\n")
        (folder / "nobody").write_text("")
        (folder / "wrong").write_text(f"[127.0.0.1]:{self.port} {' '.join((folder / 'user.pub').read_text().split()[:2])}\n")
        (folder / "slow.py").write_text(_SLOW_LINE)
        self.config = folder / "config"
        self._configure()

    def _configure(self) -> None:
        f = self.folder
        (f / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {f}/host\nAuthorizedKeysFile {f}/authorized\nPidFile {f}/pid\n"
            f"UsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
            f"SetEnv TMPDIR={self.tmp} OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1\n"
        )
        shared = {"ControlMaster": "auto", "ControlPersist": "yes", "ControlPath": f / "mux", "LogLevel": "QUIET"}
        hosts: dict[str, dict[str, object]] = {
            HERE: {},
            "stranger": {"IdentityFile": f / "stranger"},
            "unknown": {"UserKnownHostsFile": f / "nobody"},
            "changed": {"UserKnownHostsFile": f / "wrong"},
            "closed": {"Port": _free_port()},
            "slow": {"ProxyCommand": f"{sys.executable} {f}/slow.py {self.port}"},
            "locked": {"IdentityFile": f / "locked"},
            "behind": {"ProxyJump": "locked"},
            "sharing": shared,
            "sharing-stranger": {**shared, "IdentityFile": f / "stranger"},
        }
        common = {
            "HostName": "127.0.0.1",
            "Port": self.port,
            "User": getpass.getuser(),
            "IdentityFile": f / "user",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": f / "known",
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
        }
        text = "".join(f"Host {name}\n" + "".join(f" {k} {v}\n" for k, v in {**common, **own}.items()) for name, own in hosts.items())
        self.config.write_text(text)
        self.config.chmod(0o600)

    @property
    def command(self) -> str:
        """Starts `mass` on it."""
        return f"{sys.executable} -m mass_core"

    def altered(self, code: str) -> str:
        """Starts a `mass` on it in which some code ran before, in its worker as well."""
        script = self.folder / f"{hashlib.sha256(code.encode()).hexdigest()[:8]}.py"
        script.write_text(
            f"import sys\n{code}\nfrom mass_core.cli import main\nfrom mass_core.remote import host_end\n"
            f"host_end.worker_command = lambda: [sys.executable, {str(script)!r}, 'worker']\nraise SystemExit(main(sys.argv[1:]))\n"
        )
        return f"{sys.executable} {script}"

    def befriend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The user of this test knows the server, told how `mass` is started there, and agreed to send scans to it."""
        monkeypatch.setenv("MASS_SSH", f"ssh -F {self.config}")
        for name in (HERE, "slow"):
            hosts.start_by(name, self.command)
            hosts.agree(name)

    def said(self) -> list[str]:
        """Last lines of its log."""
        return (self.folder / "log").read_text().splitlines()[-20:]

    def left(self) -> list[str]:
        """Contents of its temporary folder."""
        return [path.name for path in self.tmp.iterdir() if path.name.startswith("mass-remote")]

    def emptied(self, within_s: float = 60.0) -> bool:
        """True if its temporary folder becomes empty."""
        until = time.monotonic() + within_s
        while self.left() and time.monotonic() < until:
            time.sleep(0.05)
        return not self.left()

    def cut(self) -> None:
        """Break all connections: their processes of the server are killed."""
        psutil = pytest.importorskip("psutil")
        (main,) = [p for p in psutil.process_iter() if p.pid == int((self.folder / "pid").read_text())]
        for child in main.children():
            for process in (*[p for p in child.children() if p.name().startswith("sshd")], child):
                with suppress(psutil.NoSuchProcess):
                    process.kill()


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server that runs."""
    program = sshd()
    server = Server(folder)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # its chroot of a process that has no rights
    # From 9.8 on OpenSSH shuts out an address whose connections end badly, as those of these tests do.
    lenient = ["-o", "PerSourcePenalties=no"]
    known = subprocess.run([program, "-t", "-f", str(folder / "sshd_config"), *lenient], capture_output=True, check=False).returncode == 0
    log = folder / "log"
    command = [program, "-D", "-e", "-f", str(folder / "sshd_config"), *(lenient if known else [])]
    process = subprocess.Popen(command, stderr=log.open("wb"))
    try:
        until = time.monotonic() + 30
        while not _answers(server.port):
            if process.poll() is not None or time.monotonic() > until:
                pytest.skip(f"the ssh server does not start here: {log.read_text()[-300:]}")
            time.sleep(0.05)
        yield server
    finally:
        with suppress(BaseException):
            server.cut()
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def transport(one: Recorder) -> SshTransport:
    """What runs the worker of a client, which must be a worker over ssh."""
    assert isinstance(one.client.transport, SshTransport)
    return one.client.transport
