"""A run that makes a colour volume of the network's features in a scan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from mass_core.errors import MassError
from mass_core.worker.client import Client
from mass_core.worker.protocol import error_of, failure

from ..scene import exchange as scene
from ..scene.colour_volume import add_colours
from ..scene.exports import Exports
from .order import Progress, Settings, host_of
from .worker_run import WorkerRun

_STAGES = {
    "send": (0.0, 0.3),
    "load": (0.0, 0.02),
    "read": (0.02, 0.04),
    "prepare": (0.04, 0.1),
    "sample": (0.1, 0.25),
    "features": (0.25, 0.95),
    "place": (0.95, 0.98),
    "write": (0.98, 1.0),
    "receive": (0.98, 1.0),
}
"""Begin and end of the worker's stages on the bar."""


class FeaturesRun(WorkerRun):
    """One press of the button.

    Args:
        client: to the worker.
        exports: files of volumes, kept from run to run.
        volume: the scan to look at.
        settings: weights, device and the fields of a recipe.
        log: gets the traceback of a defect of the program.
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
        super().__init__(client, log)
        self.explained: tuple[float, ...] = ()
        """Share of the features' variance in red, green and blue."""
        self.warnings: tuple[str, ...] = ()
        self.node: slicer.vtkMRMLVectorVolumeNode | None = None
        """The colours, once they are in the scene."""
        self._exports, self._settings = exports, settings
        self._volume_id, self._name = volume.GetID(), volume.GetName()
        self._progressed, self._finished = progressed, finished
        self._output: Path | None = None
        self._far = 0.0

    def start(self) -> None:
        """Begin; returns at once.

        Raises:
            MassError: if the volume cannot be used; nothing has begun then.
        """
        target = self._exports.volume(scene.volume_by_id(self._volume_id, self._name))
        self._output = self._exports.new(".nrrd")
        params = {**self._settings.params(), "target": str(target), "output": str(self._output)}
        self._progressed(Progress(self._name, 0.0, None))
        self.active = True
        self._call = self._client.request("features", params, progress=self._advance, done=self._done, failed=self._end)

    def _advance(self, stage: str, fraction: float, eta_s: float | None) -> None:
        begin, end = _STAGES.get(stage, (0.0, 1.0))
        done = self._far = max(self._far, begin + (end - begin) * fraction)  # without a transfer the first stage is another one
        text = _("Features of {name}: {percent:.0%}").format(name=self._name, percent=done)
        if stage == "send":
            text = _("Sending {name} to {host}: {percent:.0%}").format(name=self._name, host=host_of(self._client), percent=fraction)
        self._progressed(Progress(text, done, eta_s if stage in ("send", "features") else None))

    def _done(self, reply: dict[str, Any]) -> None:
        result = reply["result"]
        self.explained, self.warnings = tuple(result["explained"]), tuple(result["warnings"])
        try:
            self.node = add_colours(scene.volume_by_id(self._volume_id, self._name), Path(result["output"]))
            error = None
        except Exception as defect:  # noqa: BLE001  # reported like everything that goes wrong
            error = error_of(failure(defect))
        self._end(error)

    def _finish(self, error: MassError | None) -> None:
        self._output.unlink(missing_ok=True)
        self._finished(error)
