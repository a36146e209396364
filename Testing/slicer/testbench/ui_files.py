"""`qt.QUiLoader`: builds Qt Designer's files with the stand-ins for CTK's and Slicer's widgets."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any, ClassVar

import shiboken6
from PySide6 import QtCore, QtUiTools, QtWidgets

from .pythonqt import building


class QUiLoader(QtUiTools.QUiLoader):
    """Loader of Designer's files; a widget the testbench lacks is an error, never a silent gap."""

    widgets: ClassVar[dict[str, type]] = {}
    """Classes that are not Qt's, by name."""

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        """Called by Qt for each widget. An exception must not reach it from here: it is kept and raised after the file was read."""
        kept = self.__dict__.setdefault("_kept", [])
        try:
            widget = self._made(class_name, parent, name)
        except Exception as error:  # noqa: BLE001
            self.__dict__.setdefault("_errors", []).append(f"{class_name} {name}: {error}")
            widget = QtWidgets.QWidget(parent)
        widget.setObjectName(name)
        kept.append(widget)  # or Python frees what Qt still builds on
        return widget

    def load(self, file: Any, parent: Any = None) -> Any:
        """The widget of a file that is open for reading."""
        root = ET.fromstring(bytes(file.readAll().data()))
        connections = root.find("connections")
        if connections is not None:
            root.remove(connections)
        _spell_out_numbers(root)
        data = QtCore.QBuffer()
        data.setData(ET.tostring(root))
        data.open(QtCore.QIODevice.ReadOnly)
        with building():
            widget = super().load(data, parent)
        errors = self.__dict__.get("_errors", [])
        if errors or widget is None:
            if widget is not None:
                shiboken6.delete(widget)
            raise RuntimeError("the .ui file cannot be built: " + ("; ".join(errors) or self.errorString()))
        for connection in connections if connections is not None else ():
            _connect(widget, *(connection.findtext(part) or "" for part in ("sender", "signal", "receiver", "slot")))
        return widget

    def _made(self, class_name: str, parent: Any, name: str) -> Any:
        own = self.widgets.get(class_name)
        if own is not None:
            return own(parent)
        if not class_name.startswith("Q") and class_name != "Line":
            raise LookupError("the testbench has no such widget")
        return super().createWidget(class_name, parent, name)


def _spell_out_numbers(root: ET.Element) -> None:
    """Enumerations of the stand-ins as numbers: Qt does not know their names."""
    for element in root.iter():
        for value in [value for value in element if value.tag in ("enum", "set")]:
            parts = (value.text or "").split("|")
            kinds = [QUiLoader.widgets.get(part.split("::")[0].strip()) for part in parts]
            if all(kinds):
                value.tag = "number"
                value.text = str(sum(getattr(kind, part.rpartition("::")[2].strip()) for kind, part in zip(kinds, parts, strict=True)))


def _connect(root: Any, sender: str, signal: str, receiver: str, slot: str) -> None:
    def found(name: str) -> Any:
        widget = root if root.name == name else root.findChild(QtCore.QObject, name)
        if widget is None:
            raise RuntimeError(f"a connection of the .ui file names {name}, which it does not have")
        return widget

    target = getattr(found(receiver), re.match(r"\w+", slot)[0], None)  # type: ignore[index]
    if not callable(target):
        raise RuntimeError(f"a connection of the .ui file: {receiver} has no slot {slot}")
    found(sender).connect(signal, lambda *values: target(*values))
