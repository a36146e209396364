"""The rows “Run on” of the section “Advanced”: this computer, or another one over ssh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from mass_core.errors import MassError
from mass_core.remote import hosts
from mass_core.remote.connection import Connection
from mass_core.worker.client import Call
from mass_core.worker.protocol import VERSION

from ..logic import MASSSlicerLogic
from .errors import errors_shown
from .items import fill

_HOST = "MASSSlicer/host"
_OTHER = "\n"
"""Data of the entry for another computer; not a valid name of one."""


class PlacePanel:
    """Chooses the computer that runs are done on, tries the connection, and asks before scans leave.

    Args:
        ui: the window's parts by name.
        logic: does the runs.
        moved: called when another computer was chosen.
    """

    def __init__(self, ui: object, logic: MASSSlicerLogic, moved: Callable[[], None]) -> None:
        self._ui, self._logic, self._moved = ui, logic, moved
        self._call: Call | None = None
        ui.placeCombo.connect("currentIndexChanged(int)", self._on_place)
        ui.hostCommandEdit.connect("editingFinished()", self._on_command)
        ui.testHostButton.connect("clicked()", self.test)
        ui.withdrawButton.connect("clicked()", self._withdraw)
        try:
            self._logic.run_on(slicer.app.userSettings().value(_HOST) or "")
        except MassError:  # what is kept is no name any more
            self._logic.run_on("")
        self._show_message("")
        self._show()

    def allowed(self) -> bool:
        """True if scans may go where runs are done; asks the user once for each other computer."""
        host, environment = self._logic.host, slicer.util.startupEnvironment()
        with errors_shown():
            if not host or hosts.host(host).may_receive(environment):
                return True
            if slicer.util.confirmOkCancelDisplay(hosts.question(host, environment), windowTitle=_("MASS")):
                hosts.agree(host, environment)
                self.update()
                return True
        return False

    def test(self) -> None:
        """Try the connection, without sending a scan; a second press stops the attempt."""
        if self._call is not None:
            self._logic.run_on(self._logic.host)
            self._over("")
            return
        host = self._logic.host

        def done(reply: dict[str, Any]) -> None:
            try:
                self._over(Connection.of(host, reply["result"]).text())
            except MassError as error:
                self._over(str(error))

        self._show_message(_("Connecting to {host}…").format(host=host))
        self._call = self._logic.engine.client.request(
            "hello", {"version": VERSION}, done=done, failed=lambda error: self._over(str(error))
        )
        self.update()

    def update(self) -> None:
        """Enable the controls that can be used."""
        ui, busy, elsewhere = self._ui, self._logic.busy, bool(self._logic.host)
        ui.placeCombo.enabled = not busy and self._call is None
        ui.testHostButton.enabled = elsewhere and not busy
        ui.testHostButton.text = _("Test connection") if self._call is None else _("Stop")
        ui.hostCommandEdit.enabled = elsewhere and ui.placeCombo.enabled
        ui.withdrawButton.enabled = elsewhere and self._agreed()
        if not ui.hostLabel.text:
            ui.hostLabel.visible = False

    def _agreed(self) -> bool:
        try:
            return bool(hosts.host(self._logic.host).agreed)
        except MassError:
            return False

    def _show(self) -> None:
        """This computer, those that are known, and one entry to add another."""
        chosen = self._logic.host
        try:
            known = hosts.known()
        except MassError as error:
            known = {}
            self._show_message(str(error))
        names = [(name, name) for name in sorted({*known, *filter(None, [chosen])})]
        fill(self._ui.placeCombo, [(_("this computer"), ""), *names, (_("another computer…"), _OTHER)], chosen)
        command = known[chosen].command if chosen in known else ""
        self._ui.hostCommandEdit.text = "" if command == hosts.Host(name="").command else command
        self.update()

    def _on_place(self, index: int) -> None:
        if index < 0:
            return
        chosen = self._ui.placeCombo.itemData(index)
        if chosen == _OTHER:
            text = _("ssh name of the other computer: what follows ssh in a terminal, such as gpu01 or me@gpu01")
            chosen = qt.QInputDialog.getText(slicer.util.mainWindow(), _("MASS"), text).strip() or self._logic.host
        self._go(chosen)

    def _go(self, host: str) -> None:
        """Do runs on a computer from now on, and remember it: the choice belongs to this computer, not to the scene."""
        with errors_shown():
            self._logic.run_on(host)
            slicer.app.userSettings().setValue(_HOST, host)
            self._show_message("")
        self._show()
        self._moved()

    def _on_command(self) -> None:
        """Keep how the worker is started there; the next run starts it so."""
        host, command = self._logic.host, self._ui.hostCommandEdit.text.strip() or hosts.Host(name="").command
        with errors_shown():
            if host and hosts.host(host).command != command:
                hosts.start_by(host, command)
                self._go(host)

    def _withdraw(self) -> None:
        host = self._logic.host
        with errors_shown():
            hosts.withdraw(host)
            self._logic.run_on(host)  # the worker there still has what was sent
            self._show_message(_("Scans are no longer sent to {host}; you are asked again before the next run.").format(host=host))
        self._moved()

    def _over(self, text: str) -> None:
        """The connection was tried."""
        self._call = None
        self._show_message(text)
        self.update()

    def _show_message(self, text: str) -> None:
        """Show a message below the rows; an empty one takes no room."""
        self._ui.hostLabel.text = text
        self._ui.hostLabel.visible = bool(text)
