"""The dialog that asks which DICOM series to segment."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

from ..scene.dicom import SCHEME, database, database_series
from .items import put


def choose_series() -> list[str]:
    """Ask which series to add; returns them in the form of `SCHEME`."""
    if database() is None:
        text = _("Slicer's DICOM database is not open yet. Open the DICOM module once, and import new patients there.")
        slicer.util.infoDisplay(text, windowTitle=_("MASS"))
        return []
    known = database_series()
    if not known:
        slicer.util.infoDisplay(_("The DICOM database has no CT, MR or PET series. Import patients in the DICOM module first."))
        return []
    dialog = qt.QDialog(slicer.util.mainWindow())
    dialog.windowTitle = _("Series to segment")
    layout = qt.QVBoxLayout(dialog)
    table = qt.QTableWidget(len(known), 4)
    table.setHorizontalHeaderLabels([_("Patient"), _("Study"), _("Series"), _("Kind")])
    for row, series in enumerate(known):
        kind = _("{kind}, {count} files").format(kind=series.modality, count=series.count)
        put(table, row, 0, series.patient, ticked=False)
        for column, text in enumerate((series.study, series.description, kind), 1):
            put(table, row, column, text)
    buttons = qt.QDialogButtonBox()  # a constructor of Qt would take joined flags, which are an int here, for an orientation
    buttons.setStandardButtons(qt.QDialogButtonBox.Ok | qt.QDialogButtonBox.Cancel)
    buttons.connect("accepted()", dialog.accept)
    buttons.connect("rejected()", dialog.reject)
    layout.addWidget(table)
    layout.addWidget(buttons)
    dialog.resize(700, 400)
    if not dialog.exec_():
        return []
    return [SCHEME + series.uid for row, series in enumerate(known) if table.item(row, 0).checkState() == qt.Qt.Checked]
