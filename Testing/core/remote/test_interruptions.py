"""Runs on another computer that are cut short: lines that break, processes that are killed, wishes to stop (ssh_server.py)."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mass_core.errors import DeviceError, HostError
from mass_core.remote.reasons import ENDED, why
from mass_core.volumes.volume import Volume
from mass_core.weights.store import classes
from Testing.core.ssh_server import HERE, Server, transport
from Testing.core.worker_process import LONG, Files, Recorder, alike, alive, scan
from Testing.waiting import PATIENCE_S, wait_until


def test_the_line_breaks(fresh: Callable[..., Recorder], files: Files, server: Server) -> None:
    one, before, left = fresh(), files.names(), set(server.left())
    call = one.request("segment", files.segment(options=LONG))
    one.until_computing()
    (own,) = set(server.left()) - left
    server.cut()
    one.until(lambda: call.state != "waiting")
    assert gone(server, own)
    assert call.state == "failed" and isinstance(one.last(), HostError) and f"The connection to {HERE} was lost" in one.last().message
    assert files.names() == before
    assert one.ask("segment", files.segment())["result"]["labels"], "the next request starts anew"
    assert one.started == [False, True]


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
    assert f"The connection to {HERE} was lost" in one.last().message and one.last().cure.startswith("Try again")
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
    assert isinstance(ended, DeviceError) and "gpu01 ended unexpectedly. " in ended.message and "SIGKILL" in ended.message
    assert isinstance(why("gpu01", 255, goodbye, answered=True, command="mass"), HostError)


@pytest.mark.parametrize("whom", [pytest.param("end", marks=pytest.mark.slow), "worker"])
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
        assert end.wait(PATIENCE_S) == 1 and b"No message arrived for 0.3 s." in end.stderr.read()
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


@pytest.mark.slow
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
