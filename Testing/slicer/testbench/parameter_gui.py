"""Bindings of widgets and parameters; Slicer chooses which widget goes with which type, and the type must match exactly."""

from __future__ import annotations

import enum
import logging
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ctk
import qt
import slicer
import vtk

from .parameter_annotations import Choice, Decimals, Maximum, Minimum, SingleStep, WithinRange, annotations

_LEAST = -(2**31)
"""The smallest number of a QSpinBox."""


@dataclass
class _Binding:
    widget: Any
    read: Callable[[], Any]
    write: Callable[[Any], None]
    changed: Any
    """The widget's signal; None: it has none."""


class Connection:
    """Widgets bound to parameters until `close`.

    Args:
        parameters: the wrapped parameter node.
        widgets: widget and field by the parameter's name.
    """

    def __init__(self, parameters: Any, widgets: dict[str, tuple[Any, Any]]) -> None:
        self._parameters = parameters
        self._bindings = {name: _binding(widget, field) for name, (widget, field) in widgets.items()}
        self._slots: list[tuple[Any, Callable]] = []
        for name, binding in self._bindings.items():
            binding.write(parameters.getValue(name))
            self._listen(name, binding)
        self._tag = parameters.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._fill())

    def close(self) -> None:
        """Bind no longer."""
        for signal, slot in self._slots:
            signal.disconnect(slot)
        self._parameters.RemoveObserver(self._tag)

    def _listen(self, name: str, binding: _Binding) -> None:
        def take(*values: Any) -> None:
            with slicer.util.NodeModify(self._parameters):
                if not self._parameters._filling_gui:
                    self._parameters.setValue(name, binding.read())

        if binding.changed is not None:
            binding.changed.connect(take)
            self._slots.append((binding.changed, take))

    def _fill(self) -> None:
        """Show the parameters."""
        if self._parameters._filling_gui:
            return
        self._parameters._filling_gui = True
        try:
            with slicer.util.NodeModify(self._parameters):
                for name, binding in self._bindings.items():
                    binding.write(self._parameters.getValue(name))
        finally:
            self._parameters._filling_gui = False


def _binding(widget: Any, field: Any) -> _Binding:
    """Raise RuntimeError where Slicer has no connection for widget and type."""
    kind, notes = field.type, annotations(field.hint)
    for widgets, accepts, bind in _BINDINGS:
        if type(widget) in widgets and accepts(kind):
            return bind(widget, kind, notes)
    raise RuntimeError(f"Unable to create GUI connector from datatype '{kind}' to widget type '{type(widget).__name__}' ({field.name})")


def _check(widget: Any, kind: Any, notes: dict[type, Any]) -> _Binding:
    return _Binding(widget, lambda: widget.checked, lambda value: setattr(widget, "checked", value), widget.stateChanged)


def _push(widget: Any, kind: Any, notes: dict[type, Any]) -> _Binding:
    if not widget.checkable:
        logging.warning("Making push button checkable for conversion to bool")
        widget.checkable = True
    return _Binding(widget, lambda: widget.checked, lambda value: setattr(widget, "checked", value), widget.toggled)


def _line(widget: Any, kind: Any, notes: dict[type, Any]) -> _Binding:
    def write(value: str) -> None:
        if value != widget.text:  # setting it would move the cursor
            widget.text = value

    return _Binding(widget, lambda: widget.text, write, getattr(widget, "textChanged", None))


def _plain_text(widget: Any, kind: Any, notes: dict[type, Any]) -> _Binding:
    return _Binding(widget, widget.toPlainText, widget.setPlainText, widget.textChanged)


def _whole(widget: Any, kind: Any, notes: dict[type, Any]) -> _Binding:
    low, high = _limits(notes, _LEAST, -_LEAST - 1)
    if isinstance(widget, qt.QSlider) and (low == _LEAST or high == -_LEAST - 1):
        raise RuntimeError("Cannot have a connection to QSlider where the int type is unbounded.")
    _step(widget, notes)
    widget.setRange(low, high)
    return _Binding(widget, lambda: widget.value, lambda value: setattr(widget, "value", value), widget.valueChanged)


def _number(widget: Any, kind: Any, notes: dict[type, Any]) -> _Binding:
    low, high = _limits(notes, float("-inf"), float("inf"))
    if type(widget) is ctk.ctkSliderWidget and float("inf") in (-low, high):
        raise RuntimeError("Cannot have a connection to ctkSliderWidget where the float types is unbounded.")
    if kind is int:
        widget.decimals = 0
    elif Decimals in notes:
        widget.decimals = notes[Decimals].value
    _step(widget, notes)
    widget.minimum, widget.maximum = low, high
    return _Binding(widget, lambda: kind(widget.value), lambda value: setattr(widget, "value", kind(value)), widget.valueChanged)


def _choice(widget: Any, kind: Any, notes: dict[type, Any]) -> _Binding:
    if Choice not in notes:
        raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
    return _combo(widget, [(str(choice), choice) for choice in notes[Choice].choices])


def _enum(widget: Any, kind: Any, notes: dict[type, Any]) -> _Binding:
    label = getattr(kind, "label", lambda member: member.name)
    return _combo(widget, [(label(member), member) for member in kind])


def _combo(widget: Any, items: list[tuple[str, Any]]) -> _Binding:
    """Replace the items of the box."""
    widget.clear()
    for text, _ in items:
        widget.addItem(text)
    values = [value for _, value in items]

    def write(value: Any) -> None:
        widget.currentIndex = values.index(value)

    return _Binding(widget, lambda: values[widget.currentIndex], write, widget.currentIndexChanged)


def _path(widget: Any, kind: Any, notes: dict[type, Any]) -> _Binding:
    return _Binding(
        widget, lambda: kind(widget.currentPath), lambda value: setattr(widget, "currentPath", str(value)), widget.currentPathChanged
    )


def _node(widget: Any, kind: Any, notes: dict[type, Any]) -> _Binding:
    widget.nodeTypes = [kind().GetClassName()]
    return _Binding(widget, widget.currentNode, widget.setCurrentNode, widget.currentNodeChanged)


def _limits(notes: dict[type, Any], low: float, high: float) -> tuple[float, float]:
    if WithinRange in notes:
        return notes[WithinRange].minimum, notes[WithinRange].maximum
    return notes[Minimum].minimum if Minimum in notes else low, notes[Maximum].maximum if Maximum in notes else high


def _step(widget: Any, notes: dict[type, Any]) -> None:
    if SingleStep in notes:
        widget.singleStep = notes[SingleStep].value


def _is(*kinds: Any) -> Callable[[Any], bool]:
    return lambda kind: kind in kinds


def _derives(base: type) -> Callable[[Any], bool]:
    return lambda kind: isinstance(kind, type) and issubclass(kind, base)


_BINDINGS = (
    ((qt.QCheckBox, ctk.ctkCheckBox), _is(bool), _check),
    ((qt.QPushButton,), _is(bool), _push),
    ((qt.QSlider, qt.QSpinBox), _is(int), _whole),
    ((qt.QDoubleSpinBox, ctk.ctkSliderWidget, ctk.ctkDoubleSpinBox), _is(float, int), _number),
    ((qt.QComboBox,), _is(int, float, str, bool), _choice),
    ((qt.QComboBox,), _derives(enum.Enum), _enum),
    ((qt.QLineEdit, qt.QLabel), _is(str), _line),
    ((qt.QTextEdit,), _is(str), _plain_text),
    ((ctk.ctkPathLineEdit,), _is(pathlib.Path), _path),
    ((slicer.qMRMLNodeComboBox,), _derives(slicer.vtkMRMLNode), _node),
)
