"""Scans and label maps in a folder, distinguished by their names."""

from __future__ import annotations

import json
import re
from pathlib import Path

from slicer.i18n import tr as _

from mass_core.data.scan_files import scans_at
from mass_core.errors import InputError
from mass_core.outputs import IMAGE_ENDINGS, stem

_FOLDERS = (("imagesTr", "labelsTr"), ("images", "labels"), ("images", "masks"), ("scans", "labels"))
"""Scans and label maps of the same names; the first is that of nnU-Net and the Medical Segmentation Decathlon."""
_CHANNEL = "_0000"
"""Appended by nnU-Net to the name of a scan's first channel."""
_MASK = re.compile(r"(_seg|_mask|[-_]label)$", re.IGNORECASE)
_PROBABILITIES = re.compile(r"_label\d+_prob$", re.IGNORECASE)
_BACKGROUND = "background"


def scans_in(folder: Path, left_out: list[Path] | None = None) -> list[Path]:
    """Image files and DICOM series (their folders) of a folder, and of its subfolders if it has no image files; neither masks nor results.

    Args:
        folder: of scans, of one series, of a patient or of patients.
        left_out: gets the files that are not taken.

    Raises:
        InputError: if there is none.
    """
    if not folder.is_dir():
        raise _missing(folder, _("Choose a folder with scans."))
    left_out = [] if left_out is None else left_out
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    scans = _scans_at(folder, left_out) or [path for place in inner for path in _scans_at(place, left_out)]
    left_out[:] = dict.fromkeys(left_out)
    # Old slices do not always say that they are DICOM: that shows when they are read.
    scans = scans or [path for path in inner if any(file.is_file() for file in path.iterdir())]
    if not scans:
        raise InputError(
            _("{folder} holds no scans.").format(folder=folder),
            _("Choose a folder of image files ({endings}) or of DICOM files, or one of such folders.").format(
                endings=", ".join(IMAGE_ENDINGS)
            ),
        )
    return scans


def _scans_at(folder: Path, left_out: list[Path]) -> list[Path]:
    """The scans there by name, without masks and results."""
    found = [scan.path for scan in scans_at(folder, left_out)]
    scans = [path for path in found if path.is_dir() or _is_scan(path)]
    left_out += [path for path in found if path not in scans]
    return scans


def pairs_in(folder: Path) -> list[tuple[Path, Path]]:
    """Scans of a folder with their label maps, by name.

    Raises:
        InputError: if there are none, with the names expected.
    """
    if not folder.is_dir():
        raise _missing(folder, _("Choose a folder with scans and label maps."))
    found = next((pairs for images, labels in _FOLDERS if (pairs := _of_two(folder / images, folder / labels))), None) or _of_one(folder)
    if not found:
        raise InputError(
            _("{folder} holds no scans with label maps.").format(folder=folder),
            _(
                "Put scans into a folder images and label maps of the same names into a folder labels beside it (or imagesTr and labelsTr),"
                " or give label maps the scan's name with _seg, _mask, _label or .seg.nrrd at the end."
            ),
        )
    return found


def label_names(folder: Path) -> dict[int, str]:
    """Names of label values in a `dataset.json` of nnU-Net or the Medical Segmentation Decathlon; empty: there is none."""
    try:
        labels = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["labels"]
        turned = [(int(a), str(b)) if str(a).isdecimal() else (int(b), str(a)) for a, b in labels.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {value: name for value, name in turned if value and name != _BACKGROUND}


def _of_two(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Label maps of one folder with scans of the same names in the other."""
    return _paired(_images(images), _images(labels))


def _of_one(folder: Path) -> list[tuple[Path, Path]]:
    """Label maps named after the scans they lie beside."""
    files = _images(folder)
    return _paired([path for path in files if _is_scan(path)], [path for path in files if not _is_scan(path)])


def _paired(scans: list[Path], masks: list[Path]) -> list[tuple[Path, Path]]:
    """Each label map with the scan of its name, with or without what label maps and first channels have appended."""
    named = {stem(path): path for path in scans}
    found = []
    for mask in masks:
        name = stem(mask)
        scan = next((named[one] for one in (name, f"{name}{_CHANNEL}", _MASK.sub("", name)) if one in named), None)
        if scan is not None:
            found.append((scan, mask))
    return found


def _images(folder: Path) -> list[Path]:
    """Image files of a folder by name, hidden ones left out; empty if it is missing."""
    if not folder.is_dir():
        return []
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    return [path for path in files if path.name.lower().endswith(IMAGE_ENDINGS)]


def _is_scan(path: Path) -> bool:
    """True if the name of an image file is neither that of a mask nor of a result."""
    name = stem(path)
    return not path.name.lower().endswith(".seg.nrrd") and not _MASK.search(name) and not _PROBABILITIES.search(name)


def _missing(folder: Path, cure: str) -> InputError:
    return InputError(_("There is no folder {folder}.").format(folder=folder), cure)
