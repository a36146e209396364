"""Folder of a run on another computer, and its copy on this one: what changes there is sent during the run."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .stream import frame, pieces

_SCANS = "data"
"""Subfolder of prepared scans, which are made anew from those that were sent."""
_REST = 10
"""Pause after changes were sent, as a multiple of the time that took."""
_LEAST_S = 1.0
"""Least pause in seconds."""


def files_of(folder: Path) -> dict[str, Path]:
    """Files of a run by their names in its folder, without prepared scans and what is still being written."""
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name.as_posix(): path for name, path in found.items() if name.parts[0] != _SCANS and not path.name.startswith(".")}


class RunCopy:
    """Changes of a run's folder as frames. What lies there when this is made is in the copy already.

    Args:
        folder: of the run.
        place: its name on the stream.
        number: of the request.
    """

    def __init__(self, folder: Path, place: str, number: object) -> None:
        self._folder, self._place, self._number = folder, place, number
        self._known = {name: _state(path) for name, path in files_of(folder).items()}
        self._under_way: Iterator[bytes] | None = None
        self._began = self._quiet_until = 0.0

    def piece(self) -> bytes | None:
        """The next frame to send beside the run; None: there is none now. Sending takes a tenth of the time at most."""
        if self._under_way is None:
            if time.monotonic() < self._quiet_until:
                return None
            self._under_way, self._began = self._frames(beside=True), time.monotonic()
        found = next(self._under_way, None)
        if found is None:
            now, self._under_way = time.monotonic(), None
            self._quiet_until = now + max(_LEAST_S, _REST * (now - self._began))
        return found

    def rest(self) -> Iterator[bytes]:
        """All that is missing once the run has ended."""
        yield from self._under_way or ()
        yield from self._frames(beside=False)

    def _frames(self, *, beside: bool) -> Iterator[bytes]:
        now = {name: _state(path) for name, path in files_of(self._folder).items()}
        for name, state in now.items():
            if self._known.get(name) != state:
                with suppress(OSError):  # the run has removed it
                    for data, _ in pieces(self._folder / name, f"{self._place}/{name}", id=self._number, beside=beside):
                        yield data
                    self._known[name] = state
        for name in self._known.keys() - now.keys():
            yield frame("gone", name=f"{self._place}/{name}", id=self._number)
            del self._known[name]


def _state(path: Path) -> tuple[int, int] | None:
    """A value that changes when a file does; None: it is gone."""
    with suppress(OSError):
        state = path.stat()
        return state.st_mtime_ns, state.st_size
    return None
