"""Loss and validation Dice of a finetuning run as a chart of Slicer's, and the layout that shows it."""

from __future__ import annotations

from collections.abc import Mapping

import slicer
import vtk
from slicer.i18n import tr as _

_EPOCH, _LOSS, _DICE = _("epoch"), _("loss"), _("validation Dice")
_COLORS = {_LOSS: (0.85, 0.33, 0.10), _DICE: (0.0, 0.45, 0.74)}


class Curves:
    """Loss and validation Dice by epoch, averaged within an epoch.

    The nodes are made when there is something to show, and anew after the scene was closed.

    Args:
        name: of the model.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._points: dict[str, dict[float, list[float]]] = {_LOSS: {}, _DICE: {}}
        self._ids: dict[str, str] = {}
        """Of tables and series by what they show, and of the chart."""
        self._layout: int | None = None
        """The user's layout before the chart was shown."""

    @property
    def empty(self) -> bool:
        """True if there is nothing to show yet."""
        return not any(self._points.values())

    @property
    def epoch(self) -> float:
        """The latest epoch."""
        return max((epoch for points in self._points.values() for epoch in points), default=0.0)

    @property
    def shown(self) -> bool:
        """True while the chart is in the layout."""
        return self._layout is not None

    def add(self, values: Mapping[str, float]) -> None:
        """Add the values of a training step or a validation."""
        for kind, name in ((_LOSS, "loss"), (_DICE, "val_dice")):
            if name in values and "epoch" in values:
                self._points[kind].setdefault(float(values["epoch"]), []).append(values[name])
                self._draw(kind)

    def show(self) -> None:
        """Put the chart into the layout beside what is there."""
        layout = _layout_node()
        if layout is None or self.empty:
            return
        if self._layout is None:
            self._layout = layout.GetViewArrangement()
        slicer.modules.plots.logic().ShowChartInLayout(self.chart())

    def hide(self) -> None:
        """Restore the user's layout, unless another one was chosen meanwhile."""
        before, self._layout = self._layout, None
        layout = _layout_node()
        if before is None or layout is None:
            return
        if layout.GetViewArrangement() == slicer.modules.plots.logic().GetLayoutWithPlot(before):
            layout.SetViewArrangement(before)

    def _draw(self, kind: str) -> None:
        """Update a curve. Each has its own table, because the loss is reported more often than Dice."""
        points = self._points[kind]
        columns = (_EPOCH, list(points)), (kind, [sum(values) / len(values) for values in points.values()])
        node = self._node("vtkMRMLTableNode", kind)
        table = vtk.vtkTable()
        for name, values in columns:
            array = vtk.vtkDoubleArray()
            array.SetName(name)
            for value in values:
                array.InsertNextValue(value)
            table.AddColumn(array)
        node.SetAndObserveTable(table)
        self._connect(kind, node)
        self.chart().Modified()  # else a chart that is shown may stay as it is

    def _connect(self, kind: str, table: slicer.vtkMRMLTableNode) -> None:
        """Show a table as a curve of the chart."""
        series = self._node("vtkMRMLPlotSeriesNode", kind)
        if series.GetTableNodeID() != table.GetID():
            series.SetAndObserveTableNodeID(table.GetID())
            series.SetXColumnName(_EPOCH)
            series.SetYColumnName(kind)
            series.SetPlotType(series.PlotTypeScatter)
            series.SetMarkerStyle(series.MarkerStyleCircle)
            series.SetColor(*_COLORS[kind])
            self.chart().AddAndObservePlotSeriesNodeID(series.GetID())

    def chart(self) -> slicer.vtkMRMLPlotChartNode:
        """Both curves together."""
        chart = self._node("vtkMRMLPlotChartNode", _("finetuning"))
        if not chart.GetTitle():
            chart.SetTitle(self._name)
            chart.SetXAxisTitle(_EPOCH)
            chart.SetYAxisTitle(_("loss, Dice"))
        return chart

    def _node(self, kind: str, shows: str) -> slicer.vtkMRMLNode:
        """A node, made if it is not there or no longer."""
        node = slicer.mrmlScene.GetNodeByID(self._ids.get(kind + shows, ""))
        name = f"{self._name} {shows}"
        if node is None or node.GetName() != name:  # of another scene
            node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
            self._ids[kind + shows] = node.GetID()
        return node


def _layout_node() -> slicer.vtkMRMLLayoutNode | None:
    """Slicer's layout; None without a main window."""
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
