"""This computer's end: files that requests name are sent ahead of them, once each, and results are put where they belong."""

import os
import queue
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import Cancelled, DeviceError, InputError, MassError, OutputError
from ..outputs import check_free, stem
from ..worker import protocol
from .parcels import Packing, Parcel, each_text
from .run_copy import files_of
from .stream import BEAT_S, VERSION, Frame, Inbox, Parts, frame, pieces, run_place

_KEPT_BYTES = 4 << 30
"""Of files that no request under way needs and that stay on the other computer for the next one."""
_PROGRESS_S = 0.1


class _Order:
    """A request under way."""

    def __init__(self, message: Mapping[str, Any], packing: Packing) -> None:
        self.id, self.method, self.packing = message["id"], message["method"], packing
        self.places: dict[Path, str] = {}
        """Of its files on the other computer."""
        self.sent = self.stopped = self.arriving = False
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        """Folder in which its results wait until they are all there."""
        self.inbox: Inbox | None = None
        self.run = None if packing.run is None else Inbox(packing.run)
        """Of the copy of its run's folder."""
        self.copied = set() if packing.run is None else set(files_of(packing.run))
        """Names of the files in it."""
        self.reported = 0.0
        """Time of the latest report on its transfers."""

    def take(self, head: Mapping[str, Any], data: bytes) -> Inbox | None:
        """Take a piece of a result, or of a file in the folder of the run; returns where it went."""
        name = str(head["name"]).removeprefix(f"{run_place(self.id)}/")
        if self.run is not None and name != head["name"]:
            self.copied.add(name)
            self.run.take({**head, "name": name}, data)
            return self.run
        result = self.packing.result
        if result is None:
            return None
        if self.folder is None or self.inbox is None:
            result.path.parent.mkdir(parents=True, exist_ok=True)
            self.folder = tempfile.TemporaryDirectory(prefix=".mass-", dir=result.path.parent, ignore_cleanup_errors=True)
            self.inbox = Inbox(Path(self.folder.name))
        self.arriving = True
        self.inbox.take(head, data)
        return self.inbox

    def deliver(self) -> None:
        """Give the results their names, all of them or none.

        Raises:
            MassError: if one may not be written.
        """
        result = self.packing.result
        if result is None or self.folder is None:
            return
        place = Path(self.folder.name)
        found = {path: result.here(path.relative_to(place).as_posix()) for path in sorted(place.rglob("*")) if path.is_file()}
        inputs = [parcel.path for parcel in self.packing.parcels if not parcel.fixed]
        check_free(found.values(), overwrite=bool(self.packing.params.get("overwrite")), inputs=inputs)
        for path, target in found.items():
            os.replace(path, target)

    def gone(self, name: str) -> None:
        """The run has removed a file of its folder."""
        name = name.removeprefix(f"{run_place(self.id)}/")
        if self.run is not None and name in self.copied:
            self.run.remove(name)

    def close(self) -> None:
        """Remove what was not delivered."""
        for inbox in (self.inbox, self.run):
            if inbox is not None:
                inbox.close()
        if self.folder is not None:
            self.folder.cleanup()

    def here(self, value: Any, folder: str) -> Any:
        """A message of the other computer with the names files have here."""
        return each_text("", value, lambda _, text: self._text(text, folder))

    def _text(self, text: str, folder: str) -> str:
        for there, path in self._names():
            spelled = re.escape(there).replace("/", r"[\\/]")
            text = re.sub(rf"(?:{re.escape(folder)}[\\/])?{spelled}(?!\d)", lambda _, path=path: path, text)  # type: ignore[misc]
            if there.startswith("in/"):
                text = text.replace(there.removeprefix("in/"), Path(path).name)
        return text

    def _names(self) -> Iterator[tuple[str, str]]:
        """Names of files there and here."""
        for parcel in self.packing.parcels:
            if parcel.path in self.places:
                whole = parcel.alone or parcel.path.is_dir()
                yield self.places[parcel.path], str(parcel.path if whole else parcel.path.parent)
        if self.packing.run is not None:
            yield run_place(self.id), str(self.packing.run)
        if (result := self.packing.result) is not None:
            yield result.place, str(result.path.parent / stem(result.path))


class Shipping:
    """Between a client and a worker on another computer.

    Lines of the client and what the other computer says are handed in on one thread; `outgoing` is worked through on another.

    Args:
        host: name of the other computer.
        may_send: returns true if the user agreed that files are sent there.
        deliver: called with a message for the client, on any thread.
    """

    def __init__(self, host: str, *, may_send: Callable[[], bool], deliver: Callable[[dict[str, Any]], None]) -> None:
        self._host, self._may_send, self._deliver = host, may_send, deliver
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Iterator[bytes] | None] = queue.SimpleQueue()
        self._open: dict[int, _Order] = {}
        self._over: set[int] = set()
        self._digests: dict[tuple[Any, ...], str] = {}
        self._there: OrderedDict[str, int] = OrderedDict()
        self._lost: set[str] = set()
        self._parts = Parts()
        self._agreed = False
        self._folder = ""
        self.answered = False
        """True if the other end is one of ours."""
        self.bytes_sent = 0
        """Of all that went out."""

    # From the client

    def ask(self, line: bytes) -> None:
        """Take a line of the client."""
        message = protocol.from_line(line)
        if message["method"] == "cancel":
            if not self._cancelled(message["params"].get("id")):
                self._queue.put(iter([line]))
            return
        try:
            packing = Packing.of(message["params"], message["id"])
        except (MassError, OSError) as error:
            self._deliver(protocol.failed(message["id"], error))
            return
        order = self._open[message["id"]] = _Order(message, packing)
        self._queue.put(self._sending(order))

    def close(self) -> None:
        """Stop: the client sends nothing more and no longer waits for requests under way."""
        with self._lock:
            orders = list(self._open.values())
            self._open.clear()
            for order in orders:
                order.stopped = True
        for order in orders:
            order.close()
        self._queue.put(None)

    def _cancelled(self, number: Any) -> bool:
        """End a request whose files are on their way, here at once; false: the cancel has to be sent to the other computer."""
        with self._lock:
            order = self._open.get(number)
            if order is None:
                return False
            order.stopped = True
            if order.sent and (not order.arriving or order.method in protocol.KEEPING):
                return False
            self._open.pop(number)
        order.close()
        self._deliver({"id": number, "event": "cancelled"})
        if order.sent:
            self._over.add(number)
        return not order.sent

    # To the other computer

    def outgoing(self) -> Iterator[bytes]:
        """Bytes to send, as they become available; a sign of life if that takes long."""
        while True:
            try:
                waiting = self._queue.get(timeout=BEAT_S)
            except queue.Empty:
                yield b"\n"
                continue
            if waiting is None:
                return
            for data in waiting:
                self.bytes_sent += len(data)
                yield data

    def _sending(self, order: _Order) -> Iterator[bytes]:
        """The files of a request that are not there yet, then the request."""
        try:
            yield from self._files(order)
            params = order.packing.renamed(order.places, order.id)
        except Cancelled:
            return
        except (MassError, OSError) as error:
            self._failed(order, error)
            return
        with self._lock:
            if order.stopped:
                return
            order.sent = True
        yield protocol.to_line({"id": order.id, "method": order.method, "params": params})
        yield from self._make_room()

    def _files(self, order: _Order) -> Iterator[bytes]:
        """Frames of the files that are not there yet, and signs of life while these are looked for."""
        missing: list[tuple[Parcel, tuple[Any, ...], str]] = []
        for parcel in order.packing.parcels:
            state = parcel.state()
            yield from self._find_digest(order, parcel, state)
            place = parcel.place(self._digests[state])
            order.places[parcel.path] = parcel.named(place)
            if place in self._there:
                self._there.move_to_end(place)
            elif place not in (known for *_, known in missing):
                missing.append((parcel, state, place))
        if missing and not self._agreed:
            self._agreed = self._may_send()
            if not self._agreed:
                raise not_agreed(self._host)
        total, done, began = sum(parcel.size for parcel, *_ in missing), 0, time.monotonic()
        for parcel, state, place in missing:
            if place in self._lost:
                self._lost.discard(place)
                yield frame("drop", name=place)
            for data, size in self._parcel(order, parcel, state, place):
                yield data
                done += size
                self._progress(order, "send", done, total, began)
            if place not in self._lost:
                self._there[place] = parcel.size

    def _parcel(self, order: _Order, parcel: Parcel, state: tuple[Any, ...], place: str) -> Iterator[tuple[bytes, int]]:
        """Frames of one parcel, and the bytes of files in each.

        Raises:
            Cancelled: if the request was; what had been sent is taken back first.
            InputError: if the files are no longer in the state they were known in.
        """
        for file, name in parcel.names(place):
            done = 0
            for data, position in pieces(file, name):
                if order.stopped:
                    yield frame("drop", name=place), 0
                    raise Cancelled
                if place in self._lost:  # the reply to the request reports it
                    return
                yield data, position - done
                done = position
        if parcel.state() != state:
            yield frame("drop", name=place), 0
            raise InputError(f"{parcel.path} changed while it was sent.", "Try again once it is completely written.")

    def _find_digest(self, order: _Order, parcel: Parcel, state: tuple[Any, ...]) -> Iterator[bytes]:
        """Find the digest of a parcel; a sign of life if that takes long, for the other computer ends after a long silence.

        Raises:
            Cancelled: if the request was.
        """
        if state in self._digests:
            return
        beat = time.monotonic()
        for digest in parcel.digest():
            if order.stopped:
                raise Cancelled
            if time.monotonic() - beat > BEAT_S:
                beat = time.monotonic()
                yield b"\n"
            if digest:
                self._digests[state] = digest

    def _make_room(self) -> Iterator[bytes]:
        """Delete there the files used longest ago, if they take too much room."""
        with self._lock:
            used = {"/".join(place.split("/")[:2]) for order in self._open.values() for place in order.places.values()}
            idle = [place for place in self._there if place not in used]
            size = sum(self._there[place] for place in idle)
            for place in idle:
                if size <= _KEPT_BYTES:
                    return
                size -= self._there.pop(place)
                yield frame("drop", name=place)

    def _progress(self, order: _Order, stage: str, done: int, total: int, began: float) -> None:
        """Report a transfer, not too often."""
        fraction, now = done / total if total else 1.0, time.monotonic()
        if fraction >= 1 or now - order.reported >= _PROGRESS_S:
            order.reported = now
            left = (now - began) / done * (total - done) if done else None
            self._deliver({"id": order.id, "event": "progress", "stage": stage, "fraction": fraction, "eta_s": left})

    def _failed(self, order: _Order, error: Exception) -> None:
        with self._lock:
            if self._open.pop(order.id, None) is None:
                return
        order.close()
        if order.sent:
            self._over.add(order.id)
        self._deliver(protocol.failed(order.id, error))

    # From the other computer

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes from the other computer; returns lines for the client."""
        for part in self._parts.feed(data):
            if isinstance(part, bytes):
                yield from self._line(part)
            else:
                self._frame(part)

    def _frame(self, part: Frame) -> None:
        head, data = part
        if head["kind"] == "here":
            self.answered = head.get("stream") == VERSION
            self._folder = str(head.get("folder", ""))
        elif head["kind"] == "lost":
            place = "/".join(str(head["name"]).split("/")[:2])
            self._lost.add(place)
            self._there.pop(place, None)
        elif head["kind"] == "file" and (order := self._open.get(head.get("id", -1))) is not None:
            try:
                inbox = order.take(head, data)
            except OSError as error:
                self._queue.put(iter([protocol.Request(id=0, method="cancel", params={"id": order.id}).line()]))
                self._failed(order, error)
                return
            # The client waits for files of a run as long as progress arrives.
            if inbox is not None and (order.stopped or not head.get("beside")):
                self._progress(order, "receive", inbox.size, head["size"], inbox.began)
        elif head["kind"] == "gone" and (order := self._open.get(head.get("id", -1))) is not None:
            order.gone(str(head["name"]))

    def _line(self, line: bytes) -> Iterator[bytes]:
        """A line of the worker, for the client."""
        try:
            message = protocol.from_line(line)
        except InputError:
            yield line + b"\n"
            return
        number, last = message.get("id"), message.get("event") in protocol.LAST
        if number in self._over:
            if last:
                self._over.discard(number)
            return
        order = self._open.get(number) if isinstance(number, int) else None
        if order is not None:
            message = self._handled(order, order.here(message, self._folder))
            if last:
                with self._lock:
                    self._open.pop(order.id, None)
                order.close()
        yield protocol.to_line(message)

    def _handled(self, order: _Order, message: dict[str, Any]) -> dict[str, Any]:
        """Handle a message about a request: results are put in place, failures name the other computer."""
        try:
            if message["event"] == "done":
                order.deliver()
                if order.method == "hello":
                    self._check(message["result"])
                    message["result"]["host"] = self._host
            elif message["event"] == "failed" and isinstance(error := protocol.error_of(message), (DeviceError, OutputError)):
                message["message"] = f"On {self._host}: {error.message}"
        except (MassError, OSError) as error:
            return protocol.failed(order.id, error)
        return message

    def _check(self, worker: Mapping[str, Any]) -> None:
        """Refuse a worker of another version."""
        theirs = worker.get("mass_version")
        if theirs != __version__ or not self.answered:
            raise InputError(
                f"On {self._host} mass {theirs} is installed, on this computer mass {__version__}.", "Install the same version on both."
            )


def not_agreed(host: str) -> InputError:
    """The error where the user has not agreed that files are sent to a computer."""
    return InputError(
        f"Scans would be sent to {host}, but nobody has agreed to that yet.",
        f"If these patients' data may go there, add --agree once, or run: mass remote {host} --agree",
    )
