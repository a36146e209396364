"""Series of Slicer's DICOM database as targets."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from mass_core.errors import InputError

SCHEME = "dicom:"
"""Begins the name of a series among the targets; its unique identifier follows."""
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
        """As it is listed."""
        return f"{self.patient} {self.description or self.uid}".strip()


def database_series() -> list[Series]:
    """All CT, MR and PET series of the database, patient by patient; empty without a database."""
    database = slicer.dicomDatabase
    if database is None or not database.isOpen:
        return []
    found = []
    for patient in database.patients():
        for study in database.studiesForPatient(patient):
            for uid in database.seriesForStudy(study):
                files = database.filesForSeries(uid)
                modality = database.fileValue(files[0], "0008,0060") if files else ""
                if modality in _SCANS:
                    found.append(
                        Series(
                            uid=uid,
                            patient=database.nameForPatient(patient),
                            study=database.descriptionForStudy(study),
                            description=database.descriptionForSeries(uid),
                            modality=modality,
                            count=len(files),
                        )
                    )
    return found


def series_name(uid: str) -> str:
    """How a series is listed."""
    return next((series.name for series in database_series() if series.uid == uid), uid)


def series_folder(uid: str, folder: Path) -> Path:
    """A folder with the files of one series, linked where the system can, else copied.

    Raises:
        InputError: if the database does not have the series, or its files are gone.
    """
    files = [Path(path) for path in (slicer.dicomDatabase.filesForSeries(uid) if slicer.dicomDatabase is not None else ())]
    if not files or not all(path.is_file() for path in files):
        raise InputError(_("The files of a DICOM series are gone ({uid}).").format(uid=uid), _("Import the patient again."))
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
        raise InputError(_("Slicer could not load the DICOM series {uid}.").format(uid=uid), _("Have results written as files."))
    return volume
