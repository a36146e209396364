"""PySide6 adapted to behave as PythonQt.

Changed for the whole process, once, by `install`:

- Qt's properties are attributes: `label.text = "a"`; `label.text()` is an error, as it is in Slicer.
- `widget.connect("clicked(bool)", f)`: the signature must exist, and `f` gets as many values as it takes.
- What is no property cannot be set on a Qt object: `label.tooltip = "a"` is an error, as it is in Slicer.
- Lists of strings are tuples, enumerations count as their numbers.
- A constructor takes no flags joined with `|`.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import re
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtWidgets

_QT = (QtCore, QtGui, QtWidgets)
_property, _set_property = QtCore.QObject.property, QtCore.QObject.setProperty
_connect_signal, _disconnect_signal = QtCore.QObject.connect, QtCore.QObject.disconnect
_write = QtCore.QIODevice.write
_STAND_INS = __name__.rpartition(".")[0]
_VIRTUAL = ("sizeHint", "minimumSizeHint")
"""Read by a function that Python classes may override, for which Qt would look here again."""
_installed = False
_building = False


def install() -> None:
    """Make PySide6's classes behave like PythonQt's, in this process."""
    global _installed
    if _installed:
        return
    _installed = True
    _keep_constants_alive()
    for kind in _classes():
        if "__init__" in vars(kind):
            _refuse_joined_flags(kind)
        for member in vars(kind).values():
            if isinstance(member, enum.EnumMeta) and not issubclass(member, int):
                _count_as_numbers(member)
        if issubclass(kind, QtCore.QObject):
            _show_properties(kind)
            kind.__setattr__ = _set  # each of PySide6's classes has one of its own
            if "__getattribute__" in vars(kind):
                kind.__getattribute__ = _reader(kind.__getattribute__)
    base: Any = QtCore.QObject
    base.name = _attribute_of("objectName", True)
    base.className = lambda self: self.metaObject().className()
    base.delete = lambda self: shiboken6.delete(self)
    device: Any = QtCore.QIODevice
    device.write = lambda self, data: _write(self, data.encode() if isinstance(data, str) else data)
    for kind in (QtWidgets.QDialog, QtWidgets.QMenu, QtCore.QEventLoop):
        kind.exec_ = kind.exec


def _keep_constants_alive() -> None:
    """PySide6 6.12 returns None, True and False without owning them, as if they were immortal; before Python 3.12 that ends the process."""
    if sys.version_info < (3, 12):
        for constant in (None, True, False):
            ctypes.c_ssize_t.from_address(id(constant)).value += 1 << 60


def names() -> dict[str, Any]:
    """All of Qt in one flat namespace."""
    return {name: getattr(module, name) for module in _QT for name in dir(module) if name.startswith("Q")}


@contextmanager
def building() -> Iterator[None]:
    """While a .ui file is read: PySide6 hangs every widget on the outermost one as an attribute, PythonQt does not."""
    global _building
    _building = True
    try:
        yield
    finally:
        _building = False


def _classes() -> Iterator[type]:
    for module in _QT:
        for name in dir(module):
            found = getattr(module, name)
            if isinstance(found, type):
                yield found


def _count_as_numbers(kind: Any) -> None:
    """PythonQt's enumerations are integers."""
    equal = kind.__eq__
    kind.__eq__ = lambda self, other: self.value == other if isinstance(other, int) else equal(self, other)
    kind.__hash__ = lambda self: hash(self.value)
    kind.__int__ = kind.__index__ = lambda self: self.value
    kind.__bool__ = lambda self: bool(self.value)


def _refuse_joined_flags(kind: Any) -> None:
    """They are a plain int in PythonQt, which takes the first overload with any enumeration: a button box gets no buttons."""
    construct = kind.__init__

    @functools.wraps(construct)
    def init(self: Any, *arguments: Any, **named: Any) -> None:
        for value in (*arguments, *named.values()):
            if isinstance(value, enum.Flag) and value.value & (value.value - 1) and value not in type(value).__members__.values():
                raise TypeError(f"{kind.__name__}({value!r}): to PythonQt an int, which may be taken for something else; use a setter")
        construct(self, *arguments, **named)

    kind.__init__ = init


def _show_properties(kind: Any) -> None:
    """Turn properties into attributes, also where a class reimplements the reading; a static function of the name (singleShot) stays."""
    meta = kind.staticMetaObject
    if meta.className().rpartition(":")[2] != kind.__name__:
        return
    for index in range(meta.propertyCount()):
        name = meta.property(index).name()
        own = vars(kind).get(name)
        if (index >= meta.propertyOffset() or own is not None) and not isinstance(own, staticmethod):
            setattr(kind, name, _attribute_of(name, meta.property(index).isWritable(), own if name in _VIRTUAL else None))


def _attribute_of(name: str, writable: bool, read: Callable[[Any], Any] | None = None) -> property:
    def get(self: QtCore.QObject) -> Any:
        value = _property(self, name) if read is None else read(self)
        return tuple(value) if isinstance(value, list) else value

    def put(self: QtCore.QObject, value: Any) -> None:
        if value is None or not _set_property(self, name, value):
            raise AttributeError(f"Property {name!r} of {type(self).__name__} does not accept {value!r}")

    return property(get, put if writable else None)


def _reader(own: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    """A class's access to attributes. PySide6 answers connect on instances by itself, so that is taken before it."""

    def read(self: QtCore.QObject, name: str) -> Any:
        if name in ("connect", "disconnect"):
            return types.MethodType(_connect if name == "connect" else _disconnect, self)
        try:
            return own(self, name)
        except AttributeError:
            if not name.startswith("_") and name.encode() in [bytes(key) for key in self.dynamicPropertyNames()]:
                return _property(self, name)
            raise

    return read


def _set(self: QtCore.QObject, name: str, value: Any) -> None:
    """Only classes of the module under test may get new attributes."""
    kind = type(self)
    found = next((vars(base)[name] for base in kind.__mro__ if name in vars(base)), None)
    if isinstance(found, QtCore.Property):
        if found.fset is None:
            raise AttributeError(f"Property {name!r} of {kind.__name__} object is not writable")
        found.fset(self, value)
    elif isinstance(found, property):
        found.__set__(self, value)
    elif isinstance(value, QtCore.SignalInstance) or _may_be_new(kind, name):  # PySide6 keeps signals it has handed out
        self.__dict__[name] = value
    elif found is not None:
        raise AttributeError(f"{name!r} can not be overwritten on {kind.__name__} object")
    elif name.encode() in [bytes(key) for key in self.dynamicPropertyNames()]:
        _set_property(self, name, value)
    elif not _building:
        raise AttributeError(f"{name!r} does not exist on {kind.__name__} and creating new attributes on C++ objects is not allowed")


def _may_be_new(kind: type, name: str) -> bool:
    if kind.__module__.startswith(_STAND_INS):
        return name.startswith("_")
    return not kind.__module__.startswith("PySide6")


def _connect(self: QtCore.QObject, signature: Any, slot: Any = None, *rest: Any) -> Any:
    if not isinstance(signature, str):
        return _connect_signal(signature, slot, *rest)  # PySide6's own call, as in QTimer.singleShot
    signal, count = _signal(self, signature)
    receiver = _receiver(slot, count)
    self.__dict__.setdefault("_connections", []).append((signature, slot, receiver))
    signal.connect(receiver)
    return True


def _disconnect(self: QtCore.QObject, signature: Any, slot: Any = None, *rest: Any) -> Any:
    if not isinstance(signature, str):
        return _disconnect_signal(signature, slot, *rest)
    signal, _ = _signal(self, signature)
    connections = self.__dict__.get("_connections", [])
    ended = [known for known in connections if known[0] == signature and (slot is None or known[1] == slot)]
    for known in ended:
        connections.remove(known)
        signal.disconnect(known[2])
    return bool(ended)


def _signal(self: QtCore.QObject, signature: str) -> tuple[Any, int]:
    """The signal of a signature, and how many values it sends."""
    matched = re.fullmatch(r"\s*(\w+)\s*\((.*)\)\s*", signature)
    if not matched:
        raise ValueError(f"not the signature of a signal: {signature!r}")
    name, arguments = matched[1], matched[2].strip()
    count = arguments.count(",") + 1 if arguments else 0
    declared = getattr(type(self), "SIGNALS", {})
    wanted = QtCore.QMetaObject.normalizedSignature(signature).data().decode()
    if wanted in declared:
        return getattr(self, declared[wanted]), count
    meta = self.metaObject()
    if meta.indexOfSignal(wanted) < 0:
        raise ValueError(f"{type(self).__name__} has no signal {signature!r}")
    signal = getattr(self, name)
    others = [meta.method(index).methodSignature().data().decode() for index in range(meta.methodCount())]
    if sum(other.startswith(f"{name}(") for other in others) > 1 and count:
        signal = signal[wanted[len(name) + 1 : -1]]
    return signal, count


def _receiver(slot: Callable, sent: int) -> Callable:
    """A function gets the values it has parameters for, anything else that can be called gets all."""
    code = getattr(slot, "__code__", None)
    takes = sent
    if code is not None and not code.co_flags & 0x04:  # no *args
        takes = min(sent, code.co_argcount - (1 if isinstance(slot, types.MethodType) else 0))
    return lambda *values: slot(*values[:takes])
