"""The testbench with windows: a module as shipped, Qt behaving as PythonQt, widgets bound to the scene."""

import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from Testing.waiting import wait_until

MODULE = """
import qt, slicer, vtk
from typing import Annotated
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import *
from slicer.util import VTKObservationMixin

@parameterNodeWrapper
class Parameters:
    volume: vtkMRMLScalarVolumeNode
    threshold: Annotated[float, WithinRange(0, 1)] = 0.25
    parts: Annotated[str, Choice(["all", "largest"])] = "largest"
    on: bool = True

class Small(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Small")
        slicer.app.connect("startupCompleted()", lambda: setattr(slicer.modules, "smallStarted", True))

class SmallLogic(ScriptedLoadableModuleLogic):
    def getParameterNode(self):
        return Parameters(super().getParameterNode())

class SmallWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.calls = []

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        form = slicer.util.loadUI(self.resourcePath("UI/Small.ui"))
        self.layout.addWidget(form)
        self.ui = slicer.util.childWidgetVariables(form)
        form.setMRMLScene(slicer.mrmlScene)
        self.parameters = SmallLogic().getParameterNode()
        self.tag = self.parameters.connectGui(self.ui)
        self.ui.applyButton.connect("clicked(bool)", self.apply)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, lambda caller, event: self.calls.append("closed"))

    def apply(self):
        self.calls.append("apply")

    def enter(self):
        self.calls.append("enter")

    def exit(self):
        self.calls.append("exit")

    def cleanup(self):
        self.calls.append("cleanup")
        self.removeObservers()
        self.parameters.disconnectGui(self.tag)
"""


FORM = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Small</class>
<widget class="qMRMLWidget" name="Small"><layout class="QVBoxLayout" name="outer">
 <item><widget class="ctkCollapsibleButton" name="section"><property name="text"><string>Section</string></property>
  <property name="collapsed"><bool>false</bool></property>
  <layout class="QFormLayout" name="form">
   <item row="0" column="1"><widget class="qMRMLNodeComboBox" name="volumeSelector">
     <property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
     <property name="noneEnabled"><bool>true</bool></property>
     <property name="SlicerParameterName" stdset="0"><string>volume</string></property></widget></item>
   <item row="1" column="1"><widget class="ctkSliderWidget" name="thresholdSlider">
     <property name="SlicerParameterName" stdset="0"><string>threshold</string></property></widget></item>
   <item row="2" column="1"><widget class="QComboBox" name="partsCombo">
     <property name="SlicerParameterName" stdset="0"><string>parts</string></property></widget></item>
   <item row="3" column="1"><widget class="ctkCheckBox" name="onCheck">
     <property name="SlicerParameterName" stdset="0"><string>on</string></property></widget></item>
   <item row="4" column="1"><widget class="ctkPathLineEdit" name="folderEdit">
     <property name="filters"><set>ctkPathLineEdit::Dirs|ctkPathLineEdit::Writable</set></property></widget></item>
  </layout></widget></item>
 <item><widget class="QPushButton" name="applyButton"><property name="text"><string>Apply</string></property></widget></item>
</layout></widget>
<connections><connection><sender>Small</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
 <receiver>volumeSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections>
</ui>"""


@pytest.fixture
def small(tmp_path) -> Path:
    """A module of a few lines."""
    (tmp_path / "Resources/UI").mkdir(parents=True)
    (tmp_path / "Resources/UI/Small.ui").write_text(FORM)
    path = tmp_path / "Small.py"
    path.write_text(MODULE)
    return path


def test_a_module_runs_as_it_ships(bench, small):
    import slicer

    widget = bench.module(small)
    ui = widget.ui
    assert slicer.modules.smallStarted
    assert slicer.modules.small.title == "Small"
    assert widget.calls == ["enter"]
    assert ui.volumeSelector.mrmlScene() is slicer.mrmlScene
    assert ui.folderEdit.filters == 0x21
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
    ui.volumeSelector.setCurrentNode(volume)
    ui.thresholdSlider.value = 0.75
    ui.partsCombo.currentIndex = 0
    ui.onCheck.checked = False
    parameters = widget.parameters
    assert (parameters.volume, parameters.threshold, parameters.parts, parameters.on) == (volume, 0.75, "all", False)
    parameters.threshold, parameters.parts, parameters.volume = 0.5, "largest", None
    assert (ui.thresholdSlider.value, ui.partsCombo.currentText, ui.volumeSelector.currentNode()) == (0.5, "largest", None)
    ui.applyButton.click()
    slicer.mrmlScene.Clear(0)
    assert slicer.modules.small.widgetRepresentation().self() is widget
    assert slicer.util.getModuleWidget("Small") is widget
    bench.unload("Small")
    assert widget.calls == ["enter", "apply", "closed", "exit", "cleanup"]


def test_an_unknown_widget_or_connection_is_an_error(bench, small):
    form = small.parent / "Resources/UI/Small.ui"
    form.write_text(FORM.replace("ctkSliderWidget", "ctkSliderWidgget"))
    with pytest.raises(RuntimeError, match="ctkSliderWidgget"):
        bench.module(small)
    form.write_text(FORM.replace("<receiver>volumeSelector", "<receiver>volumeChooser"))
    with pytest.raises(RuntimeError, match="volumeChooser"):
        bench.module(small)
    form.write_text(FORM.replace(">on<", ">parts<").replace("QComboBox", "QLineEdit").replace(">volume<", ">on<"))
    with pytest.raises(RuntimeError, match="qMRMLNodeComboBox"):
        bench.module(small)


def test_qt_has_the_manners_of_pythonqt(bench):
    import qt

    button = qt.QPushButton("one")
    button.name, button.toolTip = "b", "tip"
    assert (button.text, button.objectName, button.toolTip, button.className()) == ("one", "b", "tip", "QPushButton")
    for wrong in (
        lambda: button.text(),
        lambda: setattr(button, "tooltip", "x"),
        lambda: setattr(button, "click", 1),
        lambda: setattr(button, "text", None),
        lambda: button.connect("click()", print),
        lambda: qt.QDialogButtonBox(qt.QDialogButtonBox.Ok | qt.QDialogButtonBox.Cancel),
    ):
        with pytest.raises((TypeError, AttributeError, ValueError)):
            wrong()
    heard = []
    none, some = lambda: heard.append("none"), lambda on=None: heard.append(on)  # noqa: E731
    button.connect("clicked(bool)", none)
    button.connect("clicked(bool)", some)
    button.click()
    button.disconnect("clicked(bool)", none)
    button.click()
    assert heard == ["none", False, False]
    assert qt.QProcess.NotRunning == 0
    assert qt.QSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Preferred)
    table = qt.QTableWidget(2, 1)
    table.setItem(0, 0, qt.QTableWidgetItem("cell"))
    assert (table.rowCount, table.item(0, 0).text()) == (2, "cell")


def test_a_process_talks_as_it_does_in_slicer(bench):
    import qt

    process, heard, ended = qt.QProcess(), [], []
    process.connect("readyReadStandardOutput()", lambda: heard.append(process.readAllStandardOutput().data()))
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: ended.append((code, status)))
    process.start(sys.executable, ["-c", "import sys; sys.stdout.write(sys.stdin.read().upper()); sys.exit(3)"])
    assert process.waitForStarted(20000)
    assert process.write("grüße") == 7
    process.closeWriteChannel()
    bench.wait_until(lambda: ended)
    assert b"".join(heard).decode() == "GRÜSSE"
    assert ended == [(3, 0)]


def test_settings_belong_to_the_test(bench):
    import qt
    import slicer

    slicer.app.userSettings().setValue("MASSSlicer/device", "cpu")
    assert qt.QSettings().value("MASSSlicer/device") == "cpu"
    slicer.app.userSettings().sync()
    assert Path(qt.QSettings().fileName()).is_relative_to(bench.folder)


def test_selector_follows_the_scene(bench):
    import slicer

    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    selector.noneEnabled = True
    selector.addEnabled = selector.removeEnabled = False
    changes = []
    selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: changes.append(node and node.GetName()))
    assert not selector.enabled
    selector.setMRMLScene(slicer.mrmlScene)
    volumes = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in "abc"]
    hidden = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hidden")
    hidden.SetHideFromEditors(True)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "text")
    assert (selector.enabled, selector.nodeCount(), selector.currentNode()) == (True, 3, None)
    selector.setCurrentNode(volumes[1])
    slicer.mrmlScene.RemoveNode(volumes[1])
    assert selector.currentNode() is volumes[2], "the selection falls to the next row, as in Slicer"
    slicer.mrmlScene.Clear(0)
    assert selector.currentNode() is None
    assert changes == ["b", "c", None]
    with pytest.raises(AttributeError):
        selector.setNodeTypes(["vtkMRMLTextNode"])


def test_selector_can_be_kept_from_taking_the_neighbour(bench):
    """It is told before the row goes, in a batch too."""
    import slicer

    for batch in (False, True):
        selector, changes, going = slicer.qMRMLNodeComboBox(), [], []
        selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        selector.noneEnabled = True
        selector.setMRMLScene(slicer.mrmlScene)
        volumes = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in "abc"]
        selector.setCurrentNode(volumes[0])
        selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node, to=changes: to.append(node and node.GetName()))
        slicer.mrmlScene.StartState(slicer.vtkMRMLScene.BatchProcessState) if batch else None
        slicer.mrmlScene.RemoveNode(volumes[0])
        selector.connect("nodeAboutToBeRemoved(vtkMRMLNode*)", going.append)
        selector.connect("nodeAboutToBeRemoved(vtkMRMLNode*)", lambda node, box=selector: box.setCurrentNode(None))
        slicer.mrmlScene.RemoveNode(volumes[1])
        slicer.mrmlScene.EndState(slicer.vtkMRMLScene.BatchProcessState) if batch else None
        assert (changes, going, selector.currentNode()) == (["b", None], [volumes[1]], None)
        slicer.mrmlScene.Clear(0)


def test_path_line_announces_what_can_be_a_path(bench):
    import ctk

    line, heard = ctk.ctkPathLineEdit(), []
    line.connect("currentPathChanged(QString)", heard.append)
    line.connect("validInputChanged(bool)", heard.append)
    line.currentPath = "/a"
    line.currentPath = "/b"
    line.currentPath = ""
    assert heard == ["/a", True, "/b", False], "nothing tells that the path is now empty"


def test_reload_is_slicers(bench, small):
    """The old form stays, hidden; the new one is set up and not entered."""
    old = bench.module(small)
    new = bench.reload("Small")
    assert old.calls == ["enter", "cleanup"] and new.calls == []
    assert not old.ui.applyButton.visible and new.ui.applyButton.visible


def test_undo_of_the_segment_editor_is_real(bench, ball):
    import slicer

    volume, segmentation, segment = ball
    editor = slicer.qMRMLSegmentEditorWidget()
    editor.setMRMLScene(slicer.mrmlScene)
    editor.setMaximumNumberOfUndoStates(5)
    with pytest.raises(RuntimeError, match="segment editor node"):
        editor.setSegmentationNode(segmentation)
    editor.setMRMLSegmentEditorNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    editor.setSegmentationNode(segmentation)
    editor.setSourceVolumeNode(volume)
    assert editor.currentSegmentID() == segment
    drawn = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, volume).copy()
    editor.saveStateForUndo()
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.zeros_like(drawn), segmentation, segment, volume)
    assert not slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, volume).any()
    editor.undo()
    assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment, volume), drawn)
    editor.setActiveEffectByName("Paint")
    assert editor.activeEffect().name == "Paint"
    editor.setActiveEffect(None)
    assert editor.activeEffect() is None


def test_qt_dialogs_are_answered(bench, tmp_path):
    import qt

    bench.answer("open file", tmp_path / "a.nii")
    bench.answer("text", "liver", None)
    bench.answer("question", False)
    assert qt.QFileDialog.getOpenFileName(None, "Open") == str(tmp_path / "a.nii")
    ok = qt.BoolResult()
    assert qt.QInputDialog.getText(None, "Task", "Name:", qt.QLineEdit.Normal, "", ok) == "liver"
    assert ok
    qt.QInputDialog.getText(None, "Task", "Name:", qt.QLineEdit.Normal, "", ok)
    assert not ok
    assert qt.QMessageBox.question(None, "t", "Delete?", qt.QMessageBox.Yes | qt.QMessageBox.No) == qt.QMessageBox.No
    qt.QDesktopServices.openUrl(qt.QUrl("https://example.org/"))
    dialog = qt.QDialog()
    dialog.windowTitle = "Series"
    bench.answer("dialog", lambda shown: shown.accept())
    assert dialog.exec_() == qt.QDialog.Accepted
    assert bench.shown == [
        ("open file", "Open"),
        ("text", "Name:"),
        ("text", "Name:"),
        ("question", "Delete?"),
        ("open", "https://example.org/"),
        ("dialog", "Series"),
    ]


def test_what_fails_in_a_slot_is_not_lost(bench):
    import qt

    qt.QTimer.singleShot(0, lambda: 1 / 0)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        bench.wait_until(lambda: False)


def test_waiting_ends(bench):
    with pytest.raises(AssertionError, match="a miracle"):
        bench.wait_until(lambda: False, seconds=0.05, what="a miracle")


def test_latency_sees_who_holds_up_the_event_loop(bench):
    """Until the watching thread has seen it, however long that takes."""
    import qt

    done = []
    with bench.latency() as latency:

        def hold_up():
            wait_until(lambda: latency.watched)
            done.append(1)

        qt.QTimer.singleShot(20, hold_up)
        bench.wait_until(lambda: done)
    assert latency.worst_ms > 0 and latency.where


def test_the_longest_hold_up_counts(monkeypatch):
    from Testing.slicer.testbench import latency

    now = [0.0]
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    found = latency.Latency()

    def hold_up(until):
        now[0] = until
        found.look(threading.get_ident())
        found.turn()

    def hold_up_longer(until):
        hold_up(until)

    hold_up(0.1)
    hold_up_longer(0.4)
    hold_up(0.5)
    assert found.worst_ms == pytest.approx(300) and "in hold_up_longer" in found.where


def test_widgets_leave_no_observer_behind(bench):
    import slicer

    from Testing.slicer.testbench.host import observers

    before = observers(slicer.mrmlScene)
    selector = slicer.qMRMLNodeComboBox()
    selector.setMRMLScene(slicer.mrmlScene)
    assert observers(slicer.mrmlScene) > before
    selector.setMRMLScene(None)
    assert observers(slicer.mrmlScene) == before


def test_pictures_of_widgets(bench, small, tmp_path):
    from PIL import Image

    bench.module(small)
    picture = np.asarray(Image.open(bench.picture(bench.panel("Small"), tmp_path / "small.png", width=300)).convert("L"))
    assert picture.shape[1] == 600
    assert len(np.unique(picture)) > 20, "something is drawn, with text"
