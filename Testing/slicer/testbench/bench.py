"""Slicer with windows: the host, PySide6 behaving as PythonQt, and the module's panel."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import shiboken6
import slicer
from PySide6 import QtCore, QtWidgets

from Testing.waiting import PATIENCE_S

from . import ctk_widgets, dialog_widgets, latency, mrml_widgets, pythonqt, screenshot, segment_editor
from .application import Application, Module
from .host import MODULE_FOLDER, Host
from .ui_files import QUiLoader

_POLL_S = 0.005


class BenchApplication(Application):
    """`slicer.app` with an event loop and real settings."""

    def __init__(self, logic: Any, folder: Path) -> None:
        super().__init__(logic, folder)
        self._settings = QtCore.QSettings()

    def processEvents(self) -> None:
        """Let the event loop run once."""
        QtWidgets.QApplication.processEvents()

    def startupEnvironment(self) -> QtCore.QProcessEnvironment:
        """Environment before a launcher changed it; there is none here."""
        return QtCore.QProcessEnvironment.systemEnvironment()

    def topLevelWidgets(self) -> list[QtWidgets.QWidget]:
        """All windows."""
        return QtWidgets.QApplication.topLevelWidgets()


class Bench(Host):
    """Loads modules and drives their windows.

    Args:
        folder: of temporary files and settings.
    """

    def __init__(self, folder: Path) -> None:
        pythonqt.install()
        self.qt_messages: list[str] = []
        """Messages of Qt."""
        QtCore.qInstallMessageHandler(lambda kind, context, text: self._on_qt_message(text))
        self.qt = _qt_application(folder)
        self._panels: dict[str, Any] = {}
        super().__init__(folder)

    def module(self, name: str | Path) -> Any:
        """Load a module, open it for the first time and turn to it.

        Args:
            name: of a module in MASSSlicer/, or the path of a module's .py file.

        Returns:
            its widget object, after setup() and enter().
        """
        path = MODULE_FOLDER / f"{name}.py" if isinstance(name, str) else name
        python = self._import(path)
        module = Module(path.stem, path=str(path))
        getattr(python, path.stem)(module)
        setattr(slicer.modules, path.stem.lower(), module)
        self.application.send("startupCompleted()")
        panel = mrml_widgets.qSlicerScriptedLoadableModuleWidget()
        panel.setLayout(QtWidgets.QVBoxLayout())
        module._widget = panel
        try:
            panel.build(getattr(python, f"{path.stem}Widget"), path.stem)
        except BaseException:
            shiboken6.delete(panel)
            raise
        self._panels[path.stem] = panel
        panel.setMRMLScene(self.scene)
        self.enter(path.stem)
        return panel.self()

    def reload(self, name: str) -> Any:
        """A developer presses Reload; returns the module's new widget object.

        The library is imported anew; other tests hold the classes of the old one, which comes back when the bench is closed.
        """
        before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "mass_core"}
        self._undo.append(partial(_bring_back, before))
        self._panels[name].self().onReload()
        self.process_events()
        return self._panels[name].self()

    def enter(self, name: str) -> None:
        """The user turns to a module."""
        panel = self._panels[name]
        panel.show()
        if hasattr(panel.self(), "enter"):
            panel.self().enter()
        self.process_events()

    def exit(self, name: str) -> None:
        """The user turns to another module."""
        panel = self._panels[name]
        if hasattr(panel.self(), "exit"):
            panel.self().exit()
        panel.hide()
        self.process_events()

    def panel(self, name: str) -> Any:
        """A module's panel, for pictures."""
        return self._panels[name]

    def unload(self, name: str) -> None:
        """Slicer ends: exit(), then cleanup()."""
        if self._panels[name].visible:
            self.exit(name)
        self.application.moduleManager().send("moduleAboutToBeUnloaded(QString)", name)
        panel = self._panels.pop(name)
        panel.setMRMLScene(None)
        panel.deleteLater()
        self.process_events()

    def process_events(self) -> None:
        """Let the event loop do all it has to do now, deletions included."""
        QtWidgets.QApplication.processEvents()
        QtWidgets.QApplication.sendPostedEvents(None, QtCore.QEvent.DeferredDelete)

    def wait_until(self, reached: Callable[[], bool], seconds: float = PATIENCE_S, what: str = "") -> None:
        """Let the event loop run until something is so.

        Raises:
            AssertionError: if it takes longer, or something failed in the meantime.
        """
        end = time.monotonic() + seconds
        while not reached():
            if self.errors:
                self.raise_errors()
            if time.monotonic() > end:
                raise AssertionError(f"not reached within {seconds:g} s: {what or 'what the test waits for'}; shown so far: {self.shown}")
            self.qt.processEvents()
            time.sleep(_POLL_S)  # the worker needs the processor; Qt does not wait for events here, whatever it is told

    @contextmanager
    def latency(self) -> Iterator[latency.Latency]:
        """Measure the longest time the event loop is held up; `worst_ms` and `where` tell."""
        with latency.measured() as found:
            yield found

    def picture(self, widget: Any, path: Path, width: int = 480, height: int = 0) -> Path:
        """Save a widget as PNG; see `screenshot.save`."""
        return screenshot.save(widget, path, width, height)

    def close(self) -> None:
        """Unload all modules; see `Host.close`."""
        try:
            for name in list(self._panels):
                self.unload(name)
            for window in QtWidgets.QApplication.topLevelWidgets():
                window.deleteLater()
            self.process_events()
            for observations in list(mrml_widgets.Observations.every):
                observations.clear()  # or they would call when the garbage collector takes what they observe, and end the process
        finally:
            QtCore.qInstallMessageHandler(None)
            super().close()

    def _on_qt_message(self, text: str) -> None:
        if not text.startswith("This plugin does not support"):
            self.qt_messages.append(text)
            print(text, file=sys.stderr)

    def _application(self) -> Application:
        return BenchApplication(self.application_logic, self.folder)

    def _install(self) -> None:
        """Also `qt`, `ctk` and the widgets in `slicer`."""
        qt, ctk = types.ModuleType("qt"), types.ModuleType("ctk")
        vars(qt).update(pythonqt.names() | dialog_widgets.classes(self.dialogs) | {"QUiLoader": QUiLoader})
        own = (*mrml_widgets.WIDGETS, segment_editor.qMRMLSegmentEditorWidget)
        vars(ctk).update({kind.__name__: kind for kind in (*ctk_widgets.WIDGETS, ctk_widgets.ctkMessageBox)})
        QUiLoader.widgets = {kind.__name__: kind for kind in (*ctk_widgets.WIDGETS, *own)}
        self._module("qt", qt)
        self._module("ctk", ctk)
        for kind in (*own, mrml_widgets.qSlicerScriptedLoadableModuleWidget):
            self._name(slicer, kind.__name__, kind)
        super()._install()

    def _import(self, path: Path) -> types.ModuleType:
        """As Slicer does: by its file, under the file's name."""
        self._path(str(path.parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        python = importlib.util.module_from_spec(spec)
        self._module(path.stem, python)
        spec.loader.exec_module(python)
        return python


def _qt_application(folder: Path) -> QtWidgets.QApplication:
    """One for the process; its settings are files of the test."""
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
    for scope in (QtCore.QSettings.UserScope, QtCore.QSettings.SystemScope):
        QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, scope, str(folder / "settings"))
    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
    application.setOrganizationName("testbench")
    application.setApplicationName("Slicer")
    application.setQuitOnLastWindowClosed(False)
    screenshot.use_readable_look(application)
    return application


def _bring_back(modules: dict[str, types.ModuleType]) -> None:
    """Put the library's modules back that were loaded before."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "mass_core"]:
        del sys.modules[name]
    sys.modules.update(modules)
