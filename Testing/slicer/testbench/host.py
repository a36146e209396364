"""Slicer without a window: slicer-core's real scene and logics under the names that modules expect."""

from __future__ import annotations

import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import slicer
import vtk

from . import parameter_node, scripted
from .application import Application, Module, Modules
from .dialogs import Dialogs
from .dicom import DICOMDatabase

REPOSITORY = Path(__file__).resolve().parents[3]
MODULE_FOLDER = REPOSITORY / "MASSSlicer"

# The order counts: volumes ask the colours for their table. Terminologies are left out: their files are not part of slicer-core.
_LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "Units": "vtkSlicerUnitsLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "SegmentEditor": "vtkSlicerSegmentEditorLogic",
    "Models": "vtkSlicerModelsLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Texts": "vtkSlicerTextsLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Sequences": "vtkSlicerSequencesLogic",
}
_OURS = ("MASSSlicer", "MASSSlicerLib")


class Host:
    """A fresh scene with its logics; `import slicer` finds them until `close`.

    Args:
        folder: of temporary files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dialogs = Dialogs()
        self.selected_modules: list[str] = []
        self.errors: list[BaseException] = []
        """What was raised in slots and observers, where nobody could catch it; a test that expects one clears the list."""
        self.vtk_errors: list[str] = []
        """What Slicer's C++ code reported as errors; kept for tests to look at."""
        self._undo: list[Callable[[], None]] = []
        with _silent():
            self.scene = _scene(folder)
            self.application_logic = _application_logic(self.scene, folder)
            self._logics = _logics(self.scene, self.application_logic)
        self.application = self._application()
        self._install()

    @property
    def shown(self) -> list[tuple[str, str]]:
        """(kind, text) of all messages and questions so far."""
        return self.dialogs.shown

    def answer(self, kind: str, *answers: Any) -> None:
        """See `Dialogs.answer`."""
        self.dialogs.answer(kind, *answers)

    def open_dicom(self) -> DICOMDatabase:
        """The user opens the module DICOM: only then is there a `slicer.dicomDatabase`."""
        self._name(slicer, "dicomDatabase", DICOMDatabase())
        return slicer.dicomDatabase

    def raise_errors(self) -> None:
        """Raise what was raised in slots and observers since the last call."""
        errors, self.errors[:] = list(self.errors), []
        if errors:
            raise AssertionError(f"unhandled: {errors[0]!r}" + (f" and {len(errors) - 1} more" if errors[1:] else "")) from errors[0]

    def close(self) -> None:
        """Take everything away again: names, modules, scene.

        Raises:
            AssertionError: if something failed unseen in a slot or observer.
        """
        self.application.send("aboutToQuit()")
        for undo in reversed(self._undo):
            undo()
        _forget_modules()
        self.scene.Clear(1)
        with _silent():
            for logic in [*self._logics.values(), self.application_logic]:
                logic.SetMRMLScene(None)
        self.raise_errors()

    def _application(self) -> Application:
        return Application(self.application_logic, self.folder)

    def _install(self) -> None:
        """Put the names in place; `close` restores what was there."""
        modules = Modules()
        for name, logic in self._logics.items():
            setattr(modules, name.lower(), Module(name, logic))
        self._name(slicer, "app", self.application)
        self._name(slicer, "mrmlScene", self.scene)
        self._name(slicer, "modules", modules)
        self._name(slicer, "moduleNames", types.SimpleNamespace(**{name: name for name in modules.names()}))
        self._name(slicer, "selfTests", {})
        for module in (*scripted.modules(), parameter_node.module()):
            self._module(module.__name__, module)
            if module.__name__.startswith("slicer."):
                self._name(slicer, module.__name__.removeprefix("slicer."), module)
        for name, function in self.dialogs.util_functions(slicer.util).items():
            self._name(slicer.util, name, function)
        self._name(slicer.util, "selectModule", lambda module: self.selected_modules.append(getattr(module, "name", module)))
        self._path(str(MODULE_FOLDER))
        self._name(sys, "excepthook", self._on_exception)
        self._listen_to_vtk()

    def _listen_to_vtk(self) -> None:
        output = vtk.vtkOutputWindow.GetInstance()

        @vtk.calldata_type(vtk.VTK_STRING)
        def note(caller: Any, event: str, text: str) -> None:
            self.vtk_errors.append(text)
            print(text, file=sys.stderr)

        tag = output.AddObserver("ErrorEvent", note)
        self._undo.append(lambda: output.RemoveObserver(tag))

    def _on_exception(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        self.errors.append(error)
        traceback.print_exception(kind, error, trace)

    def _name(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute until `close`."""
        had = name in vars(owner)
        before = vars(owner).get(name)
        setattr(owner, name, value)
        self._undo.append(lambda: setattr(owner, name, before) if had else delattr(owner, name))

    def _module(self, name: str, module: types.ModuleType) -> None:
        """Make a module importable until `close`."""
        before = sys.modules.get(name)
        sys.modules[name] = module
        self._undo.append(lambda: sys.modules.__setitem__(name, before) if before is not None else sys.modules.pop(name))

    def _path(self, folder: str) -> None:
        sys.path.insert(0, folder)
        self._undo.append(lambda: sys.path.remove(folder))


@contextmanager
def _silent() -> Iterator[None]:
    """Without the complaints about files that Slicer installs and slicer-core does not have."""
    before = vtk.vtkObject.GetGlobalWarningDisplay()
    vtk.vtkObject.SetGlobalWarningDisplay(0)
    try:
        yield
    finally:
        vtk.vtkObject.SetGlobalWarningDisplay(before)


def _scene(folder: Path) -> slicer.vtkMRMLScene:
    """A scene that can read and write its bundles."""
    scene = slicer.vtkMRMLScene()
    cache = slicer.vtkCacheManager()
    cache_folder = folder / "cache"
    cache_folder.mkdir(parents=True, exist_ok=True)
    cache.SetRemoteCacheDirectory(str(cache_folder))
    io = slicer.vtkDataIOManager()
    io.SetCacheManager(cache)
    scene.SetCacheManager(cache)
    scene.SetDataIOManager(io)
    return scene


def _application_logic(scene: slicer.vtkMRMLScene, folder: Path) -> slicer.vtkSlicerApplicationLogic:
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetTemporaryPath(str(folder))
    logic.SetMRMLScene(scene)
    return logic


def _logics(scene: slicer.vtkMRMLScene, application: slicer.vtkSlicerApplicationLogic) -> dict[str, Any]:
    """The modules' logics, known to each other."""
    found = {}
    for name, class_name in _LOGICS.items():
        logic = getattr(slicer, class_name)()
        application.SetModuleLogic(name, logic)
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        found[name] = logic
    return found


def _forget_modules() -> None:
    """The next import of the module under test starts anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
        del sys.modules[name]


def observers(thing: vtk.vtkObject) -> int:
    """Number of observers of an object, for tests that nothing is left behind."""
    printed = str(thing)
    return printed.count("vtkObserver (")
