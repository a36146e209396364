"""What the network sees in a volume, as colours over it in the slice views: the worker's errand, and the button."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from mass_core.errors import InputError, MassError, MemoryShort
from mass_core.worker.client import Call, Client
from mass_core.worker.protocol import error_of, failure

from ..scene import exchange as scene
from ..scene import grids, node_files
from ..scene.exports import Exports
from .order import Progress, Settings

_STAGES = {
    "load": (0.0, 0.02),
    "read": (0.02, 0.04),
    "prepare": (0.04, 0.1),
    "sample": (0.1, 0.25),
    "features": (0.25, 0.95),
    "place": (0.95, 0.98),
    "write": (0.98, 1.0),
}
"""Where a stage of the worker begins and ends within the bar."""
_OPACITY = 0.5


class FeaturesRun:
    """One press of the button.

    Args:
        client: to the worker.
        exports: files of volumes, kept from run to run.
        volume: the scan to look at.
        settings: weights, device and the fields of a recipe.
        log: gets the traceback of what is the program's own fault.
        progressed: called with a `Progress`.
        finished: called once, with the error or None; `node` is there if all went well.
    """

    def __init__(
        self,
        client: Client,
        exports: Exports,
        volume: slicer.vtkMRMLScalarVolumeNode,
        *,
        settings: Settings,
        log: Callable[[str], None] = lambda text: None,
        progressed: Callable[[Progress], None] = lambda progress: None,
        finished: Callable[[MassError | None], None] = lambda error: None,
    ) -> None:
        self.active = False
        self.flat: list[str] = []
        """No segmentation is made; see `segmentation.Run`."""
        self.memory_short = False
        self.explained: tuple[float, ...] = ()
        """Share of the features' variance in red, green and blue."""
        self.warnings: tuple[str, ...] = ()
        self.node: slicer.vtkMRMLVectorVolumeNode | None = None
        """The colours, once they are in the scene."""
        self._client, self._exports, self._settings = client, exports, settings
        self._volume_id, self._name = volume.GetID(), volume.GetName()
        self._log, self._progressed, self._finished = log, progressed, finished
        self._call: Call | None = None
        self._output: Path | None = None

    def start(self) -> None:
        """Begin; returns at once.

        Raises:
            MassError: if the volume cannot be used; nothing has begun then.
        """
        target = self._exports.volume(self._volume())
        self._output = self._exports.new(".nrrd")
        params = {**self._settings.params(), "target": str(target), "output": str(self._output)}
        self._progressed(Progress(self._name, 0.0, None))
        self.active = True
        self._call = self._client.request("features", params, progress=self._advance, done=self._done, failed=self._end)

    def cancel(self) -> None:
        """Stop; the scene is as it was."""
        call, self._call = self._call, None
        self._end(None)
        if call is not None:
            call.cancel()

    def _advance(self, stage: str, fraction: float, eta_s: float | None) -> None:
        begin, end = _STAGES.get(stage, (0.0, 1.0))
        done = begin + (end - begin) * fraction
        text = _("What the network sees in {name}: {percent:.0%}").format(name=self._name, percent=done)
        self._progressed(Progress(text, done, eta_s if stage == "features" else None))

    def _done(self, reply: dict[str, Any]) -> None:
        self._call = None
        result = reply["result"]
        self.explained, self.warnings = tuple(result["explained"]), tuple(result["warnings"])
        try:
            self.node = add_colours(self._volume(), Path(result["output"]))
            error = None
        except Exception as defect:  # noqa: BLE001  # told like everything that goes wrong
            error = error_of(failure(defect))
        self._end(error)

    def _volume(self) -> slicer.vtkMRMLScalarVolumeNode:
        volume = slicer.mrmlScene.GetNodeByID(self._volume_id)
        if volume is None:
            raise InputError(_("The volume “{name}” was removed.").format(name=self._name), _("Load it again to look inside."))
        return volume

    def _end(self, error: MassError | None) -> None:
        if not self.active:
            return
        self.active = False
        if self._output is not None:
            self._output.unlink(missing_ok=True)
        self.memory_short = isinstance(error, MemoryShort)
        if details := getattr(error, "details", ""):
            self._log(details)
        self._finished(error)


def add_colours(volume: slicer.vtkMRMLScalarVolumeNode, path: Path) -> slicer.vtkMRMLVectorVolumeNode:
    """Add a colour volume of the worker to the scene, voxel for voxel in the place of the scan it was made from, transform included.

    Raises:
        InputError: if the file cannot be read.
        GeometryError: if it is not of the scan's grid: the volume was changed meanwhile.
    """
    read = node_files.read(path, slicer.vtkMRMLVectorVolumeNode())
    scene.start_in(volume, read)
    name = slicer.mrmlScene.GenerateUniqueName(_("{name} features").format(name=volume.GetName()))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", name)
    node.SetAndObserveImageData(read.GetImageData())
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(grids.ijk_to_ras(volume)))
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    scene.put_beside(node, volume)
    return node


def show_over(volume: slicer.vtkMRMLScalarVolumeNode, colours: slicer.vtkMRMLVectorVolumeNode) -> None:
    """Colours over their scan in all slice views, half transparent."""
    slicer.util.setSliceViewerLayers(background=volume, foreground=colours, foregroundOpacity=_OPACITY, fit=True)


class FeaturesPanel:
    """The button.

    Args:
        ui: the window's parts by name.
        chosen: tells the volume to look at; None: there is none.
        begin: starts a run for a volume; called with it and with what is to be called at its end.
        ended: called with a sentence about a run that is over, and its error or None.
        failed: shows an error.
    """

    def __init__(
        self,
        ui: object,
        chosen: Callable[[], slicer.vtkMRMLScalarVolumeNode | None],
        begin: Callable[..., FeaturesRun],
        ended: Callable[[str, MassError | None], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._button = ui.featuresButton
        self._chosen, self._begin, self._ended, self._failed = chosen, begin, ended, failed
        self._run: FeaturesRun | None = None
        self._button.connect("clicked()", self.look)

    def update(self, reason: str) -> None:
        """Whether it can be pressed; the reason says why nothing can be computed now, or is empty."""
        volume = self._chosen()
        if not reason and volume is None:
            reason = _("Select a loaded volume among the targets, or tick it.")
        self._button.enabled = not reason
        self._button.toolTip = reason or _("Shows what the network tells apart in “{name}”, as colours over it").format(
            name=volume.GetName()
        )

    def look(self) -> None:
        """Begin with the chosen volume."""
        volume = self._chosen()
        try:
            self._run = self._begin(volume, lambda error: self._over(volume, error))
        except MassError as error:
            self._failed(error)

    def _over(self, volume: slicer.vtkMRMLScalarVolumeNode, error: MassError | None) -> None:
        run, text = self._run, ""
        if run.node is not None:
            show_over(volume, run.node)
            shares = ", ".join(f"{share:.0%}" for share in run.explained)
            text = _("Features of “{name}”: {shares} of their variance in red, green and blue.").format(
                name=volume.GetName(), shares=shares
            )
        self._ended(" ".join([text, *run.warnings]).strip(), error)
