"""Errors for users: what was given, why it fails, what to do."""

import re
from collections.abc import Iterable, Mapping


def listing(values: Iterable[object]) -> str:
    """Values for a message, with commas between them."""
    return ", ".join(map(str, values))


def concerning(value: int, names: Mapping[int, str], warnings: Iterable[str]) -> tuple[str, ...]:
    """Of some warnings, in their order, those that name a label, by its name or its number, and those that name none.

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
    """The device asked for is absent, or cannot do what it was asked for."""


class HostError(DeviceError):
    """Another computer that cannot be reached, or cannot run this program."""


class MemoryShort(DeviceError):
    """The memory of the device, or of the computer, does not suffice."""


class OutputError(MassError):
    """A result that cannot be written where it was asked for."""


class Cancelled(Exception):
    """The user stopped the run; nothing was written."""
