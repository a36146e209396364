"""Storage of parameters of each type in a node: under Slicer's names and in its words, so a scene saved by one is read by the other."""

from __future__ import annotations

import enum
import pathlib
import typing
from collections.abc import Callable, Iterable, MutableSequence
from typing import Any

import slicer


class Simple:
    """A value kept as one string."""

    def __init__(
        self, accepts: Any, default: Any, read: Callable[[str], Any], write: Callable[[Any], str] = str, none: bool = False
    ) -> None:
        self._accepts = accepts
        self._default = default
        self._read = read
        self._write = write
        self._none = none

    def default(self) -> Any:
        return self._default

    def is_in(self, node: Any, name: str) -> bool:
        return node.HasParameter(name)

    def check(self, value: Any) -> None:
        if value is None and not self._none:
            raise ValueError("Value must not be None")
        if value is not None and not isinstance(value, self._accepts):
            raise TypeError(f"Value must be of type {self._accepts}, is {type(value)} {value!r}")

    def write(self, node: Any, name: str, value: Any) -> None:
        self.check(value)
        node.SetParameter(name, self._write(value))

    def read(self, node: Any, name: str) -> Any:
        return self._read(node.GetParameter(name))

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)


class _Node(Simple):
    """A node reference; an empty parameter of the same name tells that it was set, if to None."""

    def __init__(self, kind: type) -> None:
        super().__init__(kind, None, str, none=True)

    def write(self, node: Any, name: str, value: Any) -> None:
        self.check(value)
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node: Any, name: str) -> Any:
        return node.GetNodeReference(name)

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)
        node.RemoveNodeReferenceIDs(name)


class _List:
    """`name.len` and `name.0`, `name.1`, ..."""

    def __init__(self, element: Any) -> None:
        self._element = element

    def default(self) -> list:
        return []

    def is_in(self, node: Any, name: str) -> bool:
        return node.HasParameter(f"{name}.len")

    def write(self, node: Any, name: str, values: Iterable) -> None:
        with slicer.util.NodeModify(node):
            before = list(self.read(node, name))
            try:
                self._put(node, name, list(values), len(before))
            except Exception:
                self._put(node, name, before, len(before))
                raise

    def _put(self, node: Any, name: str, values: list, old_length: int) -> None:
        for index, value in enumerate(values):
            self._element.write(node, f"{name}.{index}", value)
        node.SetParameter(f"{name}.len", str(len(values)))
        for index in range(len(values), old_length):
            self._element.remove(node, f"{name}.{index}")

    def read(self, node: Any, name: str) -> ObservedList:
        length = int(node.GetParameter(f"{name}.len")) if self.is_in(node, name) else 0
        return ObservedList(node, self, name, [self._element.read(node, f"{name}.{index}") for index in range(length)])


class ObservedList(MutableSequence):
    """A list whose changes go to the node at once. It cannot be added or multiplied: that would make a list that is not observed."""

    def __init__(self, node: Any, kind: _List, name: str, values: list) -> None:
        self._node = node
        self._kind = kind
        self._name = name
        self._list = values

    def __repr__(self) -> str:
        return f"ObservedList({self._list})"

    def __eq__(self, other: object) -> bool:
        return self._list == (other._list if isinstance(other, ObservedList) else other)

    def __len__(self) -> int:
        return len(self._list)

    def __getitem__(self, index: Any) -> Any:
        return self._list[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._change(lambda: self._list.__setitem__(index, value))

    def __delitem__(self, index: Any) -> None:
        self._change(lambda: self._list.__delitem__(index))

    def insert(self, index: int, value: Any) -> None:
        """Before an index."""
        self._change(lambda: self._list.insert(index, value))

    def append(self, value: Any) -> None:
        """At the end."""
        self._change(lambda: self._list.append(value))

    def extend(self, values: Iterable) -> None:
        """All at the end, one change."""
        self._change(lambda: self._list.extend(values))

    def __iadd__(self, values: Iterable) -> ObservedList:  # type: ignore[misc]
        self.extend(values)
        return self

    def remove(self, value: Any) -> None:
        """The first that equals it."""
        self._change(lambda: self._list.remove(value))

    def pop(self, index: int = -1) -> Any:
        """Take one out."""
        return self._change(lambda: self._list.pop(index))

    def clear(self) -> None:
        """Take all out."""
        self._change(self._list.clear)

    def sort(self, **options: Any) -> None:
        """In place."""
        self._change(lambda: self._list.sort(**options))

    def reverse(self) -> None:
        """In place."""
        self._change(self._list.reverse)

    def __add__(self, other: object) -> Any:
        raise NotImplementedError("an ObservedList cannot be added, only +=")

    __radd__ = __mul__ = __rmul__ = __add__

    def _change(self, change: Callable[[], Any]) -> Any:
        result = change()
        try:
            self._kind.write(self._node, self._name, self._list)
        finally:
            self._list = list(self._kind.read(self._node, self._name))
        return result


def kind_of(hint: Any) -> Any:
    """Storage of a type."""
    if typing.get_origin(hint) is list or hint is list:
        arguments = typing.get_args(hint)
        if len(arguments) != 1:
            raise TypeError("the testbench wants to know what a list holds")
        return _List(kind_of(arguments[0]))
    if hint in (int, float):
        return Simple((int, float) if hint is float else int, 0, hint)
    if hint is str:
        return Simple(str, "", str)
    if hint is bool:
        return Simple(bool, False, lambda text: text == "True", lambda value: "True" if value else "False")
    if hint is pathlib.Path:
        return Simple(pathlib.Path, pathlib.Path(), pathlib.Path)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return Simple(hint, next(iter(hint)), hint.__getitem__, lambda value: value.name, none=True)
    if isinstance(hint, type) and issubclass(hint, slicer.vtkMRMLNode):
        return _Node(hint)
    raise TypeError(f"the testbench cannot store parameters of type {hint}")
