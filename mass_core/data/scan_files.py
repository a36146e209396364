"""The scans that files and folders stand for, and the label maps named like them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..outputs import IMAGE_ENDINGS, stem

if TYPE_CHECKING:
    from ..volumes.volume import Volume
    from .public_cases import DatasetCase


@dataclass(frozen=True)
class Scan:
    """An image file or DICOM folder, and the name of its case."""

    name: str
    path: Path
    case: "DatasetCase | None" = None
    """What a kind of public dataset tells about it."""

    def read(self) -> "Volume":
        """The scan, as `Volume.read` and with the faults of its dataset mended."""
        from ..volumes.volume import Volume

        return self.case.read() if self.case else Volume.read(self.path)

    def label_files(self, folder: Path | None) -> tuple[Path, ...]:
        """The label map named like the scan in a folder, or the one its dataset has; empty: none."""
        if folder is not None:
            return tuple(filter(None, [scan_named(self.name, folder)]))
        return self.case.labels if self.case else ()

    def read_labels(self, folder: Path | None) -> "Volume | None":
        """That label map; None: there is none."""
        from ..volumes.volume import Volume

        if folder is None:
            return self.case.read_labels() if self.case else None
        read = self.case.mended if self.case else Volume.read
        return next(map(read, self.label_files(folder)), None)


def find_scans(paths: Iterable[Path]) -> list[Scan]:
    """The scans that files and folders stand for.

    A folder stands for the image files in it; if there are none, for the DICOM series it holds, or for what its subfolders stand for.

    Raises:
        InputError: if a path is missing, there are no scans at all, or two would have the same name.
    """
    scans = [scan for path in paths for scan in _scans_at(path)]
    if not scans:
        raise InputError("There are no scans in the folders given.", f"Endings of images are {', '.join(IMAGE_ENDINGS)}.")
    return distinct_scans(scans)


def distinct_scans(scans: Iterable[Scan]) -> list[Scan]:
    """The scans sorted by name; two of one name are refused."""
    first: dict[str, Scan] = {}
    for scan in scans:
        other = first.setdefault(scan.name, scan)
        if other is not scan:
            raise InputError(
                f"{other.path} and {scan.path} would both be called {scan.name}.", "Rename one, or write them to different folders."
            )
    return sorted(first.values(), key=lambda scan: scan.name)


def _scans_at(path: Path) -> list[Scan]:
    if not path.exists():
        raise InputError(f"There is no file {path}.", "Check the spelling and the folder.")
    if path.is_file():
        return [Scan(stem(path), path)]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    images = [entry for entry in entries if entry.is_file() and entry.name.lower().endswith(IMAGE_ENDINGS)]
    if images:
        return [Scan(stem(image), image) for image in images]
    folders = [entry for entry in entries if entry.is_dir()]
    if folders:
        return [scan for folder in folders for scan in _scans_at(folder)]
    return [Scan(stem(path), path)] if entries else []


def looks_like_nnunet(folder: Path) -> bool:
    """Whether a folder, or the one above it, is laid out as nnU-Net does: `imagesTr` with files called `<case>_0000`."""
    places = (folder / "imagesTr", folder) if folder.is_dir() else ()
    return any(place.name in ("imagesTr", "imagesTs") and any(place.glob("*_0000.*")) for place in places)


def scan_named(name: str, folder: Path) -> Path | None:
    """The image file of a case in a folder of, say, label maps; None: there is none."""
    return next((path for ending in IMAGE_ENDINGS if (path := folder / f"{name}{ending}").exists()), None)
