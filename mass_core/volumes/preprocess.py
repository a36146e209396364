"""Preprocessing of a scan for the network, and the way back onto the scan's own grid.

Both ways go by physical position. `prepare` keeps a record of plain data; with it `restore_labels` and `restore_probabilities` lead back.
"""

from dataclasses import dataclass

import numpy as np

from ..config import Modality, Recipe, Triple
from ..errors import InputError
from .boxes import Box
from .components import body_box
from .intensity import Intensity, check_intensities, choose_modality, guess_modality
from .resample import grid_at, orient, resample
from .volume import Geometry, Volume

_NO_BODY = "No body was found in the image, so all of it is processed."


@dataclass(frozen=True, kw_only=True)
class WorkingImage:
    """A scan on its working grid, before normalisation."""

    volume: Volume
    """Values as stored (float32), oriented and resampled, not cropped."""
    modality: Modality | None
    """None: guessed for every crop."""
    body: Box | None
    """The box around the body; None: not cropped."""
    warnings: tuple[str, ...]

    @property
    def region(self) -> Box:
        """The body's box, or all of the image."""
        return self.body or Box((0, 0, 0), self.volume.geometry.shape_zyx)


@dataclass(frozen=True, kw_only=True)
class Record:
    """Record of preprocessing, from which a result is mapped back onto the scan."""

    target: Geometry
    """The scan's own grid."""
    working: Geometry
    """Grid of the prepared array."""
    modality: Modality
    intensity: Intensity
    warnings: tuple[str, ...] = ()
    """Notes for the user, one sentence each."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A preprocessed scan."""

    array: np.ndarray
    """Normalised values, float32 [z, y, x]."""
    record: Record


def prepare(volume: Volume, recipe: Recipe, spacing_zyx: Triple | None = None) -> Prepared:
    """Orient, resample, crop to the body, clip and standardise.

    Args:
        volume: The scan as stored.
        recipe: How.
        spacing_zyx: Working voxel size in mm; None: the recipe's.

    Raises:
        InputError: for NaN or infinite voxels, a constant image, or when nothing says the working spacing.
    """
    image = working_image(volume, recipe, spacing_zyx, crop_body=True)
    part = image.volume.cropped(image.region)
    modality = image.modality or guess_modality(part.array)
    intensity = Intensity.of(part.array, modality, recipe)
    record = Record(target=volume.geometry, working=part.geometry, modality=modality, intensity=intensity, warnings=image.warnings)
    return Prepared(array=intensity.apply(part.array), record=record)


def working_image(volume: Volume, recipe: Recipe, spacing_zyx: Triple | None, *, crop_body: bool) -> WorkingImage:
    """Orient and resample a scan and look for the body in it."""
    spacing = spacing_zyx or recipe.spacing_zyx
    if spacing is None:
        raise InputError("The recipe chooses its working spacing from a reference, and none was given.", "Give a spacing in mm.")
    check_intensities(volume)
    modality, note = choose_modality(volume, recipe)
    oriented = orient(volume, recipe.orientation)
    grid = grid_at(oriented.geometry, spacing, centred=recipe.edge_fill)
    fill = None if recipe.edge_fill else 0.0
    image = resample(oriented, grid, recipe.interpolation, fill=fill, average=recipe.antialias)
    warnings = [*volume.notes, *([note] if note else [])]
    body = None
    if crop_body and recipe.body_crop == "threshold":
        body = body_box(image.array, modality or guess_modality(image.array), recipe)
        if body is None:
            warnings.append(_NO_BODY)
    return WorkingImage(volume=image, modality=modality, body=body, warnings=tuple(warnings))


def restore_labels(labels: np.ndarray, record: Record) -> Volume:
    """A label map on the prepared array's grid, led back onto the scan's own grid by nearest neighbour, uint16; 0 outside."""
    working = Volume(labels.astype(np.uint16, copy=False), record.working)
    return resample(working, record.target, "nearest")


def restore_probabilities(probabilities: np.ndarray, record: Record) -> Volume:
    """Probabilities [z, y, x] on the prepared array's grid, led back onto the scan's own grid linearly, float32; 0 outside."""
    return resample(Volume(probabilities, record.working), record.target, "linear")
