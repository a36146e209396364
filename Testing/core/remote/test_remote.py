"""A worker on another computer: a real ssh server on this one, with keys of its own (ssh_server.py)."""

import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from mass_core import __version__
from mass_core.errors import DeviceError, GeometryError, HostError, InputError, MassError, OutputError
from mass_core.remote import host_end, hosts, run_copy, shipping, ssh
from mass_core.remote.connection import Connection, connect
from mass_core.remote.parcels import Packing
from mass_core.remote.reasons import ENDED, why
from mass_core.remote.ssh import SshTransport
from mass_core.remote.stream import PIECE, Inbox, Parts, pieces
from mass_core.volumes.volume import Volume
from mass_core.weights.store import classes
from mass_core.worker import protocol
from mass_core.worker.transport import LocalClient, SubprocessTransport
from Testing.core.ssh_server import HERE, PHRASE, SLOW_BYTES_PER_S, Server
from Testing.core.worker_process import LONG, Files, Recorder, alike, alive, scan
from Testing.waiting import wait_until

PATIENCE_S = 600.0


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


def transport(one: Recorder) -> SshTransport:
    assert isinstance(one.client.transport, SshTransport)
    return one.client.transport


def there(server: Server) -> set[str]:
    """Files the server keeps for its clients."""
    return {path.name for path in server.tmp.rglob("in/**/*") if path.is_file()}


def noise(path: Path, edge: int) -> Path:
    """A scan that cannot be compressed, of 2 · edge³ bytes."""
    values = np.random.default_rng(0).integers(-1000, 1000, (edge,) * 3).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    return path


# Results


def test_results_are_those_of_a_worker_here(remote: Recorder, files: Files, worker: Recorder, server: Server) -> None:
    before = files.names()
    order = files.segment("there.nrrd", probabilities=True, assess=True)
    reply = remote.ask("segment", order)
    own = worker.ask("segment", {**order, "output": str(files.folder / "here.nrrd")})
    assert files.names() == before | {f"{place}{end}" for place in ("here", "there") for end in (".nrrd", *PROBABILITIES)}
    for ending in (".nrrd", *PROBABILITIES):
        found, wanted = (Volume.read(files.folder / f"{place}{ending}") for place in ("there", "here"))
        assert found.geometry == wanted.geometry and alike(found.array, wanted.array)
    assert reply["result"]["output"] == order["output"]
    assert reply["result"]["probabilities"] == {
        "1": str(files.folder / "there_label1_prob.nii.gz"),
        "2": order["output"][:-5] + PROBABILITIES[1],
    }
    for label, other in zip(reply["result"]["labels"], own["result"]["labels"], strict=True):
        assert label["name"] == other["name"] and label["ml"] == pytest.approx(other["ml"], rel=0.02)


PROBABILITIES = ("_label1_prob.nii.gz", "_label2_prob.nii.gz")


def test_a_scan_is_sent_once(remote: Recorder, files: Files, server: Server) -> None:
    remote.ask("segment", files.segment())
    sent, kept = transport(remote).shipping.bytes_sent, there(server)
    reply = remote.ask("segment", files.segment("again.nrrd"))
    assert reply["result"]["reused"] == {"model": True, "labels": 2, "target": True}
    assert transport(remote).shipping.bytes_sent - sent < 2000 and there(server) == kept
    renamed = files.folder / "copy of it.nrrd"
    renamed.write_bytes(files.target.read_bytes())
    remote.ask("segment", files.segment("third.nrrd", target=str(renamed)))
    assert there(server) == kept
    assert not any(name.startswith(("ref", "new", "copy")) for name in kept), "names of files stay here"


def test_a_file_that_changed_is_sent_again(remote: Recorder, files: Files) -> None:
    remote.ask("segment", files.segment("a.nrrd"))
    scan(5)[0].write(files.target)
    remote.ask("segment", files.segment("b.nrrd"))
    a, b = (Volume.read(files.folder / f"{name}.nrrd").array for name in "ab")
    assert not np.array_equal(a, b)


def test_the_other_methods(remote: Recorder, files: Files) -> None:
    assert remote.ask("load", files.common)["result"]["name"]
    encoded = remote.ask("encode", files.encode())["result"]
    assert encoded["output"] == str(files.task) and files.task.exists()
    remote.ask("adapt", files.encode(seconds=0.1, seed=3))
    found = files.folder / "out.nrrd"
    remote.ask("segment", files.segment(task=str(files.task)))
    whole = {**files.common, "task": str(files.task), "target": str(files.target), "result": str(found), "same_grid": True}
    judged = remote.ask("assess", whole)["result"]
    assert [label["value"] for label in judged["labels"]] == [1, 2]
    colours = files.folder / "colours.nii.gz"
    remote.ask("features", {**files.common, "target": str(files.target), "output": str(colours)})
    assert sitk.ReadImage(str(colours)).GetNumberOfComponentsPerPixel() == 3


def test_folders_and_files_of_two_parts(remote: Recorder, files: Files) -> None:
    image = sitk.ReadImage(str(files.target))
    series, parted = files.folder / "patient Ä", files.folder / "new.mhd"
    series.mkdir()
    for z in range(image.GetDepth()):
        slice_ = image[:, :, z]
        for key, value in {"0020|0032": f"0\\0\\{3 * z}", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|000e": "1.2.3", "0008|0060": "CT"}.items():
            slice_.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(series / f"{z:03}.dcm"))
        writer.Execute(slice_)
    sitk.WriteImage(image, str(parted))
    remote.ask("segment", files.segment("a.nrrd"))
    remote.ask("segment", files.segment("b.mhd", target=str(parted)))
    remote.ask("segment", files.segment("c.nrrd", target=str(series)))
    a, b = (Volume.read(files.folder / name) for name in ("a.nrrd", "b.mhd"))
    assert np.array_equal(a.array, b.array) and (files.folder / "b.raw").exists()
    assert Volume.read(files.folder / "c.nrrd").array.shape == a.array.shape


def test_finetuning_there(remote: Recorder, files: Files) -> None:
    tuned = files.folder / "two.safetensors"
    small = ["batch_size=2", "steps_per_epoch=1", "validate_cases=1", "references=1"]
    order = {
        "weights": files.common["weights"],
        "device": "cpu",
        "cases": files.references,
        "recipe": "smoke",
        "epochs": 1,
        "settings": small,
    }
    result = remote.ask("finetune", {**order, "output": str(tuned)})["result"]
    assert result["output"] == str(tuned) and tuned.exists() and result["epochs"] == 1


# Before anything is sent


def test_nothing_leaves_before_the_user_agreed(fresh: Callable[..., Recorder], files: Files, server: Server) -> None:
    hosts.withdraw(HERE)
    scan(77)[0].write(files.target)
    one, before = fresh(), there(server)
    with pytest.raises(InputError, match=f"leave this computer for {HERE}.*\n.*--agree"):
        one.ask("segment", files.segment())
    assert there(server) == before and transport(one).shipping.bytes_sent < 2000
    hosts.agree(HERE)
    one.ask("segment", files.segment())
    assert there(server) > before


def test_the_agreement_is_for_one_computer(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that means another computer today is asked about again."""
    assert hosts.host(HERE).may_receive() and f"({hosts.address(HERE)})" in hosts.question(HERE)
    other = tmp_path / "other_config"
    other.write_text(f"Host {HERE}\n HostName elsewhere.example\n")
    monkeypatch.setenv("MASS_SSH", f"ssh -F {other}")
    assert not hosts.host(HERE).may_receive()


@pytest.mark.parametrize("name", ["-oProxyCommand=x", "", "two words", "line\nbreak"])
def test_names_that_ssh_would_take_for_something_else(name: str) -> None:
    with pytest.raises(InputError, match="no name of a computer"):
        SshTransport(name)


def test_reasons_not_to_begin_are_found_here(remote: Recorder, files: Files) -> None:
    remote.ask("load", files.common)
    sent = transport(remote).shipping.bytes_sent
    with pytest.raises(InputError, match=re.escape(f"There is no file {files.folder / 'gone.nrrd'}")):
        remote.ask("segment", files.segment(target=str(files.folder / "gone.nrrd")))
    with pytest.raises(OutputError, match="is an input of this run"):
        remote.ask("segment", files.segment("new.nrrd", overwrite=True))
    (files.folder / "out.nrrd").touch()
    with pytest.raises(OutputError, match="exists already"):
        remote.ask("segment", files.segment())
    assert transport(remote).shipping.bytes_sent == sent


def test_errors_name_the_files_of_this_computer(remote: Recorder, files: Files) -> None:
    files.target.write_bytes(files.target.read_bytes()[:3000])
    with pytest.raises(MassError) as found:
        remote.ask("segment", files.segment())
    assert str(files.target) in str(found.value) and "mass-remote" not in str(found.value)
    image, _ = scan(1)
    Volume(
        image.array[:5], image.geometry.__class__(shape_zyx=(5, 40, 40), spacing_xyz=(3.0, 3.0, 3.0), origin_xyz=(900.0, 0.0, 0.0))
    ).write(files.mask)
    with pytest.raises((GeometryError, InputError)) as found:
        remote.ask("encode", files.encode())
    assert "mass-remote" not in str(found.value) and not re.search("[0-9a-f]{32}", str(found.value))


def test_failures_there_name_the_computer(remote: Recorder, files: Files) -> None:
    with pytest.raises(DeviceError, match=f"On {HERE}: .*cuda:7"):
        remote.ask("load", {**files.common, "device": "cuda:7"})


# Connections that fail


@pytest.mark.parametrize(
    ("name", "command", "said", "cure"),
    [
        ("stranger", None, "refused the key", "ssh-copy-id stranger"),
        ("unknown", None, "does not know the key", "Run ssh unknown once"),
        ("changed", None, "another one than before", "ssh-keygen -R"),
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
    with pytest.raises(DeviceError, match="no-such-ssh is not on this computer.\n.*OpenSSH"):
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
    [(None, "for processors only: if it has a GPU, install the build for that there"), ("CUDA 12.8", "built for CUDA 12.8 and finds none")],
)
def test_no_gpu_there_comes_with_a_cure(built_for: str | None, cure: str) -> None:
    device = {"name": "cpu", "about": "8 cores", "total": None, "free": 4e9}
    worker = {"mass_version": "1", "torch": {"version": "2.9.1+cpu", "built_for": built_for}, "devices": [device]}
    assert "no GPU, 8 cores, 4.0 GB free" in (said := Connection.of("gpu01", worker).text()) and cure in said


# In the middle of a run


def test_the_line_breaks(fresh: Callable[..., Recorder], files: Files, server: Server) -> None:
    one, before, left = fresh(), files.names(), set(server.left())
    call = one.request("segment", files.segment(options=LONG))
    one.until_computing()
    (own,) = set(server.left()) - left
    server.cut()
    one.until(lambda: call.state != "waiting")
    assert gone(server, own)
    assert call.state == "failed" and isinstance(one.last(), HostError) and f"The line to {HERE} broke" in one.last().message
    assert files.names() == before
    assert one.ask("segment", files.segment())["result"]["labels"], "the next request starts anew"
    assert one.started == [False, True]


@pytest.mark.parametrize("torch", [{"version": "2.9.1"}, {}])
def test_a_worker_of_an_older_build(torch: dict[str, str]) -> None:
    """Of the same version, but its greeting says less."""
    worker = {"mass_version": __version__, "torch": torch, "devices": [{"name": "cpu", "about": "8 cores", "total": None, "free": None}]}
    with pytest.raises(HostError, match=f"On gpu01 an older build of mass {re.escape(__version__)} is installed.*\n.*same version"):
        Connection.of("gpu01", worker)


@pytest.mark.slow
def test_a_line_that_breaks_in_mid_run(fresh: Callable[..., Recorder], files: Files, server: Server) -> None:
    """The run fails, nothing is written here or left there, and the next one goes over a new line."""
    left, before, one = set(server.left()), files.names(), fresh()
    call = one.request("segment", files.segment(options=LONG))
    one.until_computing()
    (own,) = set(server.left()) - left
    server.cut()
    one.until(lambda: call.state != "waiting")
    assert call.state == "failed" and isinstance(one.last(), HostError)
    assert f"The line to {HERE} broke" in one.last().message and one.last().cure.startswith("Try again")
    assert files.names() == before and gone(server, own)
    assert one.ask("segment", files.segment())["result"]["labels"] and one.started == [False, True]


@pytest.mark.slow
def test_a_finetuning_whose_line_broke_goes_on(fresh: Callable[..., Recorder], files: Files, server: Server) -> None:
    """The folder of the run comes back while it goes on, and a later request begins with what it holds."""
    one, run, mask = fresh(), files.folder / "run", files.folder / "new_mask.nrrd"
    tuned = run / "best.safetensors"
    scan(1)[1].write(mask)
    cases = [*files.references, {"image": str(files.target), "mask": str(mask)}]
    small = ["batch_size=2", "steps_per_epoch=1", "validate_cases=1", "references=1", "patience=1000", "keep_states=1"]
    order = {"weights": files.common["weights"], "device": "cpu", "cases": cases, "recipe": "smoke", "settings": small, "epochs": 1000}
    order |= {"folder": str(run), "output": str(tuned), "overwrite": True}
    call = one.request("finetune", order)
    one.until(lambda: call.state != "waiting" or tuned.exists() and len(list(run.glob("state/*.pt"))) == 1)
    server.cut()
    one.until(lambda: call.state != "waiting")
    assert call.state == "failed" and isinstance(one.last(), HostError), one.last()
    assert list(classes(tuned)) == [1, 2]
    assert not (run / "data").exists() and not list(run.rglob(".*")), "scans are here already"
    done = int(max(run.glob("state/*.pt")).stem.removeprefix("step_"))
    result = one.ask("finetune", {**order, "resume": True, "epochs": done + 2})["result"]
    assert result["epochs"] == done + 2 and result["output"] == str(tuned) and tuned.exists()
    assert [path.name for path in run.glob("state/*.pt")] == [f"step_{done + 2:08}.pt"], "older ones are removed here as well"
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == done + 2


def test_nothing_is_left_there(fresh: Callable[..., Recorder], files: Files, server: Server) -> None:
    left = set(server.left())
    one = fresh()
    one.request("segment", files.segment(options=LONG))
    one.until_computing()
    (own,) = set(server.left()) - left
    assert (server.tmp / own).stat().st_mode & 0o077 == 0, "nobody else may look into it"
    transport(one).kill()
    assert gone(server, own)


def test_nothing_is_left_there_by_a_client_that_is_killed(server: Server) -> None:
    left = set(server.left())
    code = (
        "from mass_core.remote.ssh import SshTransport\nfrom mass_core.worker.transport import LocalClient\n"
        f"client = LocalClient(transport=lambda: SshTransport({HERE!r}))\n"
        "print(client.ask('hello', {'version': 1})['result']['pid'], flush=True)\nwhile True: client.pump()"
    )
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    with client.stdout:
        worker = int(client.stdout.readline())
    (own,) = set(server.left()) - left
    client.kill()
    client.wait()
    assert gone(server, own)
    wait_until(lambda: not alive(worker))


def test_a_worker_that_ends_while_it_is_sent_something_is_no_broken_line() -> None:
    """ssh ends with 255 then, as for a line that broke, and says that it could not say goodbye."""
    goodbye = "client_loop: send disconnect: Broken pipe"
    ended = why("gpu01", 255, f"{ENDED}: signal 9, SIGKILL.\n{goodbye}", answered=True, command="mass")
    assert isinstance(ended, DeviceError) and "gpu01 ended in the middle of its work. " in ended.message and "SIGKILL" in ended.message
    assert isinstance(why("gpu01", 255, goodbye, answered=True, command="mass"), HostError)


@pytest.mark.parametrize("whom", ["end", "worker"])
def test_killed_there(fresh: Callable[..., Recorder], files: Files, server: Server, whom: str) -> None:
    psutil = pytest.importorskip("psutil")
    left = set(server.left())
    one = fresh()
    call = one.request("segment", files.segment(options=LONG))
    one.until_computing()
    (own,) = set(server.left()) - left
    end = int(re.findall(r"-(\d+)-", own)[-1])
    (inner,) = [child.pid for child in psutil.Process(end).children() if "worker" in child.cmdline()]
    os.kill(end if whom == "end" else inner, signal.SIGKILL)
    one.until(lambda: call.state != "waiting")
    assert call.state == "failed" and isinstance(one.last(), DeviceError) and one.last().cure
    assert ("SIGKILL" in one.last().message) is (whom == "worker")
    assert gone(server, own)
    one.until(lambda: not alive(inner))


def test_silence_ends_it_and_it_removes_what_a_power_cut_left(tmp_path: Path) -> None:
    """A laptop that sleeps closes no line; a computer that lost its power removes nothing."""
    here = f"mass-remote-{platform.node()}"
    over = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    left, used = tmp_path / f"{here}-{over.stdout.strip()}-a", tmp_path / f"{here}-{os.getpid()}-b"
    left.mkdir()
    used.mkdir()
    code = (
        "import sys\nfrom mass_core.remote.host_end import serve\n"
        "serve(0, 1, command=[sys.executable, '-c', 'import sys; sys.stdin.read()'], silence_s=0.3)"
    )
    end = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert end.stdin is not None and end.stderr is not None and end.stdout is not None
    with end.stdin, end.stdout, end.stderr:
        assert end.wait(PATIENCE_S) == 1 and b"Nothing was heard for 0.3 s." in end.stderr.read()
    assert list(tmp_path.glob("mass-remote-*")) == [used]


def gone(server: Server, name: str) -> bool:
    until = time.monotonic() + PATIENCE_S
    while name in server.left() and time.monotonic() < until:
        time.sleep(0.05)
    return name not in server.left()


def test_cancel_while_it_computes(fresh: Callable[..., Recorder], files: Files, server: Server) -> None:
    one, before = fresh(), files.names()
    one.client._grace_s = PATIENCE_S
    call = one.request("segment", files.segment(options=LONG))
    one.until_computing()
    pid = one.pid
    call.cancel()
    one.until(lambda: call.state != "waiting")
    assert call.state == "cancelled" and files.names() == before
    assert one.ask("segment", files.segment())["result"]["reused"]["model"] is True and one.pid == pid


def test_the_copy_of_a_runs_folder_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Piece by piece beside the run and, at its end, all the rest; a file that changes while it is sent is sent anew."""
    monkeypatch.setattr(run_copy, "_LEAST_S", 0.0)
    monkeypatch.setattr(run_copy, "_REST", 0)
    here, there = tmp_path / "here", tmp_path / "there"
    for path in ("state/step_1.pt", "data/case/image.npy", "state/.mass-half"):
        (there / path).parent.mkdir(parents=True, exist_ok=True)
        (there / path).write_bytes(b"1")
    copy, parts, inbox = run_copy.RunCopy(there, "run/7", 7), Parts(), Inbox(here)

    def hear(data: bytes | None) -> None:
        for head, piece in parts.feed(data or b""):
            name = head["name"].removeprefix("run/7/")
            inbox.take({**head, "name": name}, piece) if head["kind"] == "file" else inbox.remove(name)

    assert copy.piece() is None, "what is there at first is in the copy already"
    (there / "best.safetensors").write_bytes(os.urandom(3 * PIECE))
    hear(copy.piece())
    (there / "best.safetensors").write_bytes(os.urandom(2 * PIECE))
    (there / "state/step_2.pt").write_bytes(b"2")
    for _ in range(20):
        hear(copy.piece())
    assert (here / "state/step_2.pt").read_bytes() == b"2" and not (here / "data").exists()
    (there / "state/step_2.pt").unlink()
    (there / "last.safetensors").write_bytes(b"last")
    for data in copy.rest():
        hear(data)
    assert {name: path.read_bytes() for name, path in run_copy.files_of(here).items()} == {
        name: (there / name).read_bytes() for name in ("best.safetensors", "last.safetensors")
    }


def test_the_result_of_a_run_that_goes_on_replaces_its_best_so_far(tmp_path: Path) -> None:
    best, better = tmp_path / "run" / "best.safetensors", tmp_path / "better"
    best.parent.mkdir()
    best.write_bytes(b"best so far")
    better.write_bytes(b"better")
    (best.parent / "state").mkdir()
    (best.parent / "state" / "step_1.pt").touch()
    params = {"folder": str(best.parent), "output": str(best), "overwrite": True}
    with pytest.raises(InputError, match="holds a run already"):
        Packing.of(params, 3)
    packing = Packing.of({**params, "resume": True}, 3)
    assert packing.result is not None
    order = shipping._Order({"id": 3, "method": "finetune"}, packing)
    for data, _ in pieces(better, packing.result.named):
        for head, piece in Parts().feed(data):
            order.take(head, piece)
    order.deliver()
    assert best.read_bytes() == b"better"


def test_a_cancelled_transfer_is_cut_short(tmp_path: Path) -> None:
    """The wish is looked at before each piece: less than a slow line carries in two seconds goes out after it."""
    large = noise(tmp_path / "large.nrrd", 160)
    told: list[dict[str, Any]] = []
    one = shipping.Shipping("there", may_send=lambda: True, tell=told.append)
    one.ask(protocol.Request(id=1, method="features", params={"target": str(large), "output": str(tmp_path / "out.nrrd")}).line())
    going = one.outgoing()
    under_way = [next(going) for _ in range(5)][-1]
    one.ask(protocol.Request(id=2, method="cancel", params={"id": 1}).line())
    assert told[-1] == {"id": 1, "event": "cancelled"}, "at once"
    one.close()
    rest = b"".join(going)
    assert [part[0]["kind"] for part in Parts().feed(rest)] == ["drop"], "no request, no other piece"
    assert len(under_way) + len(rest) < 2 * SLOW_BYTES_PER_S < large.stat().st_size


@pytest.mark.slow
def test_cancel_while_a_scan_is_sent(fresh: Callable[..., Recorder], files: Files, server: Server) -> None:
    """Over a line that needs some 20 seconds for the scan."""
    one = fresh("slow")
    one.ask("hello", {"version": 1})
    large = noise(files.folder / "large.nrrd", 200)
    call = one.request("encode", files.encode(weights="small", references=[{"image": str(large), "mask": str(large)}]))
    one.until(lambda: any(kind == "send" and fraction > 0 for kind, fraction in one.events))
    pid, sent = one.pid, transport(one).shipping.bytes_sent
    call.cancel()
    one.until(lambda: call.state != "waiting")
    assert call.state == "cancelled" and transport(one).shipping.bytes_sent < large.stat().st_size
    assert one.ask("hello", {"version": 1})["result"]["host"] == "slow" and one.pid == pid, "the worker lives on"
    assert transport(one).shipping.bytes_sent - sent < 2 * SLOW_BYTES_PER_S, "no more than the line carries in two seconds"
    assert not any(path.is_file() for path in Path(transport(one).shipping._folder).glob("in/*")), "what had come of it is forgotten"


@pytest.mark.slow
def test_the_progress_of_the_transfer(fresh: Callable[..., Recorder], files: Files) -> None:
    one = fresh("slow")
    image = noise(files.folder / "image.nrrd", 130)
    mask = files.folder / "large_mask.nrrd"
    labels = sitk.Image(130, 130, 130, sitk.sitkUInt8)
    labels[40:60, 40:60, 40:60] = 1
    sitk.WriteImage(labels, str(mask))
    one.ask(
        "encode",
        files.encode(weights="small", references=[{"image": str(image), "mask": str(mask)}]),
        progress=lambda *told: one.events.append(("told", told)),
    )
    shares = [told[1] for kind, told in one.events if kind == "told" and told[0] == "send"]
    assert len(shares) > 2 and shares == sorted(shares) and shares[-1] == 1.0
    lefts = [told[2] for kind, told in one.events if kind == "told" and told[0] == "send"]
    assert all(left is not None and left >= 0 for left in lefts)


def test_no_room_there(fresh: Callable[..., Recorder], files: Files, server: Server) -> None:
    one = fresh(command=f"ulimit -f 4000; {server.command}")
    large = noise(files.folder / "large.nrrd", 160)
    order = files.segment(weights="small")
    with pytest.raises(OutputError, match=rf"On {HERE}: A file could not be kept in .*\n.*TMPDIR"):
        one.ask("segment", {**order, "target": str(large)})
    assert one.ask("segment", order)["result"]["labels"], "a smaller one goes on"
    with pytest.raises(OutputError, match="could not be kept"):
        one.ask("segment", {**order, "target": str(large), "overwrite": True})


def test_no_room_here_for_the_result(fresh: Callable[..., Recorder], files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    one, before = fresh(), files.names()
    one.ask("load", files.common)

    def full(self: Any, head: Any, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "the result")

    monkeypatch.setattr(shipping.Inbox, "take", full)
    with pytest.raises(OutputError, match="disk is full"):
        one.ask("segment", files.segment())
    monkeypatch.undo()
    monkeypatch.setenv("MASS_SSH", "")
    assert files.names() == before
    assert one.ask("hello", {"version": 1})["result"]["pid"]


def test_two_users_of_one_host(fresh: Callable[..., Recorder], files: Files, server: Server) -> None:
    left = set(server.left())
    one, other = fresh(), fresh()
    calls = [user.request("segment", files.segment(name)) for user, name in ((one, "a.nrrd"), (other, "b.nrrd"))]
    while any(call.state == "waiting" for call in calls):
        one.client.pump()
        other.client.pump()
    assert [call.state for call in calls] == ["done", "done"]
    assert len(set(server.left()) - left) == 2
    a, b = (Volume.read(files.folder / name).array for name in ("a.nrrd", "b.nrrd"))
    assert alike(a, b)


@pytest.mark.slow
def test_a_file_that_changes_while_it_is_sent(fresh: Callable[..., Recorder], files: Files, server: Server) -> None:
    one = fresh("slow")
    large = noise(files.folder / "large.nrrd", 200)
    call = one.request("segment", files.segment(weights="small", target=str(large)))
    one.until(lambda: any(kind == "send" and 0 < fraction < 1 for kind, fraction in one.events))
    os.utime(large, ns=(1, 1))
    one.until(lambda: call.state != "waiting")
    assert call.state == "failed" and "changed while it was sent" in one.last().message, (one.last(), one.logged, server.said())


def test_a_sign_of_life_while_files_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a large dataset take minutes to read, and the other computer ends after a long silence."""
    monkeypatch.setattr(shipping, "BEAT_S", 0.0)
    large = noise(tmp_path / "large.nrrd", 100)
    told: list[dict[str, Any]] = []
    one = shipping.Shipping("there", may_send=lambda: True, tell=told.append)
    one.ask(protocol.Request(id=1, method="features", params={"target": str(large), "output": str(tmp_path / "out.nrrd")}).line())
    assert next(iter(one.outgoing())) == b"\n" and not told


def test_python_examples_of_the_docs() -> None:
    import mass_core

    client = mass_core.LocalClient(transport=lambda: mass_core.SshTransport(HERE))
    assert isinstance(client, LocalClient)
    client.close()
