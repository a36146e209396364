"""One large file over HTTP: resumed where it broke off, checked before it gets its name."""

import hashlib
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from string import hexdigits
from typing import IO, Any

from .. import __version__
from ..errors import Cancelled, OutputError, WeightsError
from ..progress import Report

CHUNK = 2**20
TIMEOUT_S = 30.0
"""Longest silence of the server."""


@dataclass(frozen=True, kw_only=True)
class Received:
    """Result of a download."""

    sha256: str
    checked_against: str
    """table (known beforehand), server (stated by it), or nothing."""


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """A response that began."""

    body: Any
    begin: int
    """Byte of the file the body starts with."""
    total: int | None
    sha256: str | None
    """As stated by the server."""


def fetch(
    url: str, target: Path, *, expected: str | None = None, progress: Report | None = None, cancelled: Callable[[], bool] | None = None
) -> Received:
    """Download to `target`; until it is complete and checked it is called `<name>.part`, which a next call continues.

    Args:
        url: http or https; proxies are those of the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).
        target: in a folder that exists.
        expected: SHA-256 the file must have; None: the one the server states, if it does (Hugging Face does).
        progress: called for every megabyte.
        cancelled: called for every megabyte; true stops the download.

    Raises:
        WeightsError: if the server cannot be reached, breaks off, or the checksum is another.
        OutputError: if the disk has too little space.
        Cancelled: if the user stopped it.
    """
    part = target.with_name(f"{target.name}.part")
    resumed = part.is_file() and part.stat().st_size > 0
    stated = _receive(url, part, progress, cancelled)
    wanted = expected or stated
    found = sha256(part)
    if wanted is not None and found != wanted:
        part.unlink()
        if resumed:  # the beginning may be of an older file: once more from the start
            return fetch(url, target, expected=expected, progress=progress, cancelled=cancelled)
        raise WeightsError(
            f"The file from {url} is damaged or a different one: its SHA-256 is {found}, not {wanted}.", _by_hand(url, target)
        )
    os.replace(part, target)
    return Received(sha256=found, checked_against="table" if expected else "server" if stated else "nothing")


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _receive(url: str, part: Path, progress: Report | None, cancelled: Callable[[], bool] | None) -> str | None:
    """Fill the part file to its end; returns the SHA-256 the server states."""
    have = part.stat().st_size if part.is_file() else 0
    answer = _request(url, part, have)
    if answer is None:
        return _receive(url, part, progress, cancelled)
    with answer.body, open(part, "ab") as file:
        file.truncate(answer.begin)
        _check_space(part.parent, answer)
        done = _copy(answer, file, url, part, progress, cancelled)
    if answer.total is not None and done != answer.total:
        raise _broken_off(url, part, done, answer.total)
    return answer.sha256


def _request(url: str, part: Path, have: int) -> _Answer | None:
    """Ask for the file from byte `have` on; None: what is there cannot be continued and was deleted."""
    request = urllib.request.Request(url, headers={"User-Agent": f"MASSSlicer/{__version__}", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    redirects = _Redirects()
    try:
        response = urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            part.unlink()
            return None
        raise WeightsError(f"{url} answers {error.code} {error.reason}.", _by_hand(url, part.with_suffix(""))) from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise WeightsError(f"{url} cannot be reached: {reason}.", _by_hand(url, part.with_suffix(""))) from error
    begin, total = _extent(response.headers, have if response.status == 206 else 0)
    return _Answer(body=response, begin=begin, total=total, sha256=_stated(redirects.headers) or _stated(response.headers))


def _copy(answer: _Answer, file: IO[bytes], url: str, part: Path, progress: Report | None, cancelled: Callable[[], bool] | None) -> int:
    """Append the body; returns the size of the file then."""
    done, started = answer.begin, time.monotonic()
    while True:
        if cancelled is not None and cancelled():
            raise Cancelled
        try:
            chunk = answer.body.read(CHUNK)
        except (OSError, HTTPException) as error:
            raise _broken_off(url, part, done, answer.total) from error
        if not chunk:
            return done
        file.write(chunk)
        done += len(chunk)
        if progress is not None and answer.total:
            speed = (done - answer.begin) / max(time.monotonic() - started, 1e-3)
            progress("download", min(done / answer.total, 1.0), (answer.total - done) / speed)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the headers of redirections: Hugging Face states a file's SHA-256 there, the storage it leads to does not."""

    def __init__(self) -> None:
        self.headers = Message()

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        for name in ("X-Linked-Etag", "X-Linked-Size"):
            if headers.get(name):
                self.headers[name] = headers[name]
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _stated(headers: Message) -> str | None:
    """A SHA-256 among the entity tags of a response."""
    for name in ("X-Linked-Etag", "ETag"):
        tag = (headers.get(name) or "").removeprefix("W/").strip('"')
        if len(tag) == 64 and set(tag.lower()) <= set(hexdigits):
            return tag.lower()
    return None


def _extent(headers: Message, have: int) -> tuple[int, int | None]:
    """First byte and size of the whole file, from `Content-Range: bytes 5-9/10` or `Content-Length`."""
    if have and (headers.get("Content-Range") or "").startswith("bytes "):
        span, _, total = headers["Content-Range"].removeprefix("bytes ").partition("/")
        return int(span.split("-")[0]), int(total) if total.isdigit() else None
    length = headers.get("Content-Length")
    return have, have + int(length) if length is not None else None


def _check_space(place: Path, answer: _Answer) -> None:
    free = shutil.disk_usage(place).free
    missing = (answer.total or 0) - answer.begin
    if missing > free:
        raise OutputError(
            f"{missing / 1e9:.1f} GB have to be downloaded, but {place} has {free / 1e9:.1f} GB free.", "Free some space, or set MASS_HOME."
        )


def _broken_off(url: str, part: Path, done: int, total: int | None) -> WeightsError:
    size = f" of {total / 1e6:.1f}" if total else ""
    return WeightsError(
        f"{url} broke off after {done / 1e6:.1f}{size} MB.", f"Run the same command again: it continues from there ({part})."
    )


def _by_hand(url: str, target: Path) -> str:
    return f"Check the network and HTTPS_PROXY, or fetch {url} on another computer and place it in {target.parent} as {target.name}."
