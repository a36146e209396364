"""`slicer.parameterNodeWrapper`: typed parameters kept in a node of the scene.

The types MASSSlicer uses: str, int, float, bool, Path, enumerations, nodes, and lists of these; checked, cached and bound to widgets by
Slicer's rules.
"""

from __future__ import annotations

import logging
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any

import slicer
import vtk

from .parameter_annotations import Choice, Decimals, Default, Maximum, Minimum, SingleStep, Validator, WithinRange
from .parameter_kinds import Simple, kind_of

_PARAMETER_NAME = "SlicerParameterName"


class _Field:
    """A parameter of the class."""

    def __init__(self, name: str, hint: Any, owner: type) -> None:
        self.name = name
        self.hint = hint
        self.type, *notes = typing.get_args(typing.Annotated[hint, None])[:-1]
        self._validators = [note for note in notes if isinstance(note, Validator)]
        self._kind = kind_of(self.type)
        defaults = [note for note in notes if isinstance(note, Default)]
        if len(defaults) > 1:
            raise ValueError(f"{name} has several defaults")
        own = Default(getattr(owner, name)) if hasattr(owner, name) else None
        self.default = own or (defaults[0] if defaults else Default(self._kind.default()))
        unused = [note for note in notes if not isinstance(note, (Validator, Default, Decimals, SingleStep))]
        if unused:
            logging.warning("unused annotations of %s: %s", name, unused)

    def read(self, node: Any, name: str) -> Any:
        if not self._kind.is_in(node, name):
            self.write(node, name, self.default.value)
        return self._kind.read(node, name)

    def write(self, node: Any, name: str, value: Any) -> None:
        if isinstance(self._kind, Simple):
            self._kind.check(value)
        for validator in self._validators:
            validator.validate(value)
        self._kind.write(node, name, value)

    def is_in(self, node: Any, name: str) -> bool:
        return self._kind.is_in(node, name)


class _Slot:
    """The value of a parameter in one node, kept until the node says that it changed."""

    def __init__(self, field: _Field, node: Any, prefix: str | None) -> None:
        self._field = field
        self._node = node
        self._name = (prefix or "") + field.name
        self._writing = False
        if not field.is_in(node, self._name):
            field.write(node, self._name, field.default.value)
        self.value = field.read(node, self._name)
        here = weakref.ref(self)
        self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: here()._changed())  # type: ignore[union-attr]

    def __del__(self) -> None:
        if hasattr(self, "_tag"):
            self._node.RemoveObserver(self._tag)

    def _changed(self) -> None:
        if not self._writing:
            self.value = self._field.read(self._node, self._name)

    def write(self, value: Any) -> None:
        self._writing = True
        try:
            with slicer.util.NodeModify(self._node):
                self._field.write(self._node, self._name, value)
                self.value = self._field.read(self._node, self._name)
        finally:
            self._writing = False


class _Wrapper:
    """Members the decorator adds to a class of parameters."""

    allParameters: dict[str, _Field]
    parameterNode: Any

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        self.parameterNode = parameterNode
        self._slots = {name: _Slot(field, parameterNode, prefix) for name, field in self.allParameters.items()}
        self._connections: dict[int, Any] = {}
        self._next_tag = 0
        self._filling_gui = False

    def default(self, name: str) -> Default:
        """Of a parameter."""
        return self._field(name).default

    def isCached(self, name: str) -> bool:
        """All kinds the testbench knows are."""
        self._field(name)
        return True

    @classmethod
    def dataType(cls, name: str) -> Any:
        """The type as it was annotated."""
        return cls._field(name).hint

    def getValue(self, name: str) -> Any:
        """The value of a parameter."""
        self._field(name)
        return self._slots[name].value

    def setValue(self, name: str, value: Any) -> None:
        """Set a parameter."""
        self._field(name)
        self._slots[name].write(value)

    def connectGui(self, gui: Any) -> int:
        """Bind the widgets that carry the property SlicerParameterName; returns a tag for `disconnectGui`."""
        import qt

        widgets = gui.findChildren(qt.QWidget) if getattr(gui, "isWidgetType", lambda: False)() else list(vars(gui).values())
        named = {widget.property(_PARAMETER_NAME): widget for widget in widgets if widget.property(_PARAMETER_NAME)}
        return self.connectParametersToGui(named)

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        """Bind widgets to parameters by name."""
        from .parameter_gui import Connection

        connectors = {name: (widget, self._field(name)) for name, widget in mapping.items()}
        self._connections[self._next_tag] = Connection(self, connectors)
        self._next_tag += 1
        return self._next_tag - 1

    def disconnectGui(self, tag: int) -> None:
        """Undo a binding."""
        if tag in self._connections:
            self._connections.pop(tag).close()

    def StartModify(self) -> int:
        """Of the node."""
        return self.parameterNode.StartModify()

    def EndModify(self, before: int) -> Any:
        """Of the node."""
        return self.parameterNode.EndModify(before)

    def AddObserver(self, event: Any, callback: Callable, priority: float = 0.0) -> int:
        """Of the node."""
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        """Of the node."""
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        """Of the node."""
        self.parameterNode.Modified()

    @classmethod
    def _field(cls, name: str) -> _Field:
        if name not in cls.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {name}; there are {list(cls.allParameters)}")
        return cls.allParameters[name]


def parameterNodeWrapper(classtype: type | None = None) -> Any:
    """Class decorator: attributes with types become parameters."""
    if classtype is None:
        return parameterNodeWrapper
    fields = {name: _Field(name, hint, classtype) for name, hint in typing.get_type_hints(classtype, include_extras=True).items()}
    reserved = sorted(name for name in vars(_Wrapper) if not name.startswith("__") and (name in fields or hasattr(classtype, name)))
    if reserved:
        raise ValueError(f"Cannot use reserved names {reserved} in a parameterNodeWrapper")
    for name, member in vars(_Wrapper).items():
        if name == "__init__" or not name.startswith("__"):
            setattr(classtype, name, member)
    classtype.allParameters = fields  # type: ignore[attr-defined]
    for name in fields:
        setattr(classtype, name, property(lambda self, n=name: self.getValue(n), lambda self, value, n=name: self.setValue(n, value)))
    return classtype


def isParameterNodeWrapper(thing: Any) -> bool:
    """True if a class or object was made by the decorator."""
    return hasattr(thing, "allParameters")


def module() -> types.ModuleType:
    """The module as `slicer.parameterNodeWrapper`."""
    made = types.ModuleType("slicer.parameterNodeWrapper")
    public = (parameterNodeWrapper, isParameterNodeWrapper, Validator, WithinRange, Minimum, Maximum, Choice, Default, Decimals, SingleStep)
    for thing in public:
        setattr(made, thing.__name__, thing)
    made.SlicerParameterNamePropertyName = _PARAMETER_NAME  # type: ignore[attr-defined]
    return made
