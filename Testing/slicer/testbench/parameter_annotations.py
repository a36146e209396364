"""Annotations of the type of a parameter: validators, defaults, and options of its widget."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any


class Validator:
    """Refuses values."""

    def validate(self, value: Any) -> None:
        """Raise ValueError for what is not allowed."""
        raise NotImplementedError


class WithinRange(Validator):
    """Both ends are allowed."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum = minimum
        self.maximum = maximum

    def validate(self, value: Any) -> None:
        """Within?"""
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


class Minimum(Validator):
    """The end is allowed."""

    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def validate(self, value: Any) -> None:
        """Not below?"""
        if value < self.minimum:
            raise ValueError(f"Value must be at least {self.minimum}, is {value}")


class Maximum(Validator):
    """The end is allowed."""

    def __init__(self, maximum: float) -> None:
        self.maximum = maximum

    def validate(self, value: Any) -> None:
        """Not above?"""
        if value > self.maximum:
            raise ValueError(f"Value must be at most {self.maximum}, is {value}")


class Choice(Validator):
    """One of a few."""

    def __init__(self, choices: typing.Sequence) -> None:
        self.choices = choices

    def validate(self, value: Any) -> None:
        """Among them?"""
        if value not in self.choices:
            raise ValueError(f"Value is {value}, but must be one of {self.choices}")


class Default:
    """Annotation of a default value, for types whose default cannot be written behind an equals sign."""

    def __init__(self, value: Any = None, *, generator: Callable[[], Any] | None = None) -> None:
        self._value = value
        self._generator = generator

    @property
    def value(self) -> Any:
        """Made anew each time where there is a generator."""
        return self._generator() if self._generator else self._value


@dataclasses.dataclass
class Decimals:
    """Of a spin box or slider."""

    value: int


@dataclasses.dataclass
class SingleStep:
    """Of a spin box or slider."""

    value: float


def annotations(hint: Any) -> dict[type, Any]:
    """Annotations of a type, by their class; the first of each."""
    notes = typing.get_args(typing.Annotated[hint, None])[1:-1]
    return {type(note): note for note in reversed(notes)}
