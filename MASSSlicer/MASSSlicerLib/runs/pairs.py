"""Annotated scans in a folder: which file is the scan and which its label map, told by their names."""

from __future__ import annotations

import json
import re
from pathlib import Path

from slicer.i18n import tr as _

from mass_core.errors import InputError
from mass_core.outputs import IMAGE_ENDINGS, stem

from .cases import is_image

_FOLDERS = (("imagesTr", "labelsTr"), ("images", "labels"), ("images", "masks"), ("scans", "labels"))
"""Scans and label maps of the same names; the first is that of nnU-Net and the Medical Segmentation Decathlon."""
_CHANNEL = "_0000"
"""What nnU-Net appends to the name of a scan's first channel."""
_MASK = re.compile(r"(_seg|_mask|-label|_label)$", re.IGNORECASE)
_BACKGROUND = "background"


def of_folder(folder: Path) -> list[tuple[Path, Path]]:
    """Scans with their label maps, by name.

    Raises:
        InputError: if there are none, saying how they must be called.
    """
    if not folder.is_dir():
        raise InputError(_("There is no folder {folder}.").format(folder=folder), _("Choose a folder with scans and label maps."))
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


def names(folder: Path) -> dict[int, str]:
    """What a `dataset.json` of nnU-Net or the Medical Segmentation Decathlon calls the labels; empty: there is none."""
    try:
        labels = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["labels"]
        turned = [(int(a), str(b)) if str(a).isdecimal() else (int(b), str(a)) for a, b in labels.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {value: name for value, name in turned if value and name != _BACKGROUND}


def _of_two(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Label maps of one folder with scans of the same names in the other."""
    scans = {stem(path): path for path in _files(images)}
    pairs = [(scans.get(stem(mask)) or scans.get(f"{stem(mask)}{_CHANNEL}"), mask) for mask in _files(labels)]
    return [(image, mask) for image, mask in pairs if image is not None]


def _of_one(folder: Path) -> list[tuple[Path, Path]]:
    """Label maps named after the scans they lie beside."""
    files = _files(folder)
    scans = {stem(path): path for path in files if is_image(path)}
    masks = [path for path in files if not is_image(path)]
    pairs = [(scans.get(stem(mask)) or scans.get(_MASK.sub("", stem(mask))), mask) for mask in masks]
    return [(image, mask) for image, mask in pairs if image is not None]


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))
    return [path for path in files if path.name.lower().endswith(IMAGE_ENDINGS)]
