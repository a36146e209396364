"""Connections to another computer that fail, and what one that holds says in a sentence (ssh_server.py)."""

import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mass_core import __version__
from mass_core.errors import DeviceError, HostError, InputError
from mass_core.remote import host_end, hosts, ssh
from mass_core.remote.connection import Connection, connect
from mass_core.remote.ssh import SshTransport
from mass_core.worker.transport import SubprocessTransport
from Testing.core.ssh_server import HERE, PHRASE, Server
from Testing.core.worker_process import Recorder


@pytest.mark.parametrize(
    ("name", "command", "said", "cure"),
    [
        ("stranger", None, "refused the key", "ssh-copy-id stranger"),
        ("unknown", None, "is not known on this computer", "Run ssh unknown once"),
        ("changed", None, "host key of changed has changed", "ssh-keygen -R"),
        ("closed", None, "no ssh server answers", "started"),
        ("nobody.invalid", None, "no computer called nobody.invalid", "spelling"),
        (HERE, "mass-is-not-here", "could not be started on", f"mass remote {HERE} --command"),
        (HERE, f"{sys.executable} -m no_such_module", "No module named no_such_module", "Install it there"),
        (HERE, f"ulimit -f 0; {sys.executable} -m mass_core", "temporary folder could not be made", "set TMPDIR"),
        (HERE, f"{sys.executable} -c 'import argparse; argparse.ArgumentParser().parse_args()'", "older version", "same version"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(name: str, command: str | None, said: str, cure: str) -> None:
    with pytest.raises(HostError) as found:
        connect(name, command=command)
    assert said in found.value.message and cure in found.value.cure


def test_a_host_that_sleeps(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: Callable[..., Recorder]) -> None:
    with socket.socket() as asleep:
        asleep.bind(("127.0.0.1", 0))
        asleep.listen(0)  # the system answers for it, it never does
        config = tmp_path / "config"
        config.write_text(server.config.read_text().replace(f"Port {server.port}", f"Port {asleep.getsockname()[1]}"))
        monkeypatch.setenv("MASS_SSH", f"ssh -F {config}")
        with pytest.raises(HostError, match=r"asleep, switched off, or out of reach.*\n.*try again"):
            fresh(connect_s=1).ask("hello", {"version": 1})


def test_a_window_never_asks_for_a_password(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for this ssh nor for that of a jump host, which BatchMode does not reach."""
    asker, asked = tmp_path / "asker", tmp_path / "asked"
    asker.write_text(f"#!/bin/sh\ntouch '{asked}'\necho '{PHRASE}'\n")
    asker.chmod(0o700)
    monkeypatch.setenv("SSH_ASKPASS", str(asker))
    monkeypatch.setenv("DISPLAY", ":0")
    for name in ("locked", "behind"):
        with pytest.raises(HostError, match=f"{name} refused the key of this computer.*\n.*ssh-agent"):
            connect(name, command=server.command)
    assert not asked.exists()


def test_a_connection_is_not_left_for_others_to_share(server: Server) -> None:
    """A user's configuration that says so, or that says nothing of reasons, changes nothing here."""
    with pytest.raises(HostError, match="refused the key"):
        connect("sharing-stranger")
    with pytest.raises(HostError, match="could not be started on sharing"):
        connect("sharing", command="mass-is-not-here")
    assert not (server.folder / "mux").exists()


def test_the_command_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSH of Windows is found where the system puts it, paths hold blanks and backslashes, and no window opens."""
    there = r"D:\Windows\System32\OpenSSH\ssh.exe"
    looked: list[tuple[str, str]] = []

    def which(program: str, path: str) -> str | None:
        looked.append((program, path))
        return there if program == "ssh" else program

    monkeypatch.setattr(hosts, "_WINDOWS", True)
    monkeypatch.setattr(hosts.shutil, "which", which)
    monkeypatch.setenv("MASS_SSH", "")
    asked: list[list[str]] = []

    class Process(SubprocessTransport):
        def start(self, *_: Any) -> None:
            asked.append(self._command)

    path = {"Path": r"C:\bin", "SystemRoot": r"D:\Windows"}
    one = SshTransport("me@gpu01", command=r'"C:\Program Files\mass.exe"', environment=path, process=Process)
    with monkeypatch.context() as windows:
        windows.setattr(ssh.sys, "platform", "win32")
        one.start(*[lambda *_: None] * 3)
    one.close_input()
    assert looked == [("ssh", r"C:\bin;D:\Windows\System32\OpenSSH")]
    (command,) = asked
    assert command[:2] == [there, "-T"] and command[-3:] == ["--", "me@gpu01", r'"C:\Program Files\mass.exe" worker --remote']
    options = dict(word.split("=") for word in command[3:-3:2])
    assert command[2:-3:2] == ["-o"] * len(options)
    assert options.items() >= {"BatchMode": "yes", "ControlMaster": "no", "ControlPath": "none", "RequestTTY": "no"}.items()
    assert subprocess.list2cmdline(command).endswith(r'-- me@gpu01 "\"C:\Program Files\mass.exe\" worker --remote"'), "one word for ssh"
    monkeypatch.setenv("MASS_SSH", r'"C:\Program Files\OpenSSH\ssh.exe" -F C:\Users\me\.ssh\config')
    assert hosts.ssh() == [r"C:\Program Files\OpenSSH\ssh.exe", "-F", r"C:\Users\me\.ssh\config"]


def test_no_window_opens_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process that is started here says so to Windows; elsewhere the flag is refused, so that it is looked at on its way."""
    flags: list[int] = []

    def popen(command: list[str], *, creationflags: int = 0, **options: Any) -> Any:
        flags.append(creationflags)
        raise OSError(2, "nothing is started here")

    monkeypatch.setattr(subprocess, "CREATE_NO_WINDOW", 0x08000000, raising=False)
    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(DeviceError, match="could not be started"):
        SshTransport(HERE).start(*[lambda *_: None] * 3)
    with pytest.raises(DeviceError, match="does not answer"):
        hosts.address(HERE)
    with pytest.raises(OSError, match="nothing is started"), host_end._private_folder():
        pass
    assert flags == [0x08000000] * 3


def test_no_ssh_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASS_SSH", "no-such-ssh")
    with pytest.raises(DeviceError, match="no-such-ssh is not installed on this computer.\n.*OpenSSH"):
        connect(HERE)


def test_another_version_there(server: Server) -> None:
    newer = server.altered("import mass_core\nmass_core.__version__ = '9.9'")
    with pytest.raises(InputError, match=rf"mass 9.9 is installed, on this computer mass {re.escape(__version__)}.*\n.*same version"):
        connect(HERE, command=newer)


def test_what_a_login_prints_does_no_harm(fresh: Callable[..., Recorder], server: Server) -> None:
    one = fresh(command=f"echo '{{welcome}}'; echo; echo to all; {server.command}")
    assert one.ask("hello", {"version": 1})["result"]["host"] == HERE
    assert any("to all" in line for line in one.logged)


def test_the_connection_in_a_sentence(server: Server) -> None:
    """On a computer whose GPUs, if it has some, are hidden from PyTorch."""
    found = connect(HERE, command=f"CUDA_VISIBLE_DEVICES= {server.command}")
    assert found.text().startswith(f"{HERE} answers with mass {__version__}: ")
    assert ("no GPU" in found.text() and "so runs take long; its PyTorch" in found.text()) is not found.has_gpu


def test_a_gpu_there_is_told_with_its_free_memory() -> None:
    device = {"name": "cuda:0", "about": "NVIDIA RTX A6000", "total": 51e9, "free": 46.2e9}
    worker = {"mass_version": "1", "torch": {"version": "2.9.1", "built_for": "CUDA 12.8"}, "devices": [device]}
    assert Connection.of("gpu01", worker).text() == "gpu01 answers with mass 1: NVIDIA RTX A6000, 46.2 GB free."


@pytest.mark.parametrize(
    ("built_for", "cure"),
    [(None, "CPU-only; if it has a GPU, install the build for it there"), ("CUDA 12.8", "built for CUDA 12.8 but finds no GPU")],
)
def test_no_gpu_there_comes_with_a_cure(built_for: str | None, cure: str) -> None:
    device = {"name": "cpu", "about": "8 cores", "total": None, "free": 4e9}
    worker = {"mass_version": "1", "torch": {"version": "2.9.1+cpu", "built_for": built_for}, "devices": [device]}
    assert "no GPU, 8 cores, 4.0 GB free" in (said := Connection.of("gpu01", worker).text()) and cure in said


@pytest.mark.parametrize("torch", [{"version": "2.9.1"}, {}])
def test_a_worker_of_an_older_build(torch: dict[str, str]) -> None:
    """Of the same version, but its greeting says less."""
    worker = {"mass_version": __version__, "torch": torch, "devices": [{"name": "cpu", "about": "8 cores", "total": None, "free": None}]}
    with pytest.raises(HostError, match=f"An older build of mass {re.escape(__version__)} is installed on gpu01.*\n.*same version"):
        Connection.of("gpu01", worker)
