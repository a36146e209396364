"""MASSSlicer: outline one structure in one scan, find it in other scans (3D Slicer scripted module)."""

import sys

import slicer
from MASSSlicerLib.logic import MASSSlicerLogic
from MASSSlicerLib.panels.window import Window
from MASSSlicerLib.sample_data import register_sample_data
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest, ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

__all__ = ["MASSSlicer", "MASSSlicerLogic", "MASSSlicerTest", "MASSSlicerWidget"]


class MASSSlicer(ScriptedLoadableModule):
    """The module as Slicer lists it."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("MASS In-Context Segmentation")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["The MASSSlicer developers"]
        parent.helpText = _(
            "Outline a structure in one scan, or a few; the pretrained MASS model then segments it in other scans,"
            " without training. Nothing leaves this computer, unless you choose another one to run on and agree."
            ' See the <a href="https://github.com/OWNER/SlicerMASS/blob/main/docs/slicer.md">tutorial</a>.'
        )
        parent.acknowledgementText = _(
            "The method is mask-guided self-supervised learning (MASS), CVPR 2026; the released weights are StanfordAIMI/MASS on"
            " Hugging Face."
            " Please cite the paper when you publish results (CITATION.cff)."
            " Not a medical device: results must be checked by an expert."
        )
        slicer.app.connect("startupCompleted()", register_sample_data)


class MASSSlicerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The window; its parts are in MASSSlicerLib."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = self.window = self.form = None

    def setup(self):
        """Build the window, when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = MASSSlicerLogic()
        self.form = slicer.util.loadUI(self.resourcePath("UI/MASSSlicer.ui"))
        self.layout.addWidget(self.form)
        self.ui = slicer.util.childWidgetVariables(self.form)
        self.form.setMRMLScene(slicer.mrmlScene)
        self.window = Window(self.ui, self.logic)
        scene, events = slicer.mrmlScene, slicer.vtkMRMLScene
        self.addObserver(scene, events.StartCloseEvent, lambda caller, event: self.window.on_scene_start_close())
        self.addObserver(scene, events.EndImportEvent, lambda caller, event: self.window.on_scene_imported())
        for event in (events.EndCloseEvent, events.EndBatchProcessEvent, events.NodeAddedEvent, events.NodeRemovedEvent):
            self.addObserver(scene, event, lambda caller, event: self.window.on_scene_changed())
        slicer.app.connect("aboutToQuit()", self.logic.close)

    def enter(self):
        """Called when this module is opened."""
        self.window.enter()

    def exit(self):
        """Called when another module is opened."""
        self.window.exit()

    def cleanup(self):
        """Called at reload and when Slicer quits."""
        slicer.app.disconnect("aboutToQuit()", self.logic.close)
        self.removeObservers()
        self.window.close()
        self.form.setMRMLScene(None)
        self.logic.close()

    def onReload(self):
        """Reload the module with its library and show the new window, which Slicer builds without entering it."""
        for name in [name for name in sys.modules if name.split(".")[0] in ("MASSSlicerLib", "mass_core")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)
        slicer.modules.MASSSlicerWidget.enter()


class MASSSlicerTest(ScriptedLoadableModuleTest):
    """The self test: also the button Reload and Test of Slicer's developer mode."""

    def runTest(self):
        """Segment a phantom after another one, through the logic, as a user's script would."""
        from MASSSlicerLib.selftest import run_self_test

        self.setUp()
        run_self_test(self)

    def setUp(self):
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()
