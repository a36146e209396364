"""The button that shows the network's features in a scan as colours over it."""

from __future__ import annotations

from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

from mass_core.errors import MassError

from ..runs.features import FeaturesRun
from ..scene.colour_volume import show_over


class FeaturesPanel:
    """The button “Show features”.

    Args:
        ui: the window's parts by name.
        chosen: returns the volume to show features of; None: there is none.
        begin: starts a run for a volume, if the user agrees; called with it and with what is to be called at its end.
        ended: called with a sentence about a run that is over, and its error or None.
    """

    def __init__(
        self,
        ui: object,
        chosen: Callable[[], slicer.vtkMRMLScalarVolumeNode | None],
        begin: Callable[..., FeaturesRun | None],
        ended: Callable[[str, MassError | None], None],
    ) -> None:
        self._button, self._chosen, self._begin, self._ended = ui.featuresButton, chosen, begin, ended
        self._run: FeaturesRun | None = None
        self._button.connect("clicked()", self.start)

    def update(self, reason: str) -> None:
        """Enable the button, unless a reason is given why nothing can be computed now."""
        volume = self._chosen()
        if not reason and volume is None:
            reason = _("Select a loaded volume among the targets, or tick it.")
        self._button.enabled = not reason
        self._button.toolTip = reason or _("Show the network's features in “{name}” as colours over it").format(name=volume.GetName())

    def start(self) -> None:
        """Start a run for the chosen volume."""
        volume = self._chosen()
        self._run = self._begin(volume, lambda error: self._over(volume, error))

    def _over(self, volume: slicer.vtkMRMLScalarVolumeNode, error: MassError | None) -> None:
        run, text = self._run, ""
        if run.node is not None:
            show_over(volume, run.node)
            shares = ", ".join(f"{share:.0%}" for share in run.explained)
            text = _("Features of “{name}”: red, green and blue show {shares} of their variance.").format(
                name=volume.GetName(), shares=shares
            )
        self._ended(" ".join([text, *run.warnings]).strip(), error)
