"""Which numbers of a file are labels: what looks like a label map and is none is refused, with what can be done."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from ..errors import InputError
from .volume import Volume

MAX_LABEL = 65535
"""Highest label value: label maps are written as uint16."""
_ROUNDING = 0.01
"""How far a value may be off a whole number and still be one: scaled integers come back as 1.0000153."""
_GREYS = 64
"""So many values are looked at: each of so many labels would have a region of its own."""
_TOGETHER = 0.5
"""Share of a label's voxels with the same label beside them, as a mean over the three axes; organs have 0.7 and more."""
_CURE = "If one structure is meant, give --threshold-mask with the least value inside it"


def as_label_map(labels: Volume) -> Volume:
    """The same label map with integer voxels; its notes tell of values that were rounded or left out.

    Raises:
        InputError: for fractions, values above 65535, the greys of an interpolated mask, and images.
    """
    array = labels.array
    if array.dtype == bool:
        return replace(labels, array=array.view(np.uint8))
    low, high = float(array.min()), float(array.max())
    notes = labels.notes
    if array.dtype.kind == "f":
        off = float(np.abs(array - np.rint(array)).max()) if np.isfinite([low, high]).all() else np.inf
        if not off <= _ROUNDING:
            what = "a probability map" if 0 <= low and high <= 1 else "an image, or was interpolated"
            raise InputError(f"The mask holds fractional values from {low:.4g} to {high:.4g}, so it is {what}.", f"{_CURE}.")
        if off:
            notes = (*notes, f"The values of the mask are up to {off:.2g} off whole numbers and were rounded.")
    if high > MAX_LABEL + _ROUNDING:
        raise InputError(
            f"The mask holds the value {high:.6g}, the highest label is {MAX_LABEL}.", f"Say with --labels which values count. {_CURE}."
        )
    if array.dtype.kind == "f":
        array = np.rint(array).astype(np.int32)
    if low < -_ROUNDING:
        notes = (*notes, f"The mask holds values below 0, down to {low:.4g}; they count as background.")
    _check_regions(array, round(high))
    return replace(labels, array=array, notes=notes)


def only(labels: Volume, values: Collection[int] | None) -> Volume:
    """A label map with some of its labels; None: all."""
    if values is None:
        return labels
    return replace(labels, array=np.where(np.isin(labels.array, list(values)), labels.array, 0))


def thresholded(mask: Volume, least: float | None) -> Volume:
    """Label 1 where a mask reaches a value; None: the mask as it is."""
    return mask if least is None else replace(mask, array=(mask.array >= least).astype(np.uint8))


def _check_regions(array: np.ndarray, high: int) -> None:
    """Refuse the greys of an image or of an interpolated mask: many values, most of which have hardly two voxels side by side."""
    if high < _GREYS:
        return
    counts = np.bincount(array[array > 0].astype(np.int64), minlength=high + 1)
    used = np.flatnonzero(counts)
    if used.size < _GREYS:
        return
    beside = np.zeros(high + 1)
    for axis in range(3):
        one, next_one = np.moveaxis(array, axis, 0)[:-1], np.moveaxis(array, axis, 0)[1:]
        beside += np.bincount(one[(one == next_one) & (one > 0)].astype(np.int64), minlength=high + 1) / 3
    if np.median(beside[used] / counts[used]) < _TOGETHER:
        raise InputError(
            f"The mask holds {used.size} different values up to {high}, most of them without a region of their own: it is an image, or the "
            "greys of an interpolated mask.",
            f"{_CURE}, {high / 2:.4g} say.",
        )
