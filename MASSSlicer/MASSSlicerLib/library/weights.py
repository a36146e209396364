"""Weights as the window lists them, and the terms of a download.

Downloads lie in the user's own folder (`mass_core.weights.store`), so they outlive updates of Slicer and of the extension.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from slicer.i18n import tr as _

from mass_core.errors import WeightsError
from mass_core.weights import store as weights_store
from mass_core.weights.store import REMOTE, Entry

from . import models

DOWNLOAD_SIZE = {"mass_base": "0.5 to 1 GB"}
"""Estimated from 120 million parameters, with or without averaged weights; the server gives the exact size when the download begins."""


def listed() -> list[Entry]:
    """All weights of our network known by name: bundled, downloaded, finetuned, or available for download."""
    ours = [entry for entry in weights_store.entries() if entry.name not in REMOTE or REMOTE[entry.name].use == "segment"]
    return [replace(entry, where="finetuned") if entry.path and models.classes_of(entry.path) else entry for entry in ours]


def check_file(path: Path) -> None:
    """Check that a file the user chose can be a weights file. Damage shows only in its first run.

    Raises:
        WeightsError: if it cannot.
    """
    if not path.is_file():
        raise WeightsError(_("{path} is not a file.").format(path=path), _("Choose a weights file."))
    if path.suffix not in weights_store.SUFFIXES:
        suffixes = ", ".join(weights_store.SUFFIXES)
        raise WeightsError(
            _("{path} is not a weights file.").format(path=path), _("Choose one that ends in {these}.").format(these=suffixes)
        )


def consent_text(entry: Entry) -> str:
    """The question before a download: size, server, licence and folder."""
    remote = REMOTE[entry.name]
    return _("{name}: {about}\n\nDownload {size} from {host} to {folder}?\nLicence: {licence}. Nothing is uploaded.").format(
        name=entry.name,
        about=entry.about,
        size=DOWNLOAD_SIZE.get(entry.name, _("an unknown amount")),
        host=urlsplit(remote.url).hostname,
        folder=weights_store.folder(),
        licence=remote.licence,
    )
