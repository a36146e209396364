"""Datasets in the layout of the released code: reading, importing, exporting.

Layout (docs/formats.md): in one folder `<case>_image.npy` (float32 [z,y,x], normalised), `<case>_gt.npy` (uint8) if there are labels, and
`dataset.h5` with the masks of all cases. It states neither spacing, place, direction nor modality: the spacing is taken to be 1.5 mm, the
released default, and the first voxel to lie at the origin. It has no splits either; all cases are for training, each its own patient.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..config import Triple
from ..errors import InputError, OutputError
from ..files import fingerprint, states
from ..masks.mask_set import MaskSet
from . import export_state, released_masks
from .dataset import Case, Dataset, case_folder, mapped, write_array, write_case
from .splits import SPLITS

IMAGE, LABELS, MASKS = "_image.npy", "_gt.npy", "dataset.h5"
SPACING_ZYX = (1.5, 1.5, 1.5)
TRAINING_EDGE = 128
"""Voxels a scan needs along every axis before the released training takes it."""
_RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
"""Right, anterior, superior, to which the released preparation turns scans, in LPS."""
_CURE = "Copy the folder again, or import the intact cases with `mass dataset import`."


@dataclass(frozen=True, kw_only=True)
class ReleasedDataset(Dataset):
    """A dataset whose files lie in the folder itself, with the masks of all cases in one of them."""

    _cure: ClassVar[str] = "Copy the folder again, or export it again."
    _shape_source: ClassVar[str] = "its image has"

    def _read_masks(self, case: Case, file: str) -> MaskSet:
        return released_masks.read_masks(self._path(case, file), case.name, case.spacing_zyx)

    def _path(self, case: Case, file: str) -> Path:
        return self.folder / file


def is_released(folder: Path) -> bool:
    """True if a folder has this layout and is not one of our datasets."""
    return not (folder / "dataset.json").exists() and ((folder / MASKS).exists() or next(folder.glob(f"[!.]*{IMAGE}"), None) is not None)


def case_names(folder: Path) -> list[str]:
    """Names of all cases that have an image or masks.

    Raises:
        InputError: if the masks cannot be read, or h5py is missing.
    """
    images = {path.name[: -len(IMAGE)] for path in folder.glob(f"[!.]*{IMAGE}")}
    return sorted(images.union(_with_masks(folder)))


def read_released(
    folder: Path, *, names: Iterable[str] | None = None, spacing_zyx: Triple = SPACING_ZYX, modality: str = "auto"
) -> Dataset:
    """Open a folder as a dataset; `opening.open_dataset` does it with what is usual.

    Masks are packed anew each time they are requested; `mass dataset import` does it once.

    Args:
        folder: of the released layout.
        names: cases; None: all.
        spacing_zyx: voxel edges in mm.
        modality: ct, mr, pet, or auto where it is not known.

    Raises:
        InputError: if an image or the masks cannot be read, or h5py is missing.
    """
    with_masks = _with_masks(folder)
    cases = [_case(folder, name, name in with_masks, spacing_zyx, modality) for name in (case_names(folder) if names is None else names)]
    splits = {split: tuple(case.name for case in cases) if split == "train" else () for split in SPLITS}
    return ReleasedDataset(folder=folder, name=folder.resolve().name, cases=tuple(cases), splits=splits)


def import_settings(folder: Path, name: str, spacing_zyx: Triple, modality: str) -> str:
    """Fingerprint of the files and settings a case is imported with."""
    files = (folder / f"{name}{IMAGE}", folder / f"{name}{LABELS}", folder / MASKS)
    return fingerprint(states(filter(Path.exists, files)), spacing_zyx, modality)


def import_case(folder: Path, name: str, output: Path, *, spacing_zyx: Triple = SPACING_ZYX, modality: str = "auto") -> None:
    """Write a case of a released folder as one of ours: the image as float16, masks packed.

    Raises:
        InputError: if it is damaged, its parts disagree, or its image has no place in float16.
        OutputError: if it cannot be written.
    """
    source = read_released(folder, names=[name], spacing_zyx=spacing_zyx, modality=modality)
    found = source.case(name)
    labels, masks = source.labels(name), source.masks(name) if found.masks else None
    if labels is not None and labels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{name}{LABELS} holds {labels.dtype}, not label numbers.", "Write it as uint8.")
    with np.errstate(over="ignore"):
        image = source.image(name).astype(np.float16)
    if not np.isfinite(image).all():
        raise InputError(f"{name}{IMAGE} contains values beyond 65504, infinite values or NaN.", "Normalise it as the released code does.")
    case = replace(found, image=Case.image, settings=import_settings(folder, name, spacing_zyx, modality))
    write_case(output, case, image, labels, masks)


def check_export(output: Path) -> None:
    """Check before an export that it can finish and replaces nothing else.

    Raises:
        InputError: if h5py is missing.
        OutputError: naming what is there.
    """
    released_masks.library()
    if (output / "dataset.json").exists():
        raise OutputError(f"{output} is a MASS dataset.", "Choose another folder.")
    export_state.check_own(output / MASKS)


def is_exported(dataset: Dataset, name: str, output: Path) -> bool:
    """True if an earlier run wrote this case and nothing changed since."""
    files = [output / f"{name}{IMAGE}", *([output / f"{name}{LABELS}"] if dataset.case(name).labels else [])]
    whole = all(path.exists() for path in files) and (_part(output, name).exists() or name in _with_masks(output))
    return whole and export_state.is_done(output, name, _export_settings(dataset, name))


def export_case(dataset: Dataset, name: str, output: Path) -> None:
    """Write image and labels of a case as the released code does, and its masks to a file that `join_masks` takes up.

    Raises:
        InputError: if labels are above 255, the case is damaged, or h5py is missing.
        OutputError: if it cannot be written.
    """
    image, labels, masks = dataset.image(name), dataset.labels(name), dataset.masks(name)
    if labels is not None and labels.size and labels.max() > 255:
        raise InputError(f"The labels of {name} go up to {labels.max()}; the released layout allows up to 255.", "Renumber the labels.")
    export_state.begin(output, name)
    (output / f"{name}{LABELS}").unlink(missing_ok=True)
    write_array(output / f"{name}{IMAGE}", image.astype(np.float32))
    if labels is not None:
        write_array(output / f"{name}{LABELS}", labels.astype(np.uint8))
    released_masks.write_masks(_part(output, name), name, masks)
    export_state.finish(output, name, _export_settings(dataset, name))


def join_masks(output: Path, names: Iterable[str]) -> None:
    """Make `dataset.h5` of the masks of exported cases, unless it holds just these.

    Raises:
        InputError: if a part is damaged, or h5py is missing.
        OutputError: if it cannot be written.
    """
    parts = {name: part if (part := _part(output, name)).exists() else output / MASKS for name in names}
    fresh = [part for part in parts.values() if part != output / MASKS]
    if fresh or set(parts) != set(_with_masks(output)):
        released_masks.join(output / MASKS, parts)
    for part in fresh:
        part.unlink(missing_ok=True)


def _with_masks(folder: Path) -> tuple[str, ...]:
    return released_masks.case_names(folder / MASKS) if (folder / MASKS).exists() else ()


def _case(folder: Path, name: str, has_masks: bool, spacing_zyx: Triple, modality: str) -> Case:
    path = folder / f"{name}{IMAGE}"
    if not path.exists():
        raise InputError(f"{folder / MASKS} holds masks of {name!r}, but {path} is missing.", _CURE)
    image = mapped(path, _CURE)
    if image.ndim != 3 or image.dtype.kind != "f" or not image.size:
        raise InputError(f"{path} holds {image.dtype} of shape {image.shape}, not a scan [z,y,x] of real numbers.", _CURE)
    return Case(
        name=name,
        patient=name,
        modality=modality,
        shape_zyx=image.shape,
        spacing_zyx=spacing_zyx,
        origin_xyz=(0.0, 0.0, 0.0),
        direction=_RAS,
        image=path.name,
        masks=MASKS if has_masks else None,
        labels=f"{name}{LABELS}" if (folder / f"{name}{LABELS}").exists() else None,
    )


def _export_settings(dataset: Dataset, name: str) -> dict[str, Any]:
    case, folder = dataset.case(name), case_folder(dataset.folder, name)
    files = (folder / file for file in (case.image, case.labels, case.masks) if file)
    return {"settings": fingerprint(states(filter(Path.exists, files)))}


def _part(output: Path, name: str) -> Path:
    return output / export_state.FOLDER / f"{name}.h5"
