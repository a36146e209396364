"""CTK's widgets that MASSSlicer uses, with the properties, signals and slots of their headers and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Qt, Signal

QStringList = "QStringList"


def stored(kind: Any, default: Any, changed: Callable[[Any], None] | None = None) -> Property:
    """A property that only keeps its value."""
    key: list[str] = []

    def get(self: Any) -> Any:
        value = self.__dict__.get(key[0], default)
        return tuple(value) if isinstance(value, (list, tuple)) else value

    def put(self: Any, value: Any) -> None:
        if get(self) != (tuple(value) if isinstance(value, (list, tuple)) else value):
            self.__dict__[key[0]] = value
            if changed:
                changed(self)

    made = Property(kind, get, put)
    key.append(f"_stored_{id(made)}")
    return made


def of_box(kind: Any, name: str) -> Property:
    """A property of the spin box inside."""
    return Property(kind, lambda self: getattr(self._box, name), lambda self, value: setattr(self._box, name, value))


class ctkCheckBox(QtWidgets.QCheckBox):
    """A check box; its own indicator is not shown."""


class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A title that folds what is below it."""

    SIGNALS = {"contentsCollapsed(bool)": "contentsCollapsed"}
    contentsCollapsed = Signal(bool)
    _TITLE = 24

    def __init__(self, *arguments: Any) -> None:
        text = arguments[0] if arguments and isinstance(arguments[0], str) else ""
        super().__init__(next((one for one in arguments if not isinstance(one, str)), None))
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        self.setContentsMargins(0, self._TITLE, 0, 0)
        self.setSizePolicy(QtWidgets.QSizePolicy.Preferred, QtWidgets.QSizePolicy.Preferred)
        self.toggled.connect(self._fold)

    def _is_collapsed(self) -> bool:
        return not self.isChecked()

    def _collapse(self, collapse: bool) -> None:
        self.setChecked(not collapse)

    collapsed = Property(bool, _is_collapsed, _collapse)
    collapsedHeight = stored(int, 10)
    flat = stored(bool, False)
    contentsLineWidth = stored(int, 1)

    def _fold(self, open_: bool) -> None:
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                child.setVisible(open_)
        self.setMaximumHeight(16777215 if open_ else self._TITLE)
        self.contentsCollapsed.emit(not open_)

    def childEvent(self, event: Any) -> None:
        """Hide what is put into a folded section."""
        super().childEvent(event)
        if event.added() and isinstance(event.child(), QtWidgets.QWidget) and not self.isChecked():
            event.child().hide()

    def hitButton(self, place: Any) -> bool:
        """The title folds, not the contents."""
        return place.y() < self._TITLE

    def sizeHint(self) -> Any:  # noqa: D102
        hint = self.layout().totalSizeHint() if self.layout() is not None and self.isChecked() else self.fontMetrics().size(0, self.text)
        return hint.expandedTo(self.fontMetrics().size(0, self.text))

    def paintEvent(self, event: Any) -> None:
        """A bar with the title, an arrow before it, a frame below it."""
        painter = QtWidgets.QStylePainter(self)
        if self.isChecked():
            frame = QtWidgets.QStyleOptionFrame()
            frame.initFrom(self)
            frame.rect = self.rect.adjusted(0, self._TITLE // 2, 0, 0)
            frame.frameShape = QtWidgets.QFrame.StyledPanel
            frame.lineWidth = 1
            painter.drawControl(QtWidgets.QStyle.CE_ShapedFrame, frame)
        bar = QtWidgets.QStyleOptionButton()
        bar.initFrom(self)
        bar.rect.setHeight(self._TITLE - 2)
        painter.drawControl(QtWidgets.QStyle.CE_PushButtonBevel, bar)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = bar.rect.adjusted(6, 6, 0, -6)
        arrow.rect.setWidth(arrow.rect.height())
        style = QtWidgets.QStyle
        painter.drawPrimitive(style.PE_IndicatorArrowDown if self.isChecked() else style.PE_IndicatorArrowRight, arrow)
        painter.drawText(bar.rect.adjusted(24, 0, 0, 0), int(Qt.AlignVCenter | Qt.AlignLeft), self.text)


class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    """A group box that folds when it is unticked."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(self._fold)

    def _is_collapsed(self) -> bool:
        return not self.isChecked()

    def _collapse(self, collapse: bool) -> None:
        self.setChecked(not collapse)

    collapsed = Property(bool, _is_collapsed, _collapse)
    collapsedHeight = stored(int, 14)

    def _fold(self, open_: bool) -> None:
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                child.setVisible(open_)


class ctkMessageBox(QtWidgets.QMessageBox):
    """A message box that can be told not to come again; the bench answers it."""

    dontShowAgain = stored(bool, False)
    dontShowAgainVisible = stored(bool, False)
    dontShowAgainSettingsKey = stored(str, "")


class ctkDoubleSpinBox(QtWidgets.QWidget):
    """A spin box."""

    SIGNALS = {
        "valueChanged(double)": "valueChanged",
        "decimalsChanged(int)": "decimalsChanged",
        "editingFinished()": "editingFinished",
    }
    valueChanged = Signal(float)
    decimalsChanged = Signal(int)
    editingFinished = Signal()

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._box = QtWidgets.QDoubleSpinBox()
        _fill(self, self._box)
        self._box.valueChanged.connect(self.valueChanged)
        self._box.editingFinished.connect(self.editingFinished)

    def setValue(self, value: float) -> None:
        """A slot."""
        self._box.value = value

    def setDecimals(self, decimals: int) -> None:
        """A slot."""
        if decimals != self._box.decimals:
            self._box.decimals = decimals
            self.decimalsChanged.emit(decimals)

    def setReadOnly(self, read_only: bool) -> None:
        """A slot."""
        self._box.readOnly = read_only

    value = Property(float, lambda self: self._box.value, setValue)
    decimals = Property(int, lambda self: self._box.decimals, setDecimals)
    readOnly = Property(bool, lambda self: self._box.readOnly, setReadOnly)
    minimum, maximum, singleStep = of_box(float, "minimum"), of_box(float, "maximum"), of_box(float, "singleStep")
    prefix, suffix = of_box(str, "prefix"), of_box(str, "suffix")


class ctkSliderWidget(QtWidgets.QWidget):
    """A slider with a spin box."""

    SIGNALS = {
        "valueChanged(double)": "valueChanged",
        "valueIsChanging(double)": "valueIsChanging",
        "decimalsChanged(int)": "decimalsChanged",
    }
    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    decimalsChanged = Signal(int)
    _STEPS = 1000

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._value, self._minimum, self._maximum, self._decimals = 0.0, 0.0, 99.0, 2
        self._slider = QtWidgets.QSlider(Qt.Horizontal)
        self._slider.maximum = self._STEPS
        self._box = QtWidgets.QDoubleSpinBox()
        _fill(self, self._slider, self._box)
        self._slider.sliderMoved.connect(self._dragged)
        self._box.valueChanged.connect(self.setValue)
        self._show()

    def setValue(self, value: float) -> None:
        """A slot: clamped and rounded to the decimals shown."""
        value = round(min(max(float(value), self._minimum), self._maximum), self._decimals)
        if value != self._value:
            self._value = value
            self._show()
            self.valueChanged.emit(value)

    def setDecimals(self, decimals: int) -> None:
        """A slot."""
        if decimals != self._decimals:
            self._decimals = decimals
            self._show()
            self.setValue(self._value)
            self.decimalsChanged.emit(decimals)

    def setSpinBoxVisible(self, visible: bool) -> None:
        """A slot."""
        self._box.setVisible(visible)

    def _set_minimum(self, minimum: float) -> None:
        self._minimum, self._maximum = float(minimum), max(float(minimum), self._maximum)
        self._limit()

    def _set_maximum(self, maximum: float) -> None:
        self._minimum, self._maximum = min(self._minimum, float(maximum)), float(maximum)
        self._limit()

    def _set_step(self, step: float) -> None:
        self._box.singleStep = step

    def _limit(self) -> None:
        self._show()
        self.setValue(self._value)

    def _dragged(self, step: int) -> None:
        self.setValue(self._minimum + step / self._STEPS * (self._maximum - self._minimum))

    def _show(self) -> None:
        blocked = self._box.blockSignals(True)
        self._box.decimals = self._decimals
        self._box.setRange(self._minimum, self._maximum)
        self._box.prefix, self._box.suffix = self.prefix, self.suffix
        self._box.value = self._value
        self._box.blockSignals(blocked)
        extent = self._maximum - self._minimum
        self._slider.value = round(self._STEPS * (self._value - self._minimum) / extent) if 0 < extent < float("inf") else 0

    value = Property(float, lambda self: self._value, setValue)
    minimum = Property(float, lambda self: self._minimum, _set_minimum)
    maximum = Property(float, lambda self: self._maximum, _set_maximum)
    decimals = Property(int, lambda self: self._decimals, setDecimals)
    singleStep = Property(float, lambda self: self._box.singleStep, _set_step)
    pageStep = stored(float, 10.0)
    tracking = stored(bool, True)
    prefix = stored(str, "", lambda self: self._show())
    suffix = stored(str, "", lambda self: self._show())
    spinBoxVisible = Property(bool, lambda self: self._box.isVisibleTo(self), setSpinBoxVisible)
    popupSlider = stored(bool, False)


class ctkPathLineEdit(QtWidgets.QWidget):
    """A line with a path and a button to browse."""

    SIGNALS = {"currentPathChanged(QString)": "currentPathChanged", "validInputChanged(bool)": "validInputChanged"}
    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    Dirs, Files, Readable, Writable, Executable = 0x001, 0x002, 0x010, 0x020, 0x040

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._line = QtWidgets.QComboBox()
        self._line.editable = True
        self._line.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Fixed)
        self._browse = QtWidgets.QToolButton()
        self._browse.text = "…"
        _fill(self, self._line, self._browse)
        self._valid = False
        self._line.editTextChanged.connect(self._on_text)
        self._browse.clicked.connect(self.browse)

    def setCurrentPath(self, path: str) -> None:
        """A slot."""
        self._line.setEditText(path)

    def browse(self) -> None:
        """A slot: ask for a path."""
        import qt

        ask = qt.QFileDialog.getExistingDirectory if self.filters & self.Dirs else qt.QFileDialog.getOpenFileName
        path = ask(self, self.label or "Select a path")
        if path:
            self.setCurrentPath(path)

    def addCurrentPathToHistory(self) -> None:
        """A slot."""
        if self._line.findText(self.currentPath) < 0:
            self._line.addItem(self.currentPath)

    def retrieveHistory(self) -> None:
        """A slot: nothing is kept between tests."""

    def comboBox(self) -> QtWidgets.QComboBox:
        """The line."""
        return self._line

    def minimumSizeHint(self) -> Any:
        """Room for the whole path, unless the number of characters to show is set."""
        metrics = self.fontMetrics()
        text = self.minimumContentsLength * metrics.horizontalAdvance("X") or metrics.horizontalAdvance(self.currentPath) + 8
        return QtCore.QSize(text + 30 + self._browse.minimumSizeHint.width(), self._line.minimumSizeHint.height())

    def _on_text(self, text: str) -> None:
        """As CTK tells it: what cannot be a path, such as an empty line, is not announced as one, only that the input is not valid."""
        before, self._valid = self._valid, bool(text)
        if self._valid:
            self.currentPathChanged.emit(text)
        if self._valid != before:
            self.validInputChanged.emit(self._valid)

    currentPath = Property(str, lambda self: self._line.currentText, setCurrentPath)
    filters = stored(int, Files | Dirs)
    label = stored(str, "")
    nameFilters = stored(QStringList, ())
    settingKey = stored(str, "")
    showBrowseButton = Property(bool, lambda self: self._browse.isVisibleTo(self), lambda self, on: self._browse.setVisible(on))
    showHistoryButton = stored(bool, True)
    minimumContentsLength = stored(int, 0)


WIDGETS = (ctkCheckBox, ctkCollapsibleButton, ctkCollapsibleGroupBox, ctkDoubleSpinBox, ctkSliderWidget, ctkPathLineEdit)


def _fill(widget: QtWidgets.QWidget, *parts: QtWidgets.QWidget) -> None:
    """Put parts side by side."""
    layout = QtWidgets.QHBoxLayout(widget)
    layout.setContentsMargins(0, 0, 0, 0)
    for part in parts:
        layout.addWidget(part)
