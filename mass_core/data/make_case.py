"""One case of a dataset, from a scan with its labels and masks: all of them on one grid, the image normalised as for segmentation."""

from pathlib import Path

import numpy as np

from ..config import Recipe
from ..masks.mask_set import MaskSet
from ..masks.regrid import regrid
from ..volumes.label_maps import as_label_map, check_belongs
from ..volumes.preprocess import prepare
from ..volumes.resample import orient, resample
from ..volumes.volume import Geometry, Volume
from .dataset import Case, write_case


def make_case(
    folder: Path,
    name: str,
    image: Volume,
    recipe: Recipe,
    *,
    patient: str,
    settings: str,
    labels: tuple[Volume, Path] | None = None,
    masks: MaskSet | None = None,
    min_voxels: int = 8,
) -> tuple[str, ...]:
    """Prepare a scan and write its files.

    Args:
        folder: of the dataset.
        name: of the case.
        image: the scan as stored.
        recipe: how it is prepared; its spacing is None for the scan's own.
        patient: whose scan it is.
        settings: fingerprint of what the case is made from and how.
        labels: label map, and the file it comes from, for messages.
        masks: class-agnostic masks.
        min_voxels: masks that keep fewer on the prepared grid are dropped.

    Returns:
        Notes for the user, one sentence each.

    Raises:
        MassError: if scan or labels cannot be used, or files cannot be written.
    """
    spacing = recipe.spacing_zyx or orient(image, recipe.orientation).geometry.spacing_zyx
    prepared = prepare(image, recipe, spacing)
    grid = prepared.record.working
    moved, notes = (None, ()) if labels is None else _labels(*labels, prepared.record.target, grid)
    if masks is not None:
        masks = regrid(masks, grid.shape_zyx, grid.spacing_zyx, grid.origin_xyz, grid.direction, min_voxels)
    case = Case(
        name=name,
        patient=patient,
        modality=prepared.record.modality,
        shape_zyx=grid.shape_zyx,
        spacing_zyx=grid.spacing_zyx,
        origin_xyz=grid.origin_xyz,
        direction=grid.direction,
        settings=settings,
    )
    write_case(folder, case, prepared.array.astype(np.float16), moved, masks)
    return (*prepared.record.warnings, *notes)


def _labels(labels: Volume, path: Path, image: Geometry, working: Geometry) -> tuple[np.ndarray, tuple[str, ...]]:
    """A label map on the prepared image's grid, uint8 or uint16, and notes for the user."""
    labels = as_label_map(labels)
    notes = (*labels.notes, *check_belongs(image, labels, labels_are=f"label map {path}"))
    moved = resample(labels, working, "nearest").array
    return moved.astype(np.uint8 if labels.array.max() < 256 else np.uint16), notes
