"""Errors for users: what was given, why it fails, what to do; failures of libraries and of the system translated into them."""

import errno
import os
import re
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def listing(values: Iterable[object], most: int | None = None) -> str:
    """Values for a message, with commas between them; of more than `most` the first, and how many more there are."""
    texts = list(map(str, values))
    more = "" if most is None or len(texts) <= most else f" and {len(texts) - most} more"
    return ", ".join(texts[:most]) + more


def concerning(value: int, names: Mapping[int, str], warnings: Iterable[str]) -> tuple[str, ...]:
    """The warnings that name a label, by name or number, and those that name no label, in their order.

    Args:
        value: of the label.
        names: of all labels, by their values.
        warnings: one sentence or a few each.
    """
    words = {number: {name.lower(), f"label {number}"} for number, name in names.items()}
    longest_first = sorted(set().union(*words.values()), key=len, reverse=True)  # the left kidney is not "kidney"
    pattern = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)")
    named = {text: set(pattern.findall(text.lower())) for text in warnings}
    return tuple(text for text, found in named.items() if not found or found & words[value])


class MassError(Exception):
    """A problem the user can solve.

    Args:
        message: What was given and why it fails, one or two sentences.
        cure: What to do about it, one sentence.
    """

    def __init__(self, message: str, cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.message}\n{self.cure}" if self.cure else self.message


class InputError(MassError):
    """A file, value or combination of options that cannot be used."""


class GeometryError(MassError):
    """Images that do not lie in the same place, or have a shape that cannot be used."""


class WeightsError(MassError):
    """Weights or a task that are damaged, of another network, unsafe to read or not there."""


class DeviceError(MassError):
    """The requested device is absent, or cannot do what is needed."""


class HostError(DeviceError):
    """Another computer that cannot be reached, or cannot run this program."""


class MemoryShort(DeviceError):
    """The memory of the device, or of the computer, does not suffice."""


class OutputError(MassError):
    """A result that cannot be written to its place."""


class Cancelled(Exception):
    """The user stopped the run; nothing was written."""


def is_out_of_memory(error: BaseException) -> bool:
    """True if Python, PyTorch, NumPy or ITK ran out of memory."""
    # Compared by name and text: PyTorch is not loaded for this, and it reports a full CPU or Apple GPU as a plain RuntimeError.
    text = str(error).lower()
    known = any(
        words in text for words in ("out of memory", "can't allocate memory", "cannot allocate memory", "failed to allocate memory")
    )
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or (isinstance(error, RuntimeError) and known)


def as_mass_error(error: BaseException) -> MassError | None:
    """The error to show for a failure the user can do something about; None: a defect of this program."""
    if isinstance(error, MassError):
        return error
    if is_out_of_memory(error):
        return out_of_memory(error)
    if isinstance(error, OSError):
        return _of_system(error)
    return None


@contextmanager
def known_failures() -> Iterator[None]:
    """Raise failures the user can do something about as a `MassError`; a defect of this program stays what it is."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        known = as_mass_error(error)
        if known is None:
            raise
        raise known from error


def out_of_memory(error: BaseException) -> MemoryShort:
    """Memory did not suffice, with the first line of what was reported."""
    reason = (str(error).strip().splitlines() or ["no memory left"])[0]
    return MemoryShort(
        f"Not enough memory: {reason}",
        "Close other programs, crop the scan, or take a smaller window, fewer labels at a time or the processor (device cpu).",
    )


def ending(code: int) -> str:
    """Description of an exit code."""
    if code < 0 and -code in set(signal.Signals):
        return f"signal {-code}, {signal.Signals(-code).name}"
    return f"exit code {code:#x}" if code > 255 else f"exit code {code}"


def died(what: str, code: int, tail: Sequence[str]) -> str:
    """The message for a process that ended by itself, with the last lines it wrote on standard error."""
    said = f" Last output: {' | '.join(list(tail)[-3:])}" if tail else ""
    return f"The {what} ended unexpectedly ({ending(code)}).{said}"


def _of_system(error: OSError) -> MassError | None:
    place = error.filename or "the file"
    if error.errno == errno.ENAMETOOLONG:
        return InputError(f"The name {Path(os.fsdecode(place)).name[:60]}… is too long for this disk.", "Give the file a shorter name.")
    if error.errno in _FULL:
        return OutputError(f"The disk is full: {place} could not be written.", "Free some space or choose another folder.")
    if error.errno in _FORBIDDEN:
        return OutputError(f"No permission for {place}.", "Choose a folder you may write to, or change its rights.")
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return OutputError(f"{place}: {error.strerror}.", "Check the spelling and the folder.")
    return None
