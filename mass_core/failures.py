"""Translation of failures of libraries and of the system into errors for users."""

import errno
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError, MassError, MemoryShort, OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


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


def out_of_memory(error: BaseException) -> MemoryShort:
    """Memory did not suffice, with the first line of what was reported."""
    reason = (str(error).strip().splitlines() or ["no memory left"])[0]
    return MemoryShort(
        f"The memory does not suffice: {reason}",
        "Close other programs, crop the scan, or take a smaller window, fewer labels at a time or the processor (device cpu).",
    )


def ending(code: int) -> str:
    """Description of an exit code."""
    if code < 0 and -code in set(signal.Signals):
        return f"signal {-code}, {signal.Signals(-code).name}"
    return f"exit code {code:#x}" if code > 255 else f"exit code {code}"


def died(what: str, code: int, tail: Sequence[str]) -> str:
    """The message for a process that ended by itself, with the last lines it wrote on standard error."""
    said = f" The last it said: {' | '.join(list(tail)[-3:])}" if tail else ""
    return f"The {what} ended in the middle of its work ({ending(code)}).{said}"


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
