"""Errors for users: what was given, why it fails, what to do."""

from collections.abc import Iterable


def listing(values: Iterable[object]) -> str:
    """Values for a message, with commas between them."""
    return ", ".join(map(str, values))


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
    """The device asked for is absent, or cannot do what it was asked for."""


class HostError(DeviceError):
    """Another computer that cannot be reached, or cannot run this program."""


class MemoryShort(DeviceError):
    """The memory of the device, or of the computer, does not suffice."""


class OutputError(MassError):
    """A result that cannot be written where it was asked for."""


class Cancelled(Exception):
    """The user stopped the run; nothing was written."""
