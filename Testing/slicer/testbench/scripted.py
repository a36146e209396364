"""`slicer.ScriptedLoadableModule`, `slicer.i18n` and `SampleData`."""

from __future__ import annotations

import importlib
import types
import unittest
from pathlib import Path
from typing import Any

import slicer


class ScriptedLoadableModule:
    """Metadata of a scripted module."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.moduleName = type(self).__name__
        parent.title = ""
        parent.categories = []
        parent.dependencies = []
        parent.contributors = []
        parent.helpText = ""
        parent.acknowledgementText = ""
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, filename: str) -> str:
        """A file among the module's resources."""
        return str(Path(self.parent.path).parent / "Resources" / filename)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        """For the end of the help text."""
        url = slicer.app.documentationBaseUrl + docPage if docPage else slicer.app.moduleDocumentationUrl(self.moduleName)
        return f'<p>For more information see the <a href="{url}">online documentation</a>.</p>'

    def runTest(self, msec: int = 100, **options: Any) -> None:
        """Run the class <module name>Test of the module's file."""
        case = getattr(importlib.import_module(self.__module__), self.moduleName + "Test")()
        case.messageDelay = msec
        case.runTest(**options)


class ScriptedLoadableModuleWidget:
    """The panel's contents."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        self.parent = parent if parent is not None else _panel()
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
            self.parent.show()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename: str) -> str:
        """A file among the module's resources."""
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / filename)

    def setup(self) -> None:
        """Build the widgets; the module's own extends it."""

    def cleanup(self) -> None:
        """Let go of everything; the module's own replaces it."""

    def onReload(self) -> None:
        """The developer's button."""
        slicer.util.reloadScriptedModule(self.moduleName)

    def _onModuleAboutToBeUnloaded(self, moduleName: str) -> None:
        if moduleName == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)


class ScriptedLoadableModuleLogic:
    """Work without a window."""

    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> slicer.vtkMRMLScriptedModuleNode:
        """The module's node of the scene, made when there is none."""
        node = self._singleton() if self.isSingletonParameterNode else next(iter(self.getAllParameterNodes()), None)
        return node if node is not None else slicer.mrmlScene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self) -> list[slicer.vtkMRMLScriptedModuleNode]:
        """All nodes of the module."""
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self) -> slicer.vtkMRMLScriptedModuleNode:
        """A node that is not in the scene yet."""
        node = slicer.vtkMRMLScriptedModuleNode()
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node

    def _singleton(self) -> slicer.vtkMRMLScriptedModuleNode | None:
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is not None:
            node.SetAttribute("ModuleName", self.moduleName)  # closing a scene takes it away
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """A module's own tests, which a person starts inside Slicer."""

    messageDelay = 0

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:
        """Tell where the test is."""
        slicer.util.delayDisplay(message, requestedDelay or self.messageDelay)

    def runTest(self) -> None:
        """The module's own replaces it."""


class SampleDataLogic:
    """The part of the module Sample Data that other modules call; what they offer is in `slicer.modules.sampleDataSources`."""

    @staticmethod
    def registerCustomSampleDataSource(  # noqa: PLR0917
        category: str = "Custom",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: str | None = None,
        loadFileTypes: Any = None,
        loadFiles: Any = None,
        loadFileProperties: dict[str, Any] = {},  # noqa: B006  # as Slicer's own
        checksums: Any = None,
        loadFileType: Any = None,
    ) -> None:
        """Offer data under a category."""
        source = types.SimpleNamespace(**locals())
        lists = [value for value in (uris, fileNames, nodeNames, checksums, loadFileTypes or loadFileType) if isinstance(value, list)]
        if len({len(value) for value in lists}) > 1:
            raise ValueError("all lists of a sample data source must be of the same length")
        if not hasattr(slicer.modules, "sampleDataSources"):
            slicer.modules.sampleDataSources = {}
        slicer.modules.sampleDataSources.setdefault(category, []).append(source)


def tr(text: str) -> str:
    """Translate, in the context of the calling file."""
    return slicer.app.translate("", text)


def translate(context: str, text: str) -> str:
    """Translate."""
    return slicer.app.translate(context, text)


def modules() -> tuple[types.ModuleType, ...]:
    """The modules by their full names."""
    loadable = types.ModuleType("slicer.ScriptedLoadableModule")
    names = (ScriptedLoadableModule, ScriptedLoadableModuleWidget, ScriptedLoadableModuleLogic, ScriptedLoadableModuleTest)
    loadable.__all__ = [kind.__name__ for kind in names]  # type: ignore[attr-defined]
    for kind in names:
        setattr(loadable, kind.__name__, kind)
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr, i18n.translate = tr, translate  # type: ignore[attr-defined]
    samples = types.ModuleType("SampleData")
    samples.SampleDataLogic = SampleDataLogic  # type: ignore[attr-defined]
    return loadable, i18n, samples


def _panel() -> Any:
    import qt

    panel = slicer.qMRMLWidget()
    panel.setLayout(qt.QVBoxLayout())
    panel.setMRMLScene(slicer.mrmlScene)
    return panel
