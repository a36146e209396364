"""Top of the window: state of the packages, devices, and the button that installs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from mass_core.errors import Cancelled, MassError
from mass_core.worker.protocol import VERSION

from ..install import packages as install
from ..install.readiness import Readiness, read_probe
from ..logic import MASSSlicerLogic
from ..processes.json_process import child_process
from ..processes.python import python_slicer
from ..runs.order import place_of
from .errors import show_error


class StatusPanel:
    """Checks and installs packages, and shows their state and the devices.

    Args:
        ui: the window's parts by name.
        logic: for the worker's devices and log.
        changed: called when the packages were checked or the worker ended.
    """

    def __init__(self, ui: object, logic: MASSSlicerLogic, changed: Callable[[], None]) -> None:
        self._ui, self._logic, self._changed = ui, logic, changed
        self._probe: qt.QProcess | None = None
        self._devices: list[dict[str, Any]] = []
        self.readiness: Readiness | None = None
        self.devices_changed: Callable[[list[dict[str, Any]]], None] = lambda devices: None
        ui.installButton.connect("clicked()", lambda: self.check(then=self._ask))
        ui.logButton.connect("clicked()", self._show_log)
        ui.releaseButton.connect("clicked()", self._release)
        self._show()

    @property
    def ready(self) -> bool:
        """True if the packages work; until the check has run, an installed PyTorch counts as working."""
        if self.readiness is not None:
            return self.readiness.ready
        return install.torch_at_hand()

    def why_not(self) -> str:
        """Reason why nothing can be computed now; empty if it can."""
        if self._logic.segmenting:
            return _("Another run is in progress.")
        if self._logic.busy:
            return _("A model is being trained: see Finetune.")
        return "" if self._logic.host or self.ready else _("PyTorch is not installed yet: see Status, Install…")

    def enter(self) -> None:
        """Check the packages once, in a process of their own; nothing is installed."""
        if self.readiness is None and self._probe is None and not slicer.app.testingEnabled():
            self.check()

    def check(self, then: Callable[[], None] = lambda: None) -> None:
        """Import the packages in a process of their own, and show the result.

        Args:
            then: called afterwards.
        """
        try:
            program, *arguments = install.probe_command(python_slicer())
        except MassError as error:
            show_error(error)
            return
        output, errors = bytearray(), []

        def ended(code: int, reason: str) -> None:
            if self._probe is process:
                self._probe = None
                self._checked(read_probe(output.decode("utf-8", "replace"), code, reason or "".join(errors)))
                if not reason:
                    then()

        process = self._probe = child_process(ended, output.extend, errors.append)
        process.start(program, arguments)
        self._show()

    @property
    def gpu(self) -> bool:
        """True if the worker has reported a device other than the processor."""
        return any(device["name"] != "cpu" for device in self._devices)

    def device_name(self, wanted: str) -> str:
        """Name of the device used for a choice; automatic is the fastest one the worker reported."""
        name = self._devices[0]["name"] if wanted == "auto" and self._devices else wanted
        return place_of(name, self._logic.host)

    def show_devices(self, devices: list[dict[str, Any]]) -> None:
        """Show where runs are done, and the devices there; none: they are known when a worker has started."""
        self._devices = devices
        self.devices_changed(devices)
        self._show()

    def ask_devices(self) -> None:
        """Request the free memory of another computer, which others use as well."""
        client = self._logic.engine.client
        if self._logic.host and client.ready:
            client.request("hello", {"version": VERSION}, done=lambda reply: self.show_devices(reply["result"]["devices"]))

    def close(self) -> None:
        """Stop the check."""
        process, self._probe = self._probe, None
        if process is not None:
            process.kill()
            process.waitForFinished(2000)

    def _checked(self, readiness: Readiness) -> None:
        self.readiness = readiness
        self._logic.log += readiness.details.splitlines()
        install.confirm(readiness)
        self._show()
        self._changed()

    def _show(self) -> None:
        """Show the state of packages and devices."""
        found, host = self.readiness, self._logic.host
        if host:
            lines = [_("Runs on {host}, over ssh; nothing needs to be installed here.").format(host=host)]
        elif self._probe is not None:
            lines = [_("Checking the packages…")]
        elif found is not None:
            lines = [_("PyTorch {version}").format(version=found.torch) if found.torch else _("PyTorch is not installed.")]
            lines += [text for text in (found.broken, found.device_note) if text]
        elif self.ready:
            lines = [_("PyTorch is installed.")]
        else:
            lines = [_("PyTorch is not installed yet. Install… shows what it will do and asks first.")]
        if install.restart_pending():
            lines.append(_("Restart Slicer to finish the installation."))
        lines += [_device_line(device) for device in self._devices]
        if self._devices and not self.gpu:
            lines.append(_("No GPU is used: large scans take minutes."))
        self._ui.statusLabel.text = "\n".join(lines)

    def _ask(self) -> None:
        """Install what is missing or broken, if the user agrees."""
        chosen = install.plan(self.readiness)
        if chosen.obstacle:
            slicer.util.warningDisplay(chosen.obstacle, windowTitle=_("MASS"))
        elif not chosen.packages:
            slicer.util.infoDisplay(_("All required packages are installed."), windowTitle=_("MASS"))
        elif slicer.util.confirmOkCancelDisplay(_("Install into Slicer?") + "\n\n" + chosen.text(), windowTitle=_("MASS")):
            self._do(chosen)

    def _do(self, chosen: install.Plan) -> None:
        self._logic.close()
        try:
            with slicer.util.WaitCursor():
                restart = install.install(chosen, log=self._logic.log.append)
        except Cancelled:
            return
        except MassError as error:
            show_error(error)
            self.check()
            return
        if restart and slicer.util.confirmYesNoDisplay(
            _("Slicer must be restarted to use the new packages. Restart now?"), windowTitle=_("MASS")
        ):
            slicer.util.restart()
            return
        self.check()

    def _show_log(self) -> None:
        text = "\n".join(self._logic.log) or _("The log is empty.")
        slicer.util.infoDisplay(_("See “Show details” for the worker's log."), windowTitle=_("MASS"), detailedText=text)

    def _release(self) -> None:
        """End the worker and free its memory."""
        self._logic.close()
        self._devices = []
        self._show()
        self._changed()


def _device_line(device: dict[str, Any]) -> str:
    free = _(", {free:.1f} GB free").format(free=device["free"] / 1e9) if device.get("free") else ""
    return f"{device['name']}: {device.get('about') or _('processor')}{free}"
