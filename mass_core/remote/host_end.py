"""The other computer's end: files that come go into a private folder, a worker finds them there, and its results go back."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError, OutputError, ending
from ..worker import protocol
from ..worker.transport import SubprocessTransport, worker_command
from .reasons import ENDED
from .run_copy import RunCopy
from .stream import SILENCE_S, VERSION, Inbox, Parts, frame, pieces, run_place

_CHUNK = 1 << 16
_PREFIX = "mass-remote"
_MORE_ROOM = "Free some space there, or set TMPDIR for it there to a folder on a larger disk."
_ENDING_S = 7.0
"""Time the worker may take to end by itself."""
_ROOT = Path(__file__).resolve().parents[2]
_CLEANER = "import shutil, sys; sys.stdin.buffer.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"
"""Waits for the end of its input, which comes however the process at the other end dies."""


def serve(requests: int, replies: int, *, command: list[str] | None = None, silence_s: float = SILENCE_S) -> int:
    """Run a worker for another computer, until the requests end or no message arrives for long.

    Args:
        requests: file descriptor to read from.
        replies: file descriptor to write to.
        command: of the worker; None: this Python's.
        silence_s: after which the line counts as broken.

    Returns:
        The worker's exit code.
    """
    with _private_folder() as folder:
        return _HostEnd(folder, requests, replies, command or worker_command(), silence_s).run()


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A private folder that is removed afterwards, even if this process is killed.

    Raises:
        OutputError: if there is no room for one.
    """
    try:
        _sweep(Path(tempfile.gettempdir()))
        # The name tells which process of which computer it belongs to: temporary folders may be shared by several.
        folder = Path(os.path.realpath(tempfile.mkdtemp(prefix=f"{_PREFIX}-{platform.node()}-{os.getpid()}-")))
    except OSError as error:
        raise OutputError(f"A temporary folder could not be made: {error.strerror or error}.", _MORE_ROOM) from error
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _CLEANER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    ):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _sweep(place: Path) -> None:
    """Remove folders of processes that ended without removing them, by a power failure for instance."""
    if sys.platform == "win32":
        return  # where asking whether a process is there ends it
    for folder in place.glob(f"{_PREFIX}-{platform.node()}-*-*"):
        number = folder.name.removeprefix(f"{_PREFIX}-{platform.node()}-").partition("-")[0]
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, OSError):
            pass  # none of ours, or that of another user


class _HostEnd:
    """Between the line and the worker. The worker's folder is the private one: files are named relative to it."""

    def __init__(self, folder: Path, requests: int, replies: int, command: list[str], silence_s: float) -> None:
        self._folder = folder
        self._requests, self._replies = requests, replies
        self._silence_s = silence_s
        self._inbox = Inbox(folder)
        self._lost: dict[str, OutputError] = {}
        self._stopped: set[Any] = set()
        self._runs: dict[Any, RunCopy | None] = {}
        """Requests that keep what they have, and the copy of their folder, if one is wanted."""
        self._writing = threading.Lock()
        self._parts, self._lines = Parts(), protocol.Lines()
        self._code: int | None = None
        self._received, self._over = threading.Event(), threading.Event()
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
        self._worker = SubprocessTransport(command, environment={**os.environ, "PYTHONPATH": path}, folder=folder)

    def run(self) -> int:
        """Serve until the worker has ended."""
        self._write(frame("here", stream=VERSION, mass_version=__version__, folder=str(self._folder)))
        if threading.current_thread() is threading.main_thread():
            for number in filter(None, (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP"))):
                signal.signal(number, lambda *_: self._give_up())
        self._worker.start(self._on_reply, self._log, self._ended)
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()
        while self._code is None:
            self._worker.pump(0.0 if self._copied() else 0.5)
        return self._code if self._code >= 0 else 128 - self._code  # the convention of shells for signals

    def _watch(self) -> None:
        """End after a long silence: a broken connection is not reported otherwise."""
        while self._received.wait(self._silence_s):
            self._received.clear()
        self._log(f"No message arrived for {self._silence_s:g} s.\n")
        self._give_up()

    def _give_up(self) -> None:
        """End at once, with the worker and the folder."""
        self._worker.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(1)

    def _listen(self) -> None:
        """Read requests and files until the input ends, then end the worker."""
        with suppress(OSError):  # a broken pipe is an end as well
            while data := os.read(self._requests, _CHUNK):
                self._received.set()
                for part in self._parts.feed(data):
                    if isinstance(part, bytes):
                        self._on_request(part)
                    else:
                        self._on_frame(*part)
        self._worker.close_input()
        if not self._over.wait(_ENDING_S):
            self._give_up()

    def _on_frame(self, head: Mapping[str, Any], data: bytes) -> None:
        """Handle a frame."""
        name = str(head.get("name", ""))
        place = "/".join(name.split("/")[:2])
        if head["kind"] == "file" and place not in self._lost:
            try:
                self._inbox.take(head, data)
                if head["last"]:  # names tell the content: over a new line, a run that goes on finds the same files as before
                    os.utime(self._folder / name, (0, 0))
            except OSError as error:
                reason = f"A file could not be stored in {self._folder.parent}: {error.strerror or error}."
                self._lost[place] = OutputError(reason, _MORE_ROOM)
                self._write(frame("lost", name=place))
                self._inbox.remove(place)
        elif head["kind"] == "drop":
            self._lost.pop(place, None)
            self._inbox.remove(place)

    def _on_request(self, line: bytes) -> None:
        """A line for the worker; one that needs a file that was lost on the way is answered here."""
        text = line.decode("utf-8", "replace")
        lost = next((error for name, error in self._lost.items() if name in text), None)
        message = _message(line)
        params = message.get("params")
        if message.get("method") in protocol.KEEPING and isinstance(params, dict):
            number = message.get("id")
            place = run_place(number)
            (self._folder / place).parent.mkdir(exist_ok=True)
            self._runs[number] = RunCopy(self._folder / place, place, number) if params.get("folder") else None
            line = protocol.to_line({**message, "params": {**params, "folder": place}}).rstrip()
        if message.get("method") == "cancel" and isinstance(params, dict):
            self._stopped |= {params.get("id")} - self._runs.keys()
        if lost is not None:
            self._write(protocol.to_line(protocol.failed(message.get("id"), lost)))
        else:
            self._worker.write(line + b"\n")

    def _on_reply(self, data: bytes) -> None:
        """Bytes of the worker's standard output: lines are passed on; the files of a request that is done go first."""
        for line in self._lines.feed(data):
            message = _message(line)
            number = message.get("id")
            if message.get("event") in protocol.LAST and isinstance(number, int):
                made = self._folder / "out" / str(number)
                if (copy := self._runs.pop(number, None)) is not None:
                    for data in copy.rest():
                        self._write(data)
                if message["event"] == "done" and not self._sent(number, made):
                    line = protocol.to_line({"id": number, "event": "cancelled"})
                for done in (made, self._folder / run_place(number)):
                    shutil.rmtree(done, ignore_errors=True)
                self._stopped.discard(number)
            self._write(line + b"\n")

    def _copied(self) -> bool:
        """Send a piece of what has changed in the folder of a run, so that a broken connection does not lose it; false: nothing has."""
        piece = next((piece for copy in list(self._runs.values()) if copy is not None and (piece := copy.piece())), None)
        if piece is not None:
            self._write(piece)
        return piece is not None

    def _sent(self, number: int, made: Path) -> bool:
        """Send what a request made; false: it was cancelled meanwhile."""
        for path in sorted(file for file in made.rglob("*") if file.is_file()):
            for data, _ in pieces(path, path.relative_to(self._folder).as_posix(), id=number):
                if number in self._stopped:
                    return False
                self._write(data)
        return True

    def _log(self, text: str) -> None:
        """Pass on text of standard error."""
        sys.stderr.write(text)
        sys.stderr.flush()

    def _ended(self, code: int) -> None:
        if code:  # as text, because ssh exits with a code of its own if data is still being sent
            self._log(f"{ENDED}: {ending(code)}.\n")
        self._code = code
        self._over.set()

    def _write(self, data: bytes) -> None:
        with self._writing:
            protocol.write_whole(self._replies, data)


def _message(line: bytes) -> dict[str, Any]:
    """The message of a line; empty if it holds none."""
    try:
        return protocol.from_line(line)
    except InputError:
        return {}
