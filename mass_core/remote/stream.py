"""Byte stream between two computers: the worker's lines, and between them frames that carry files piece by piece.

A frame is a line of JSON behind a byte no other line begins with, followed by as many bytes as it says. What a login prints before
the worker begins is a line like others, and does no harm.
"""

import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

VERSION = 1
"""Both ends must have the same."""
PIECE = 1 << 18
"""Bytes of a file in a frame at most."""
BEAT_S = 15.0
"""Longest silence of this computer; then it sends a sign of life."""
SILENCE_S = 75.0
"""Silence after which the other computer assumes that the connection is broken, and ends."""

_MARK = b"\x02"
_WORTH = 0.9
"""A file whose first piece shrinks to less than this share is sent compressed."""

Frame = tuple[dict[str, Any], bytes]


def frame(kind: str, data: bytes = b"", **fields: Any) -> bytes:
    """A frame as it travels."""
    head = json.dumps({"kind": kind, **fields, "length": len(data)}, separators=(",", ":"))
    return _MARK + head.encode("ascii") + b"\n" + data


def pieces(path: Path, name: str, **fields: Any) -> Iterator[tuple[bytes, int]]:
    """A file as frames of kind `file`, with the bytes of the file sent after each; closed early, the file just ends.

    Args:
        path: of the file.
        name: it has on the other side.
        fields: of every frame besides.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        size, packs, last = os.fstat(file.fileno()).st_size, None, False
        while not last:
            data = file.read(PIECE)
            last = file.tell() >= size or not data
            packed = zlib.compress(data, 1) if packs is not False else data
            packs = len(packed) < _WORTH * len(data) if packs is None else packs
            sent = packed if packs else data
            yield frame("file", sent, name=name, size=size, packed=packs, last=last, **fields), file.tell()


def run_place(number: object) -> str:
    """Name of the folder of a run on the other computer, by the number of the request."""
    return f"run/{number}"


class Parts:
    """Cuts bytes that arrive in any portions into lines and frames."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._head: dict[str, Any] | None = None
        self._searched = 0

    def feed(self, data: bytes) -> Iterator[bytes | Frame]:
        """The lines, without their ends, and the frames these bytes complete; blank lines are left out."""
        self._begun += data
        while (part := self._next()) is not None:
            if part:
                yield part

    def _next(self) -> bytes | Frame | None:
        """The next part, b"" for a blank line or the head of a frame; None: it has not come whole."""
        if self._head is not None:
            if len(self._begun) < self._head["length"]:
                return None
            head, self._head = self._head, None
            return head, self._cut(head["length"])
        end = self._begun.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._begun)
            return None
        line = self._cut(end + 1).strip()
        if line.startswith(_MARK):
            self._head = json.loads(line[1:])
            return b""
        return line

    def _cut(self, length: int) -> bytes:
        part = bytes(self._begun[:length])
        del self._begun[:length]
        self._searched = 0
        return part


class Inbox:
    """Files that arrive piece by piece, each under its name in a folder once it is complete.

    Args:
        folder: exists.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._name = ""
        self.size, self.began = 0, 0.0
        """Bytes so far of the latest file, and the time of its first."""

    def take(self, head: Mapping[str, Any], data: bytes) -> None:
        """A piece of a file; pieces of one file come one after the other.

        Raises:
            OSError: if it cannot be written; the file is gone then.
        """
        name = head["name"]
        try:
            if self._file is None or name != self._name:
                self.drop(self._name)
                self._place(name).parent.mkdir(parents=True, exist_ok=True)
                self._file, self._name = self._part(name).open("wb"), name
                self.size, self.began = 0, time.monotonic()
            self.size += self._file.write(zlib.decompress(data) if head["packed"] else data)
            if head["last"]:
                self._file.close()
                self._file = None
                os.replace(self._part(name), self._place(name))
        except OSError:
            self.drop(name)
            raise

    def drop(self, name: str) -> None:
        """Discard an incomplete file."""
        if self._file is not None and name == self._name:
            file, self._file = self._file, None
            with suppress(OSError):  # closing writes what is left, for which there may be no room
                file.close()
            self._part(name).unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove a file or a folder, complete or not."""
        self.close()
        place = self._place(name)
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)

    def close(self) -> None:
        """Discard incomplete files."""
        self.drop(self._name)

    def _place(self, name: str) -> Path:
        place = Path(os.path.normpath(self._folder / name))
        if not place.is_relative_to(self._folder):
            raise OSError(f"{name} lies outside the folder of files that travel")
        return place

    def _part(self, name: str) -> Path:
        """Beside the file: whether a name can be written shows at once. A short name, for the file's may be as long as can be."""
        return self._place(name).parent / ".part"
