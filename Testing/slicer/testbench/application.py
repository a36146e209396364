"""`slicer.app`, `slicer.modules` and what hangs on them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

from .files import NodeFiles


class Signals:
    """String connections to signals, as `slicer.app` and the module manager offer them."""

    signatures: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._slots: dict[str, list[Callable]] = {signature: [] for signature in self.signatures}

    def connect(self, signature: str, slot: Callable) -> bool:
        """Call `slot` whenever the signal is sent."""
        self._of(signature).append(slot)
        return True

    def disconnect(self, signature: str, slot: Callable) -> bool:
        """Call it no longer; False: it was not connected."""
        if slot not in self._of(signature):
            return False
        self._of(signature).remove(slot)
        return True

    def send(self, signature: str, *arguments: object) -> None:
        """Testbench only: send the signal."""
        for slot in list(self._of(signature)):
            slot(*arguments)

    def _of(self, signature: str) -> list[Callable]:
        if signature not in self._slots:
            raise ValueError(f"{type(self).__name__} has no signal {signature!r}")
        return self._slots[signature]


class Module:
    """A loaded module; a scripted one writes its title and the like on it."""

    def __init__(self, name: str, logic: Any = None, path: str = "", widget: Any = None) -> None:
        self.name = name
        self.path = path
        self._logic = logic
        self._widget = widget

    def logic(self) -> Any:
        """Its C++ logic."""
        return self._logic

    def widgetRepresentation(self) -> Any:
        """The panel, None without a widget."""
        return self._widget


class Modules:
    """`slicer.modules`: modules by their name in lower case, and `<Name>Widget` of scripted ones."""

    def module(self, name: str) -> Module | None:
        """By its name."""
        return getattr(self, name.lower(), None)

    def names(self) -> list[str]:
        """Of all loaded modules."""
        return [module.name for module in vars(self).values() if isinstance(module, Module)]


class ModuleManager(Signals):
    """`slicer.app.moduleManager()`."""

    signatures = ("moduleAboutToBeUnloaded(QString)", "moduleUnloaded(QString)", "moduleLoaded(QString)")

    def module(self, name: str) -> Module | None:
        """By its name; None if there is none."""
        return slicer.modules.module(name)

    def factoryManager(self) -> ModuleManager:
        """Knows the names here, as the manager itself does."""
        return self

    def loadedModuleNames(self) -> list[str]:
        """Of all modules."""
        return slicer.modules.names()


class Settings:
    """QSettings without Qt."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def value(self, key: str, default: Any = None) -> Any:
        """The stored value."""
        return self._values.get(key, default)

    def setValue(self, key: str, value: Any) -> None:
        """Keep a value."""
        self._values[key] = value

    def contains(self, key: str) -> bool:
        """True if there is one."""
        return key in self._values

    def remove(self, key: str) -> None:
        """Forget it."""
        self._values.pop(key, None)

    def sync(self) -> None:
        """Nothing is kept outside the process."""


class Application(Signals):
    """`slicer.app` of a Slicer without a window."""

    signatures = ("startupCompleted()", "aboutToQuit()", "lastWindowClosed()", "mrmlSceneChanged(vtkMRMLScene*)")
    applicationName = "Slicer"
    applicationVersion = "5.12.4-testbench"
    majorVersion = 5
    minorVersion = 12
    revision = "testbench"
    documentationBaseUrl = "https://slicer.readthedocs.io/en/latest/"

    def __init__(self, logic: slicer.vtkSlicerApplicationLogic, folder: Path) -> None:
        super().__init__()
        self.temporaryPath = str(folder)
        self.slicerHome = str(folder)
        self.testing = False
        self.restarts = 0
        self._logic = logic
        self._module_manager = ModuleManager()
        self._files = NodeFiles()
        self._settings: Any = Settings()
        self._paused = 0

    def applicationLogic(self) -> slicer.vtkSlicerApplicationLogic:
        """Of the application."""
        return self._logic

    def mrmlScene(self) -> slicer.vtkMRMLScene:
        """The scene."""
        return slicer.mrmlScene

    def moduleManager(self) -> ModuleManager:
        """Stand-in for the module manager."""
        return self._module_manager

    def coreIOManager(self) -> NodeFiles:
        """Reads and writes nodes; `slicer.util.loadVolume` and its like use it."""
        return self._files

    def settings(self) -> Any:
        """QSettings of the user for this revision, which here are those of the user."""
        return self._settings

    userSettings = revisionUserSettings = settings

    def layoutManager(self) -> None:
        """There are no views."""

    def topLevelWidgets(self) -> list:
        """None without Qt."""
        return []

    def testingEnabled(self) -> bool:
        """True if Slicer was started with --testing."""
        return self.testing

    def processEvents(self) -> None:
        """There is no event loop without Qt."""

    def pauseRender(self) -> None:
        """Calls nest."""
        self._paused += 1

    def resumeRender(self) -> None:
        """Once for every `pauseRender`."""
        if not self._paused:
            logging.error("resumeRender without pauseRender")
        self._paused = max(0, self._paused - 1)

    def isRenderPaused(self) -> bool:
        """True if views are frozen."""
        return self._paused > 0

    def translate(self, context: str, text: str) -> str:
        """The testbench speaks English."""
        if not (isinstance(context, str) and isinstance(text, str)):
            raise TypeError("translate takes two strings")
        return text

    def moduleDocumentationUrl(self, name: str) -> str:
        """A page of the manual."""
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def restart(self) -> None:
        """Counted, not done."""
        self.restarts += 1
