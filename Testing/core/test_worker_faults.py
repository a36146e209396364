"""Ends, failures and malformed input of the worker, byte by byte; a real process every time."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mass_core.errors import DeviceError
from mass_core.worker import protocol
from mass_core.worker.client import WorkerDied
from mass_core.worker.protocol import Defect, Request
from mass_core.worker.transport import worker_command
from Testing.core.worker_process import LONG, Files, Recorder, alive, patched, talk
from Testing.waiting import PATIENCE_S, wait_until

# Stopping


def test_cancel_in_mid_run(worker: Recorder, files: Files) -> None:
    before = files.names()
    call = worker.request("segment", files.segment(options=LONG, probabilities=True))
    worker.until_computing()
    pid = worker.pid
    call.cancel()
    worker.until(lambda: call.state != "waiting")
    assert call.state == "cancelled" and worker.events[-1] == ("cancelled", None)
    assert not any(kind == "segment" and fraction == 1 for kind, fraction in worker.events), "some windows were left"
    assert files.names() == before
    assert worker.ask("segment", files.segment())["result"]["reused"]["target"] is True
    assert worker.pid == pid


def test_two_requests_are_computed_in_order_and_a_waiting_one_can_be_cancelled(worker: Recorder, files: Files) -> None:
    first = worker.request("segment", files.segment("a.nrrd", options=LONG), "a ")
    second = worker.request("segment", files.segment("b.nrrd"), "b ")
    third = worker.request("segment", files.segment("c.nrrd"), "c ")
    worker.until_computing("a ")
    second.cancel()
    worker.until(lambda: second.state != "waiting")
    assert (second.state, first.state) == ("cancelled", "waiting")
    hello = worker.request("hello", {"version": 1}, "hello ")
    worker.until(lambda: hello.state != "waiting")
    assert (hello.state, first.state) == ("done", "waiting")
    worker.until(lambda: third.state != "waiting")
    ends = [kind for kind, _ in worker.events if kind.split()[-1] in protocol.LAST]
    assert ends == ["b cancelled", "hello done", "a done", "c done"]
    assert {"a.nrrd", "c.nrrd"} <= files.names() and "b.nrrd" not in files.names()


def test_a_network_that_does_not_stop_is_killed(fresh: Callable[..., Recorder], files: Files) -> None:
    code = "import time\nfrom mass_core.model.mass import MASS\nMASS.encode_image = lambda self, image: time.sleep(600)"
    worker = fresh(command=patched(code), grace_s=0.5)
    call = worker.request("segment", files.segment(), "a ")
    waiting = worker.request("hello", {"version": 1}, "b ")
    worker.until(lambda: any(kind == "a encode" for kind, _ in worker.events) and waiting.state == "done")
    pid = worker.pid
    call.cancel()
    worker.until(lambda: call.state != "waiting")
    assert call.state == "cancelled" and not alive(pid)
    assert not worker.client.busy


def test_kill_in_mid_run(fresh: Callable[..., Recorder], files: Files) -> None:
    worker = fresh()
    before = files.names()
    call = worker.request("segment", files.segment(options=LONG))
    worker.until_computing()
    os.kill(worker.pid, signal.SIGKILL)
    worker.until(lambda: call.state != "waiting")
    error = worker.last()
    assert isinstance(error, WorkerDied) and "SIGKILL" in error.message and error.cure
    assert files.names() == before
    assert worker.ask("segment", files.segment())["result"]["reused"]["model"] is False
    assert worker.started == [False, True]


@pytest.mark.parametrize("at", ["load", "segment"])
def test_the_end_of_its_input_ends_it(fresh: Callable[..., Recorder], files: Files, at: str) -> None:
    worker = fresh()
    before = files.names()
    worker.request("segment", files.segment(options=LONG))
    worker.until(lambda: any(kind == at for kind, _ in worker.events))
    assert worker.client.transport is not None
    worker.client.transport.close_input()
    transport = worker.client.transport
    wait_until(lambda: not transport.running())
    assert files.names() == before


def test_the_end_of_its_input_ends_it_even_if_it_cannot_be_stopped() -> None:
    code = """
import time
from mass_core.worker import server as worker
worker.Worker._computed = lambda self, job: job.progress("stuck", 0.0) or time.sleep(600)
worker.Worker(*worker.claim_standard_streams(), lambda: None, ending_s=0.3).run()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(Request(id=1, method="load").line())
    process.stdin.flush()
    assert b"stuck" in process.stdout.readline()
    process.stdin.close()
    assert process.wait(PATIENCE_S) == 1
    assert process.stdout.read() == b""
    process.stdout.close()


def test_it_does_not_outlive_its_parent(files: Files) -> None:
    psutil = pytest.importorskip("psutil")
    params = json.dumps(files.segment(options=LONG))
    code = (
        "import sys, time\nfrom mass_core.worker.transport import LocalClient\n"
        f"import json\nclient = LocalClient()\nclient.request('segment', json.loads({params!r}), "
        "progress=lambda stage, *rest: print(client.transport.pid, stage, flush=True))\n"
        "while True: client.pump()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = next(int(line.split()[0]) for line in parent.stdout if "segment" in line)
    assert psutil.pid_exists(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not alive(pid))


def test_shutdown(fresh: Callable[..., Recorder], files: Files) -> None:
    worker = fresh()
    first, last = worker.request("segment", files.segment(), "a "), worker.request("shutdown", name="b ")
    worker.until(lambda: last.state != "waiting")
    assert (first.state, last.state) == ("done", "done")
    transport = worker.client.transport
    assert transport is not None
    worker.until(lambda: not transport.running())


# What it survives


def test_prints_of_libraries_do_not_disturb(fresh: Callable[..., Recorder], files: Files) -> None:
    code = """
import os, subprocess, sys
from mass_core.volumes.read_cache import Scans
honest = Scans.read
def loud(self, *arguments):
    print("printed by Python", flush=True)
    sys.stdout.write("unfinished line")
    os.write(1, b'{"id": 1, "event": "done", "result": "forged"}\\n')
    subprocess.run([sys.executable, "-c", "import sys; print('a child read', repr(sys.stdin.read()))"])
    return honest(self, *arguments)
Scans.read = loud
"""
    worker = fresh(command=patched(code))
    result = worker.ask("segment", files.segment())["result"]
    assert [label["value"] for label in result["labels"]] == [1, 2]
    worker.until(lambda: any("a child read ''" in line for line in worker.logged))
    assert any("printed by Python" in line for line in worker.logged) and any("forged" in line for line in worker.logged)


def test_full_memory_fails_the_run_and_frees_what_it_can(fresh: Callable[..., Recorder], files: Files) -> None:
    flag = files.folder / "memory is full"
    code = f"""
import os, torch
from mass_core.model.mass import MASS
honest = MASS.encode_image
def limited(self, image):
    if os.path.exists({str(flag)!r}):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return honest(self, image)
MASS.encode_image = limited
"""
    worker = fresh(command=patched(code))
    worker.ask("encode", files.encode())
    flag.touch()
    with pytest.raises(DeviceError, match="Not enough memory: CUDA out of memory"):
        worker.ask("segment", files.segment(task=str(files.task)))
    assert "out.nrrd" not in files.names()
    flag.unlink()
    pid = worker.pid
    assert worker.ask("segment", files.segment())["result"]["reused"] == {"model": False, "labels": 0, "target": False}
    assert worker.pid == pid


def test_a_defect_is_told_with_its_traceback(fresh: Callable[..., Recorder], files: Files) -> None:
    code = "from mass_core.jobs.service import Service\nService._encode = lambda self, order, run: {}['nothing']"
    worker = fresh(command=patched(code))
    with pytest.raises(Defect, match="KeyError: 'nothing'") as caught:
        worker.ask("encode", files.encode())
    assert "Traceback" in caught.value.details
    assert worker.ask("segment", files.segment())["result"]["labels"]


@pytest.mark.parametrize("text", ["raise ImportError('DLL load failed')", "raise OSError('libtorch.so')", "", "import os; os._exit(7)"])
def test_a_broken_pytorch_is_told(fresh: Callable[..., Recorder], files: Files, tmp_path: Path, text: str) -> None:
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    (tmp_path / "broken" / "torch" / "__init__.py").write_text(text)
    worker = fresh(environment={**os.environ, "PYTHONPATH": str(tmp_path / "broken")})
    if "_exit" in text:
        with pytest.raises(WorkerDied, match="exit code 7"):
            worker.ask("hello", {"version": 1})
        return
    result = worker.ask("hello", {"version": 1})["result"]
    assert result["torch"]["error"] and result["devices"] == []
    with pytest.raises(DeviceError, match="cannot be loaded"):
        worker.ask("encode", files.encode())


def test_a_python_that_is_not_there(fresh: Callable[..., Recorder]) -> None:
    worker = fresh(command=worker_command("/no/such/python"))
    with pytest.raises(DeviceError, match="could not be started: /no/such/python"):
        worker.ask("hello", {"version": 1})
    assert worker.started == []


def test_a_python_without_the_package(fresh: Callable[..., Recorder]) -> None:
    worker = fresh(command=[sys.executable, "-I", "-S", "-m", "mass_core", "worker"])
    with pytest.raises(WorkerDied, match=r"exit code 1\).*No module named mass_core"):
        worker.ask("hello", {"version": 1})


# What it hears, byte by byte


SHUTDOWN = Request(id=9, method="shutdown")


def test_nothing_said_is_an_end_as_well() -> None:
    result = talk()
    assert (result.returncode, result.replies, result.stderr) == (0, [], "")


@pytest.mark.parametrize("noise", [b"what?\n", b"\xff\xfe\x00\n", b"[]\n", b'"half\n', b"\n\n  \n", b"{" * 10_000 + b"\n"])
def test_what_it_does_not_understand_is_answered_without_a_number(noise: bytes) -> None:
    result = talk(noise, Request(id=2, method="cancel", params={"id": 1}), SHUTDOWN)
    *complaints, cancel = [reply for reply in result.replies if reply["id"] != 9]
    assert cancel == {"id": 2, "event": "done", "result": {}}
    assert [(c["id"], c["event"], c["error"]) for c in complaints] == ([(None, "failed", "InputError")] if noise.strip() else [])


def test_half_a_line_at_the_end_is_no_request() -> None:
    assert talk(SHUTDOWN.line()[:-1]).replies == []


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_another_version_is_refused(version: Any) -> None:
    (reply,) = talk(Request(id=1, method="hello", params={"version": version})).replies
    assert (reply["id"], reply["event"], reply["error"]) == (1, "failed", "InputError")
    assert f"uses version 1 of the protocol, its client version {version}" in reply["message"]


def test_unknown_methods_and_broken_requests_are_answered() -> None:
    lines = [{"id": 1, "method": "dream"}, {"id": 2, "method": "load", "params": 3}, {"id": "x", "method": "load"}, {"id": 3}]
    replies = talk(*(protocol.to_line(line) for line in lines)).replies
    assert [(reply["id"], reply["event"]) for reply in replies] == [(1, "failed"), (2, "failed"), (None, "failed"), (3, "failed")]


def test_a_number_that_is_taken_is_refused_without_ending_its_owner() -> None:
    code = """
import threading
from mass_core.worker.server import Worker
refused, send = threading.Event(), Worker._send
def sent(self, reply):
    send(self, reply)
    if reply["event"] == "failed":
        refused.set()
Worker._send = sent
Worker._computed = lambda self, job: {"result": {"waited": refused.wait(600)}}
"""
    load = Request(id=5, method="load")
    process = subprocess.Popen(patched(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(load.line() + load.line())
    process.stdin.flush()
    replies = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.stdin.close()
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 0
    assert [(reply["id"], reply["event"]) for reply in replies] == [(None, "failed"), (5, "done")]
    assert "request 5 already" in replies[0]["message"]
