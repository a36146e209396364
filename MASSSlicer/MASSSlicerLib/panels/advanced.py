"""Weights, device and the numbers of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from mass_core.errors import MassError
from mass_core.weights import store as weights_store

from ..install.packages import size
from ..library.weights import check_file, consent_text, listed
from ..logic import MASSSlicerLogic
from ..parameters import MASSSlicerParameterNode
from ..processes.downloading import Download
from .errors import errors_shown, show_error
from .items import fill
from .status import StatusPanel

_DEVICE = "MASSSlicer/device"


class AdvancedPanel:
    """The section “Advanced”.

    Args:
        ui: the window's parts by name.
        logic: for the computer the devices belong to.
        status: for the devices.
        changed: called when the weights changed.
    """

    def __init__(self, ui: object, logic: MASSSlicerLogic, status: StatusPanel, changed: Callable[[], None]) -> None:
        self._ui, self._logic, self._changed = ui, logic, changed
        self._parameters: MASSSlicerParameterNode | None = None
        self._download: Download | None = None
        status.devices_changed = self._show_devices
        self._own = (ui.windowSpin, ui.overlapSlider, ui.thresholdSlider, ui.partsCombo)
        ui.weightsCombo.connect("currentIndexChanged(int)", self._on_weights)
        ui.deviceCombo.connect("currentIndexChanged(int)", self._on_device)
        ui.browseWeightsButton.connect("clicked()", self._browse)
        ui.downloadButton.connect("clicked()", self._ask_download)
        ui.removeWeightsButton.connect("clicked()", self._ask_remove)
        self._show_devices([])

    @property
    def device(self) -> str:
        """Device to compute on, kept in Slicer's settings: it belongs to this computer, not to the scene."""
        return slicer.app.userSettings().value(self._device_key()) or "auto"

    def show(self, parameters: MASSSlicerParameterNode | None) -> None:
        """Show the weights of a scene."""
        self._parameters = parameters
        if parameters is not None:
            self._show_weights()

    def close(self) -> None:
        """Stop a download; the next one continues from there."""
        if self._download is not None:
            self._download.cancel()

    def update(self) -> None:
        """Enable the controls that can be used."""
        parameters = self._parameters
        own = parameters is not None and parameters.ownSettings
        for widget in self._own:
            widget.enabled = own
        if parameters is not None and self._ui.weightsCombo.currentData != parameters.weights:
            self._show_weights()
        chosen = self._chosen()
        self._ui.downloadButton.enabled = self._download is not None or any(weights.path is None for weights in listed())
        self._ui.downloadButton.text = _("Cancel download") if self._download is not None else _("Download…")
        self._ui.removeWeightsButton.enabled = chosen is not None and chosen.where == "downloaded"

    def use_file(self, path: Path) -> None:
        """Use weights from anywhere on this computer."""
        with errors_shown():
            check_file(path)
            self._parameters.weights = str(path)
            self._show_weights()
            self._changed()

    def _device_key(self) -> str:
        """Every computer has devices of its own."""
        host = self._logic.host
        return f"{_DEVICE}@{host}" if host else _DEVICE

    def _chosen(self) -> weights_store.Entry | None:
        """The weights in use, if they are known by name."""
        name = "" if self._parameters is None else self._parameters.weights
        return next((weights for weights in listed() if weights.name == name), None)

    def _show_weights(self) -> None:
        """Names of weights that are on this computer, and the file that was browsed to."""
        known = [(_("{name} ({where})").format(name=one.name, where=one.where), one.name) for one in listed() if one.path is not None]
        fill(self._ui.weightsCombo, known, self._parameters.weights)

    def _show_devices(self, devices: list[dict[str, Any]]) -> None:
        others = [(f"{device['name']} ({device.get('about', '')})", device["name"]) for device in devices if device["name"] != "cpu"]
        fill(self._ui.deviceCombo, [(_("automatic"), "auto"), (_("processor"), "cpu"), *others], self.device)

    def _on_weights(self, index: int) -> None:
        if self._parameters is not None and index >= 0:
            self._parameters.weights = self._ui.weightsCombo.itemData(index)
            self._changed()

    def _on_device(self, index: int) -> None:
        if index >= 0:
            slicer.app.userSettings().setValue(self._device_key(), self._ui.deviceCombo.itemData(index))

    def _browse(self) -> None:
        path = qt.QFileDialog.getOpenFileName(
            slicer.util.mainWindow(), _("Weights"), str(weights_store.folder()), "Weights (*.safetensors *.pth)"
        )
        if path:
            self.use_file(Path(path))

    def _ask_download(self) -> None:
        """Download after consent; a second press stops it."""
        if self._download is not None:
            self._download.cancel()
            return
        offer = next(weights for weights in listed() if weights.path is None)
        if not slicer.util.confirmOkCancelDisplay(consent_text(offer), windowTitle=_("MASS")):
            return
        with errors_shown():
            self._download = Download(offer.name, progress=self._on_download, finished=self._downloaded)
            self._download.start()
        self._changed()

    def _on_download(self, fraction: float) -> None:
        self._ui.downloadButton.text = _("Cancel ({percent:.0%})").format(percent=fraction)

    def _downloaded(self, error: MassError | None) -> None:
        name = self._download.name
        self._download = None
        if error is not None:
            show_error(error)
        elif self._parameters is not None and any(weights.name == name and weights.path for weights in listed()):
            self._parameters.weights = name
            self._show_weights()
        self._changed()

    def _ask_remove(self) -> None:
        chosen = self._chosen()
        question = _("Delete {file} ({size}) from this computer?").format(file=chosen.path, size=size(chosen.path.stat().st_size))
        if slicer.util.confirmYesNoDisplay(question, windowTitle=_("MASS")):
            with errors_shown():
                weights_store.remove(chosen.name)
            self._parameters.weights = "small"
            self._show_weights()
            self._changed()
