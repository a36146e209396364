"""`slicer.dicomDatabase` over a dictionary, with the names and answers of ctkDICOMDatabase."""

from __future__ import annotations

from dataclasses import dataclass, field

_MODALITY = "0008,0060"


@dataclass
class Series:
    """A series for tests."""

    files: list[str]
    description: str = ""
    modality: str = "CT"
    tags: dict[str, str] = field(default_factory=dict)
    """Further values, by tag."""


class DICOMDatabase:
    """Holds what a test put into `content`: {patient: {study: {series UID: Series or list of files}}}."""

    isOpen = True

    def __init__(self) -> None:
        self.content: dict[str, dict[str, dict[str, Series | list[str]]]] = {}

    def patients(self) -> list[str]:
        """Keys of the patients."""
        return list(self.content)

    def studiesForPatient(self, patient: str) -> list[str]:
        """UIDs of a patient's studies."""
        return list(self.content.get(patient, {}))

    def seriesForStudy(self, study: str) -> list[str]:
        """UIDs of a study's series."""
        return [series for studies in self.content.values() for series in studies.get(study, {})]

    def filesForSeries(self, series: str, hits: int = -1) -> list[str]:
        """Paths of a series' files, at most `hits`."""
        files = self._series(series).files
        return list(files) if hits < 0 else files[:hits]

    def descriptionForSeries(self, series: str) -> str:
        """As the scanner wrote it."""
        return self._series(series).description

    def descriptionForStudy(self, study: str) -> str:
        """Not kept here."""
        return ""

    def nameForPatient(self, patient: str) -> str:
        """Here a patient's key is the name."""
        return patient if patient in self.content else ""

    def fileValue(self, path: str, tag: str) -> str:
        """A tag of a file, such as "0008,0060"; empty: it has none."""
        found = self._series(self.seriesForFile(path))
        return found.modality if tag.lower() == _MODALITY else found.tags.get(tag, "")

    def seriesForFile(self, path: str) -> str:
        """UID of the series a file belongs to; empty: unknown."""
        return next((series for series, found in self._all() if path in found.files), "")

    def _all(self) -> list[tuple[str, Series]]:
        pairs = [pair for studies in self.content.values() for series in studies.values() for pair in series.items()]
        return [(uid, found if isinstance(found, Series) else Series(found)) for uid, found in pairs]

    def _series(self, uid: str) -> Series:
        return dict(self._all()).get(uid, Series([]))
