"""Slice and 3D views without a window: Slicer's real displayable managers draw into pictures.

A view belongs to a host's scene. Rendering needs OpenGL; `why_not` tells what is missing.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from Testing.waiting import PATIENCE_S

from .host import Host

_ORIENTATIONS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}
_SLICE_MANAGERS = (
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
)
_THREE_D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
)


class SliceView:
    """One of Slicer's slice views, as a picture.

    Args:
        host: whose scene is shown.
        name: Red (axial), Yellow (sagittal) or Green (coronal).
        size: width and height in pixels.
    """

    def __init__(self, host: Host, name: str = "Red", size: tuple[int, int] = (300, 300)) -> None:
        self._window, renderer = _window(size)
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(self._mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        renderer.AddViewProp(actor)
        renderer.GetActiveCamera().ParallelProjectionOn()
        application = host.application_logic
        if application.GetSliceLogics() is None:
            application.SetSliceLogics(vtk.vtkCollection())
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(host.scene, True)
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application)
        application.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(host.scene)
        self.node = self.logic.AddSliceNode(name)
        self.node.SetOrientation(_ORIENTATIONS[name])
        self.logic.ResizeSliceNode(*size)
        self.node.SetDimensions(*size, 1)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        self._managers = _managers(factory, _SLICE_MANAGERS, application, renderer, self.node)

    def show(self, volume: slicer.vtkMRMLVolumeNode) -> None:
        """Put a volume in the background, all of it in sight."""
        self.logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
        self.logic.FitSliceToBackground()

    def jump(self, r: float, a: float, s: float) -> None:
        """Go to the slice through a point, in RAS mm."""
        self.node.JumpSlice(r, a, s)

    def picture(self) -> np.ndarray:
        """RGB [row, column, 3], uint8, the first row on top."""
        self.logic.UpdatePipeline()
        self._mapper.SetInputConnection(self.logic.GetImageDataConnection())
        return _drawn(self._window)


class ThreeDView:
    """Slicer's 3D view, as a picture.

    Args:
        host: whose scene is shown.
        size: width and height in pixels.
    """

    def __init__(self, host: Host, size: tuple[int, int] = (300, 300)) -> None:
        self._window, self._renderer = _window(size)
        application = host.application_logic
        if application.GetViewLogics() is None:
            application.SetViewLogics(vtk.vtkCollection())
        self.logic = slicer.vtkMRMLViewLogic()
        self.logic.SetMRMLApplicationLogic(application)
        application.GetViewLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(host.scene)
        self.node = self.logic.AddViewNode("1")
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        self._managers = _managers(factory, _THREE_D_MANAGERS, application, self._renderer, self.node)

    def picture(self) -> np.ndarray:
        """RGB [row, column, 3], uint8, with all surfaces in sight."""
        self._renderer.ResetCamera()
        return _drawn(self._window)


def chart(node: slicer.vtkMRMLPlotChartNode, size: tuple[int, int] = (300, 300)) -> np.ndarray:
    """A chart drawn by VTK's charts, on which Slicer's plot view builds too: RGB [row, column, 3], uint8.

    Title, axes, lines, colours and markers are those of the nodes; Slicer's widget itself is not part of slicer-core.
    """
    from vtkmodules import vtkRenderingContextOpenGL2  # noqa: F401  # draws in 2D
    from vtkmodules.vtkChartsCore import vtkAxis, vtkChart, vtkChartLegend, vtkChartXY
    from vtkmodules.vtkRenderingContext2D import vtkContextActor

    window, renderer = _window(size)
    renderer.SetBackground(1, 1, 1)
    drawn, actor = vtkChartXY(), vtkContextActor()
    actor.GetScene().AddItem(drawn)
    renderer.AddActor(actor)
    drawn.SetTitle(node.GetTitle())
    drawn.GetAxis(vtkAxis.BOTTOM).SetTitle(node.GetXAxisTitle())
    drawn.GetAxis(vtkAxis.LEFT).SetTitle(node.GetYAxisTitle())
    drawn.SetShowLegend(True)
    drawn.GetLegend().SetVerticalAlignment(vtkChartLegend.CENTER)
    for number in range(node.GetNumberOfPlotSeriesNodes()):
        series = node.GetNthPlotSeriesNode(number)
        line = drawn.AddPlot(vtkChart.LINE)
        line.SetInputData(series.GetTableNode().GetTable(), series.GetXColumnName(), series.GetYColumnName())
        line.SetColorF(*series.GetColor())
        line.SetWidth(series.GetLineWidth())
        line.SetMarkerStyle(series.GetMarkerStyle())
        line.SetLabel(series.GetYColumnName())
    return _drawn(window)


def save(picture: np.ndarray, path: Path) -> Path:
    """Write a picture as PNG."""
    from PIL import Image

    Image.fromarray(picture).save(path)
    return path


@functools.cache
def why_not() -> str:
    """The reason nothing can be drawn here; empty: it can. Tested in a child process, which a missing driver may end."""
    program = "import vtk; w = vtk.vtkRenderWindow(); w.SetOffScreenRendering(1); print(w.SupportsOpenGL())"
    tried = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if tried.returncode == 0 and tried.stdout.strip() == "1":
        return ""
    return f"VTK has no OpenGL here (on Debian: apt install libegl1 libgl1-mesa-dri): {tried.stderr.strip()[-200:]}"


def _window(size: tuple[int, int]) -> tuple[vtk.vtkRenderWindow, vtk.vtkRenderer]:
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(0)
    window.SetSize(*size)
    interactor = vtk.vtkRenderWindowInteractor()
    interactor.SetInteractorStyle(vtk.vtkInteractorStyleUser())
    interactor.SetRenderWindow(window)
    renderer = vtk.vtkRenderer()
    window.AddRenderer(renderer)
    return window, renderer


def _managers(
    factory: vtk.vtkObject, names: tuple[str, ...], application: vtk.vtkObject, renderer: vtk.vtkRenderer, node: vtk.vtkObject
) -> vtk.vtkObject:
    """The objects that draw nodes, for one view."""
    factory.SetMRMLApplicationLogic(application)
    for name in names:
        if hasattr(slicer, name) and not factory.IsDisplayableManagerRegistered(name):
            factory.RegisterDisplayableManager(name)
    group = factory.InstantiateDisplayableManagers(renderer)
    group.SetMRMLDisplayableNode(node)
    return group


def _drawn(window: vtk.vtkRenderWindow) -> np.ndarray:
    window.Render()
    reader = vtk.vtkWindowToImageFilter()
    reader.SetInput(window)
    reader.ReadFrontBufferOff()
    reader.SetInputBufferTypeToRGB()
    reader.Update()
    image = reader.GetOutput()
    width, height, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1].copy()
