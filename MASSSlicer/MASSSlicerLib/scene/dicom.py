"""Series of Slicer's DICOM database as targets."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from mass_core.errors import InputError

SCHEME = "dicom:"
"""Prefix of a series among the targets; its unique identifier follows."""
_SCANS = {"CT", "MR", "PT"}


@dataclass(frozen=True)
class Series:
    """One series of the database."""

    uid: str
    patient: str
    study: str
    description: str
    modality: str
    count: int
    """Files."""

    @property
    def name(self) -> str:
        """Name in lists."""
        return f"{self.patient} {self.description or self.uid}".strip()


def database() -> Any | None:
    """Slicer's DICOM database (ctkDICOMDatabase); None before the module DICOM was opened for the first time, which opens it."""
    found = getattr(slicer, "dicomDatabase", None)
    return found if found is not None and found.isOpen else None


def database_series() -> list[Series]:
    """All CT, MR and PET series of the database, patient by patient; empty without a database."""
    known = database()
    if known is None:
        return []
    found = []
    for patient in known.patients():
        for study in known.studiesForPatient(patient):
            for uid in known.seriesForStudy(study):
                files = known.filesForSeries(uid)
                modality = known.fileValue(files[0], "0008,0060") if files else ""
                if modality in _SCANS:
                    found.append(
                        Series(
                            uid=uid,
                            patient=known.nameForPatient(patient),
                            study=known.descriptionForStudy(study),
                            description=known.descriptionForSeries(uid),
                            modality=modality,
                            count=len(files),
                        )
                    )
    return found


def series_name(uid: str) -> str:
    """Name of a series in lists."""
    return next((series.name for series in database_series() if series.uid == uid), uid)


def series_folder(uid: str, folder: Path) -> Path:
    """A folder with the files of one series, linked where the system can, else copied.

    Raises:
        InputError: if the database is not open or does not have the series, or its files are gone.
    """
    known = database()
    if known is None:
        raise InputError(_("Slicer's DICOM database is not open yet."), _("Open the DICOM module once, then try again."))
    files = [Path(path) for path in known.filesForSeries(uid)]
    if not files or not all(path.is_file() for path in files):
        raise InputError(_("The files of the DICOM series {uid} are missing.").format(uid=uid), _("Import the patient again."))
    folder.mkdir(parents=True)
    for number, path in enumerate(files):
        place = folder / f"{number:05d}.dcm"
        try:
            os.link(path, place)
        except OSError:
            shutil.copyfile(path, place)
    return folder


def load_series(uid: str) -> slicer.vtkMRMLScalarVolumeNode:
    """Load a series into the scene, the way Slicer's DICOM module does.

    Raises:
        InputError: if it gives no volume.
    """
    from DICOMLib import DICOMUtils

    nodes = [slicer.mrmlScene.GetNodeByID(node_id) for node_id in DICOMUtils.loadSeriesByUID([uid])]
    volume = next((node for node in nodes if node is not None and node.IsA("vtkMRMLScalarVolumeNode")), None)
    if volume is None:
        raise InputError(_("Slicer could not load the DICOM series {uid}.").format(uid=uid), _("Write results to files instead."))
    return volume
