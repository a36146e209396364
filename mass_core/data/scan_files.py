"""Scans among files and folders, and the label maps of the same names."""

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import InputError
from ..outputs import IMAGE_ENDINGS, stem

if TYPE_CHECKING:
    from ..volumes.volume import Volume
    from .public_cases import DatasetCase

_CHANNEL = re.compile(r"_\d{4}$")
"""Suffix nnU-Net adds to the name of an image."""


@dataclass(frozen=True)
class Scan:
    """An image file or DICOM folder, and the name of its case."""

    name: str
    path: Path
    case: "DatasetCase | None" = None
    """Its metadata in a public dataset."""

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
        from ..volumes.mask_files import read_label_map

        if folder is None:
            return self.case.read_labels() if self.case else None
        read = self.case.mended if self.case else read_label_map
        return next(map(read, self.label_files(folder)), None)


def find_scans(paths: Iterable[Path], left_out: list[Path] | None = None) -> list[Scan]:
    """The scans among some files and folders.

    A folder stands for the image files and the DICOM series in it; if it has no image files, also for what its subfolders stand for. One
    of several image files may be missing: it fails when it is read, like a broken one.

    Args:
        paths: of files and folders.
        left_out: gets the files of the folders that are not scans, broken links among them.

    Raises:
        InputError: if the only path or a folder is missing, there are no scans at all, or two would have the same name.
    """
    left_out = [] if left_out is None else left_out
    given = list(paths)
    lost = [path for path in given if path.name.lower().endswith(IMAGE_ENDINGS) and not os.path.exists(path)] if len(given) > 1 else []
    scans = [scan for path in given for scan in ([Scan(stem(path), path)] if path in lost else scans_at(path, left_out))]
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


def scans_at(path: Path, left_out: list[Path]) -> list[Scan]:
    """Scans a file or folder stands for, see `find_scans`; maybe none, and maybe several of one name.

    Raises:
        InputError: if there is no such file or folder.
    """
    if not os.path.exists(path):
        raise InputError(f"There is no file {path}.", "Check the spelling and the folder.")
    if not os.path.isdir(path):
        return [Scan(stem(path), path)]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir()]
    files = [entry for entry in entries if entry.is_file()]
    images = [file for file in files if file.name.lower().endswith(IMAGE_ENDINGS)]
    slices = [file for file in files if file not in images and _is_slice(file)]
    known = {*folders, *images, *slices, *(file for file in files if _is_voxels_of(file, images))}
    left_out += [entry for entry in entries if entry not in known]
    scans = [Scan(stem(image), image) for image in images] + ([Scan(stem(path), path)] if slices else [])
    if images:
        return scans
    within = [scan for folder in folders for scan in scans_at(folder, left_out)]
    # Beside slices of a patient a subfolder is as a rule called scout or T1, as with the next patient.
    return scans + [replace(scan, name=f"{stem(path)}_{scan.name}") if slices else scan for scan in within]


def _is_slice(file: Path) -> bool:
    """True if a file is a DICOM slice by its first bytes or, since those may be missing, by its name."""
    if file.suffix.lower() in (".dcm", ".ima"):
        return True
    try:
        with file.open("rb") as data:
            return data.read(132)[128:] == b"DICM" and file.name.upper() != "DICOMDIR"
    except OSError:
        return False


def _is_voxels_of(file: Path, images: Collection[Path]) -> bool:
    """True if a file holds the voxels of a header that is among the images."""
    if file.suffix.lower() not in (".raw", ".zraw", ".img", ".gz"):
        return False
    names = {file.stem.lower(), Path(file.stem).stem.lower()}
    return any(image.suffix.lower() in (".mhd", ".nhdr", ".hdr") and image.stem.lower() in names for image in images)


def layout_of(folder: Path) -> Literal["nnunet", "msd", "bids"] | None:
    """Guess the general layout of a folder or the one above it; None: none of these.

    nnU-Net has `imagesTr` with files called `<case>_0000`, the Decathlon `imagesTr` beside `dataset.json`, BIDS `sub-<label>/anat`.
    """
    if not folder.is_dir():
        return None
    for place in (folder / "imagesTr", folder):
        if place.name in ("imagesTr", "imagesTs") and any(place.glob("*_0000.*")):
            return "nnunet"
        if place.name in ("imagesTr", "imagesTs") and place.is_dir() and (place.parent / "dataset.json").is_file():
            return "msd"
    return "bids" if any(folder.glob("sub-*/anat")) or any(folder.glob("sub-*/ses-*/anat")) else None


def scan_named(name: str, folder: Path) -> Path | None:
    """The image file of a case in a folder of, say, label maps; None: there is none.

    nnU-Net calls images `case_0000` by their channel, and label maps `case`.
    """
    for own in dict.fromkeys((name, _CHANNEL.sub("", name))):
        for ending in IMAGE_ENDINGS:
            if os.path.exists(path := folder / f"{own}{ending}"):
                return path
    return None
