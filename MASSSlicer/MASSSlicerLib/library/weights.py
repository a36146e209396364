"""Weights as the window lists them, and the terms of a download.

Downloads lie in the user's own folder (`mass_core.weights.store`), so they outlive updates of Slicer and of the extension.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from slicer.i18n import tr as _

from mass_core.errors import WeightsError
from mass_core.weights import store as weights_store

from ..install.packages import size
from . import models

DOWNLOAD_SIZE = {"mass_base": "0.5 to 1 GB"}
"""Estimated from 120 million parameters, with or without averaged weights; the server gives the exact size when the download begins."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One network's weights."""

    name: str
    where: str
    """bundled, downloaded, finetuned, available (for download), or file."""
    path: Path | None
    size: str
    about: str = ""
    licence: str = ""
    """Empty: written in the file itself."""
    host: str = ""
    """Server of the download."""


def listed() -> list[Weights]:
    """All weights of our network known by name: bundled, downloaded, finetuned, available."""
    remote = weights_store.REMOTE
    return [_described(entry) for entry in weights_store.entries() if entry.name not in remote or remote[entry.name].use == "segment"]


def browsed(path: str | Path) -> Weights:
    """A file the user chose; it stays where it is.

    Raises:
        WeightsError: if it cannot be a weights file. Whether it is whole, its first run tells.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(_("{path} is not a file.").format(path=path), _("Choose a weights file."))
    if path.suffix not in weights_store.SUFFIXES:
        suffixes = ", ".join(weights_store.SUFFIXES)
        raise WeightsError(
            _("{path} is not a weights file.").format(path=path), _("Choose one that ends in {these}.").format(these=suffixes)
        )
    return Weights(name=path.stem, where="file", path=path, size=size(path.stat().st_size))


def consent_text(weights: Weights) -> str:
    """The question before a download: size, server, licence and folder."""
    return _("{name}: {about}\n\nDownload {size} from {host} to {folder}?\nLicence: {licence}. Nothing is uploaded.").format(
        name=weights.name,
        about=weights.about,
        size=weights.size,
        host=weights.host,
        folder=weights_store.folder(),
        licence=weights.licence,
    )


def _described(entry: weights_store.Entry) -> Weights:
    remote = weights_store.REMOTE.get(entry.name)
    known = size(entry.path.stat().st_size) if entry.path else DOWNLOAD_SIZE.get(entry.name, _("an unknown amount"))
    return Weights(
        name=entry.name,
        where="finetuned" if entry.path and models.classes_of(entry.path) else entry.where,
        path=entry.path,
        size=known,
        about=entry.about,
        licence=remote.licence if remote else "",
        host=urlsplit(remote.url).hostname or "" if remote else "",
    )
