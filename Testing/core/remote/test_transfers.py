"""Files on their way to another computer and back: progress, cancelled, no room, changed meanwhile (ssh_server.py)."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from mass_core.errors import InputError, OutputError
from mass_core.remote import run_copy, shipping
from mass_core.remote.parcels import Packing
from mass_core.remote.stream import PIECE, Inbox, Parts, pieces
from mass_core.worker import protocol
from Testing.core.ssh_server import HERE, SLOW_BYTES_PER_S, Server, transport
from Testing.core.worker_process import Files, Recorder


def noise(path: Path, edge: int) -> Path:
    """A scan that cannot be compressed, of 2 · edge³ bytes."""
    values = np.random.default_rng(0).integers(-1000, 1000, (edge,) * 3).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    return path


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
    with pytest.raises(InputError, match="already contains a run"):
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
    one = shipping.Shipping("there", may_send=lambda: True, deliver=told.append)
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
    with pytest.raises(OutputError, match=rf"On {HERE}: A file could not be stored in .*\n.*TMPDIR"):
        one.ask("segment", {**order, "target": str(large)})
    assert one.ask("segment", order)["result"]["labels"], "a smaller one goes on"
    with pytest.raises(OutputError, match="could not be stored"):
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
    one = shipping.Shipping("there", may_send=lambda: True, deliver=told.append)
    one.ask(protocol.Request(id=1, method="features", params={"target": str(large), "output": str(tmp_path / "out.nrrd")}).line())
    assert next(iter(one.outgoing())) == b"\n" and not told
