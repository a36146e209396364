"""Intensity normalisation: one modality per image, one clip, one z-score."""

import math
from dataclasses import dataclass

import numpy as np

from ..config import Modality, Recipe
from ..errors import InputError
from .image_io import not_numbers_error
from .volume import Volume

_FLAT = 1e-6
"""Standard deviation up to which values are only centred, in units of the largest value where that is below 1."""
_AIR_HU = -500.0
"""No other modality has values this low."""
_SAMPLES = 2_000_000
"""Voxels from which a modality is guessed; more of them do not change the percentiles."""


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """Clip range, mean and standard deviation of a region: the numbers of one normalisation."""

    low: float
    high: float
    mean: float
    std: float

    @classmethod
    def of(cls, array: np.ndarray, modality: Modality, recipe: Recipe) -> "Intensity":
        """Measure a region: CT is clipped to fixed Hounsfield units, MR and PET to percentiles of the region itself."""
        low, high = recipe.ct_clip_hu if modality == "ct" else np.percentile(array, recipe.percentiles)
        clipped = np.clip(array, low, high)
        return cls(low=float(low), high=float(high), mean=float(clipped.mean(dtype=np.float64)), std=float(clipped.std(dtype=np.float64)))

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Clip and standardise, float32 [z, y, x]."""
        result = np.clip(array, self.low, self.high).astype(np.float32, copy=False)
        result -= np.float32(self.mean)
        if self.std > _FLAT * min(1.0, max(abs(self.low), abs(self.high))):
            result /= np.float32(self.std)
        return result


def normalise(array: np.ndarray, modality: Modality, recipe: Recipe) -> np.ndarray:
    """Clip and standardise an array with its own statistics, float32 [z, y, x]."""
    return Intensity.of(array, modality, recipe).apply(array)


def guess_modality(array: np.ndarray) -> Modality:
    """Guess from the extremes: only CT reaches below -200 and above 300; values all positive count as PET, else MR.

    MR images without negative values are called PET by this rule of the released script; both are processed alike.
    """
    low, high = np.percentile(array, (0.5, 99.5))
    if low < -200 and high > 300:
        return "ct"
    return "pet" if low >= 0 and high > 5 else "mr"


def choose_modality(volume: Volume, recipe: Recipe) -> tuple[Modality | None, str]:
    """Modality of a whole image as stored, and a note for the user when it had to be guessed (else empty).

    The recipe comes first, then the DICOM header, then a guess. A scan with much air around a small body, as in
    radiotherapy planning, has too few bright voxels for the released rule; values below -500 give it away as CT all the same. Images
    that are not CT count as MR unless the header says PET; both are processed alike. None: the recipe has the modality guessed for every
    crop.
    """
    if recipe.modality != "auto":
        return recipe.modality, _hounsfield_note(volume, recipe.modality)
    if not recipe.modality_once:
        return None, ""
    if volume.modality is not None:
        return volume.modality, _hounsfield_note(volume, volume.modality)
    step = max(1, math.ceil((volume.array.size / _SAMPLES) ** (1 / 3)))
    values = volume.array[::step, ::step, ::step]
    if guess_modality(values) == "ct" or np.percentile(values, 0.5) < _AIR_HU:
        return "ct", "The modality was not given; the intensities look like CT and were treated as CT."
    return "mr", "The modality was not given; the intensities do not look like CT and were treated as MR or PET."


def _hounsfield_note(volume: Volume, modality: Modality) -> str:
    """Note about a CT without a value below 0: water is 0 HU, air and fat are below."""
    if modality != "ct" or volume.array.min() < 0:
        return ""
    return "This CT has no value below 0, so it is not in Hounsfield units; subtract the offset (usually 1024), or export it again."


def check_intensities(volume: Volume) -> None:
    """Refuse images that cannot be normalised.

    Raises:
        InputError: for NaN or infinite voxels, and for a constant image.
    """
    low, high = volume.array.min(), volume.array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = ~np.isfinite(volume.array)
        place = tuple(int(i) for i in np.argwhere(bad)[0][::-1])
        raise not_numbers_error(f"{int(bad.sum())} of {bad.size} voxels", place)
    if low == high:
        raise InputError(f"Every voxel of the image is {low}, so there is nothing to segment.", "Check that the right file was given.")
