"""Messages between client and worker: one JSON object a line (docs/formats.md, Worker protocol).

Standard library only; both ends use this file.
"""

import json
import os
import traceback
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .. import errors
from ..errors import InputError, MassError, as_mass_error

VERSION = 1
"""Both ends must have the same."""
METHODS = ("hello", "load", "encode", "adapt", "segment", "assess", "features", "finetune", "cancel", "unload", "shutdown")
KEEPING = ("finetune",)
"""Methods that end as done when they are cancelled, once there is something to keep."""
TAIL = 20
"""Last lines of a process's standard error that are reported when it dies."""
LAST = ("done", "failed", "cancelled")
"""Events after which nothing more comes for a request; exactly one of them ends it."""


class Detailed(MassError):
    """An error with details for a report.

    Args:
        message: what happened.
        cure: what to do.
        details: a traceback, or the last lines of a process.
    """

    def __init__(self, message: str, cure: str = "", details: str = "") -> None:
        super().__init__(message, cure)
        self.details = details


class Defect(Detailed):
    """A defect of the program; its details are the traceback."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request to the worker."""

    id: int
    method: str
    params: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> "Request":
        """The request in a message.

        Raises:
            InputError: if it is not a request, or names something unknown.
        """
        number, method, params = message.get("id"), message.get("method"), message.get("params") or {}
        if not isinstance(number, int) or isinstance(number, bool):
            raise InputError(f"A request needs a whole number as its id, got {number!r}.")
        if method not in METHODS:
            raise InputError(f"There is no method {method!r}.", f"Known methods: {', '.join(METHODS)}.")
        if not isinstance(params, dict):
            raise InputError(f"The params of {method} are not an object: {params!r}.")
        return cls(id=number, method=method, params=params)

    def line(self) -> bytes:
        """The request as the worker reads it."""
        return to_line({"id": self.id, "method": self.method, "params": self.params})


class Lines:
    """Cuts bytes that arrive in any portions into lines."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines these bytes complete, without their ends; blank ones are left out."""
        *whole, rest = data.split(b"\n")
        if not whole:
            self._begun += rest
            return []
        whole[0] = bytes(self._begun) + whole[0]
        self._begun = bytearray(rest)
        return [line.rstrip(b"\r") for line in whole if line.strip()]

    def rest(self) -> bytes:
        """The beginning of a line whose end has not arrived."""
        return bytes(self._begun)


class TextLines:
    """Cuts text that arrives in any portions into lines, and keeps the last ones."""

    def __init__(self) -> None:
        self._lines = Lines()
        self.tail: deque[str] = deque(maxlen=TAIL)

    def feed(self, text: str) -> list[str]:
        """The lines this text completes, without their ends; blank ones are left out."""
        lines = [line.decode("utf-8", "replace") for line in self._lines.feed(text.encode("utf-8", "surrogatepass"))]
        self.tail += lines
        return lines

    def rest(self) -> str:
        """The beginning of a line whose end has not arrived."""
        return self._lines.rest().decode("utf-8", "replace")


def to_line(message: Mapping[str, Any]) -> bytes:
    """A message as one line. Only ASCII is sent, so that names of files that are no valid text arrive unharmed as well."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def write_whole(descriptor: int, data: bytes) -> None:
    """Write all bytes to a file descriptor, unless the reader is gone; the input will end soon then."""
    view = memoryview(data)
    with suppress(OSError):
        while view:
            view = view[os.write(descriptor, view) :]


def from_line(line: bytes) -> dict[str, Any]:
    """The message of a line.

    Raises:
        InputError: if the line holds none.
    """
    try:
        message = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"This line is not a message: {shortened(line)}.", f"A line holds one JSON object in UTF-8 ({error}).") from error
    if not isinstance(message, dict):
        raise InputError(f"This line is not a message: {shortened(line)}.", "A line holds one JSON object.")
    return message


def failure(error: Exception) -> dict[str, Any]:
    """The fields of a `failed` reply. `details` is there for defects of the program only."""
    known = as_mass_error(error)
    if known is not None:
        return {"error": type(known).__name__, "message": known.message, "cure": known.cure}
    return {
        "error": type(error).__name__,
        "message": f"The program has a defect: {type(error).__name__}: {error}".rstrip(": "),
        "cure": "Please report it, with the details.",
        "details": "".join(traceback.format_exception(type(error), error, error.__traceback__)),
    }


def failed(number: int | None, error: Exception) -> dict[str, Any]:
    """The reply to a request that failed; without a number one that ends none."""
    return {"id": number, "event": "failed", **failure(error)}


def error_of(reply: Mapping[str, Any]) -> MassError:
    """The error in a `failed` reply."""
    name, message, cure = (str(reply.get(key) or "") for key in ("error", "message", "cure"))
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, MassError):
        return kind(message, cure)
    return Defect(message or f"The worker failed: {name}.", cure, str(reply.get("details") or ""))


def other_version(worker: Any, client: Any) -> InputError:
    """Client and worker do not understand each other."""
    return InputError(f"The worker uses version {worker} of the protocol, its client version {client}.", "Update both to one release.")


def shortened(line: bytes) -> str:
    """The beginning of a line as text, for messages."""
    text = line[:80].decode("utf-8", "replace")
    return repr(text + "…" if len(line) > 80 else text)
