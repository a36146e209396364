"""Three intensity windows of a grey scan as the three channels that networks trained on photographs expect.

CT is seen through three windows of Hounsfield units, MR and PET through three ranges of quantiles (paper, supplement 6.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...config import Modality
from ...errors import InputError
from ...schema import check_counts

Range = tuple[float, float]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Settings of the mask pipeline for one kind of scan. Defaults are the paper's; where it is silent, the released code's."""

    modality: Modality
    """Of the scans it is meant for."""
    channels: tuple[Range, Range, Range]
    """Darkest and brightest value of each channel, in the unit that `unit` names."""
    unit: Literal["intensity", "percent"] = "intensity"
    """intensity: as stored, HU for CT, SUV for PET; percent: quantiles of the values in the body."""
    interval_mm: float = 15.0
    """Distance of seed slices."""
    min_slices: int = 1
    """At least this many seed slices, closer together if need be."""
    min_predicted_iou: float = 0.4
    """Least IoU the network must predict for a 2D mask."""
    min_stability: float = 0.7
    """Least stability of a 2D mask: IoU of the masks with the threshold on its logits a little higher and a little lower."""
    min_pixels: int = 500
    """Smallest 2D mask."""
    min_voxels: int = 1000
    """Smallest 3D mask."""
    max_per_slice: int = 70
    """2D masks kept on a seed slice."""
    duplicate_iou: float = 0.9
    """Of two 3D masks that overlap more than this, one is dropped."""
    keep: Literal["random", "larger"] = "random"
    """The one of the two that is kept."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if any(low >= high for low, high in self.channels):
            raise InputError(f"The channels are {self.channels}.", "Each needs a lower value followed by a higher one.")
        if self.unit == "percent" and not all(0 <= low and high <= 100 for low, high in self.channels):
            raise InputError(f"The quantiles are {self.channels}.", "Give percentages from 0 to 100.")
        if self.interval_mm <= 0:
            raise InputError(f"interval_mm is {self.interval_mm}.", "It must be above zero.")
        check_counts(self, "min_slices", "min_pixels", "min_voxels", "max_per_slice")
        if not all(0 <= share <= 1 for share in (self.min_predicted_iou, self.min_stability, self.duplicate_iou)):
            raise InputError(
                f"min_predicted_iou {self.min_predicted_iou}, min_stability {self.min_stability}, duplicate_iou {self.duplicate_iou}.",
                "All three lie between 0 and 1.",
            )


def window(centre: float, width: float) -> Range:
    """A window as radiologists name it."""
    return centre - width / 2, centre + width / 2


_ABDOMEN = (window(60, 350), window(15, 250), window(150, 1200))
"""Soft tissue, contrast, bone (paper 6.1)."""
_CHEST = (window(-600, 1500), window(50, 350), window(500, 2000))
"""Lung, mediastinum, bone: the paper leaves them open, these are the released code's; so are the next."""
_HEAD_NECK = (window(90, 300), window(55, 120), window(600, 3000))
_WHOLE_BODY = (window(-600, 1500), window(50, 350), window(700, 2500))
_QUANTILES = ((5.0, 95.0), (15.0, 85.0), (1.0, 99.0))
"""MR and PET (paper 6.1)."""
_SUV = (window(1.5, 3), window(5, 10), window(15, 30))

PROFILES: dict[str, Profile] = {
    "abdomen_ct": Profile(modality="ct", channels=_ABDOMEN),
    "chest_ct": Profile(modality="ct", channels=_CHEST, min_voxels=3000),
    "head_neck_ct": Profile(modality="ct", channels=_HEAD_NECK, min_predicted_iou=0.3, min_stability=0.5, min_pixels=10, min_voxels=30),
    "whole_body_ct": Profile(modality="ct", channels=_WHOLE_BODY, min_pixels=400, min_voxels=800),
    "abdomen_mr": Profile(modality="mr", channels=_QUANTILES, unit="percent"),
    "brain_mr": Profile(modality="mr", channels=_QUANTILES, unit="percent", min_pixels=200, min_voxels=500),
    "cardiac_mr": Profile(modality="mr", channels=_QUANTILES, unit="percent", min_pixels=100, min_voxels=200),
    "whole_body_mr": Profile(modality="mr", channels=_QUANTILES, unit="percent", min_predicted_iou=0.3, min_pixels=300, min_voxels=700),
    "whole_body_pet": Profile(modality="pet", channels=_QUANTILES, unit="percent"),
    "pet_suv": Profile(modality="pet", channels=_SUV),
}
"""The paper's pipeline for kinds of scans; minimum sizes and thresholds within the ranges it names are the released code's."""


def _released(modality: Modality, channels: tuple[Range, Range, Range], pixels: int, voxels: int, **more: object) -> Profile:
    """Profile of the released code: every 30 mm, duplicates above 0.95, the larger one stays."""
    unit: Literal["intensity", "percent"] = "percent" if modality == "mr" else "intensity"
    common = {"interval_mm": 30.0, "min_slices": 10, "duplicate_iou": 0.95, "keep": "larger", "unit": unit, **more}
    return Profile(modality=modality, channels=channels, min_pixels=pixels, min_voxels=voxels, **common)  # type: ignore[arg-type]


PROFILES |= {
    "released_abdomen_ct": _released("ct", _ABDOMEN, 500, 1000),
    "released_totalseg_ct": _released("ct", _ABDOMEN, 400, 800),
    "released_lits": _released("ct", _ABDOMEN, 400, 8000),
    "released_chest_ct": _released("ct", _CHEST, 500, 3000),
    "released_autopet_ct": _released("ct", _WHOLE_BODY, 700, 1500),
    "released_structseg_head_oar": _released("ct", _HEAD_NECK, 10, 30, min_predicted_iou=0.3, min_stability=0.5),
    "released_autopet_suv": _released("pet", _SUV, 500, 1000),
    "released_abdomen_mr": _released("mr", _QUANTILES, 500, 1000),
    "released_cardiac_mr": _released("mr", _QUANTILES, 100, 200),
    "released_totalseg_mr": _released("mr", _QUANTILES, 300, 700, min_predicted_iou=0.3),
    "released_brain_mr": _released("mr", ((1.0, 99.0), (5.0, 95.0), (10.0, 90.0)), 200, 500),
}

_DEFAULTS: dict[Modality, str] = {"ct": "abdomen_ct", "mr": "abdomen_mr", "pet": "whole_body_pet"}
LINEAR_HU: Range = (-400.0, 1500.0)
"""The one range of the paper's ablation, for CT; for MR and PET, which have no fixed range, from the lowest to the highest value."""


def profile(name: str, modality: Modality) -> Profile:
    """A profile by name; auto: the paper's for this modality.

    Raises:
        InputError: for unknown names, and if the profile is for another modality.
    """
    if name == "auto":
        return PROFILES[_DEFAULTS[modality]]
    if name not in PROFILES:
        raise InputError(f"There is no profile {name!r}.", f"Choose auto, {', '.join(PROFILES)}.")
    found = PROFILES[name]
    if found.modality != modality:
        raise InputError(
            f"The profile {name} is for {found.modality.upper()}, the scan is {modality.upper()}.",
            "Choose another profile, or give the modality of the scan with --modality.",
        )
    return found


def with_channels(profile: Profile, strategy: Literal["three", "linear", "single"]) -> Profile:
    """A profile with the channels of another strategy of the paper's ablation (its Table 5).

    Args:
        profile: the kind of scan.
        strategy: three: the profile's own; linear: one wide range; single: the profile's first channel alone.
    """
    if strategy == "single":
        return replace(profile, channels=one_range(profile.channels[0]))
    if strategy == "linear" and profile.modality == "ct":
        return replace(profile, channels=one_range(LINEAR_HU), unit="intensity")
    if strategy == "linear":
        return replace(profile, channels=one_range((0.0, 100.0)), unit="percent")
    return profile


def one_range(limits: Range) -> tuple[Range, Range, Range]:
    """The same range in all channels: the linear and the single-window strategy of the paper's ablation (its Table 5)."""
    return limits, limits, limits


def three_channels(array: NDArray[np.floating], profile: Profile, body: NDArray[np.bool_] | None = None) -> Bytes:
    """A scan as bytes in three channels: below a channel's range 0, above it 255, linear between.

    Args:
        array: [z,y,x] intensities, finite.
        profile: the ranges.
        body: [z,y,x] whose values the quantiles are of; None, or empty: of all.

    Returns:
        uint8 [z,y,x,3].

    Raises:
        InputError: for values that are not finite, and if the scan has one value only.
    """
    lowest, highest = float(array.min()), float(array.max())
    if not np.isfinite([lowest, highest]).all():
        raise InputError("The image holds values that are not finite.", "Replace them before making masks.")
    if lowest == highest:
        raise InputError(f"Every voxel of the image is {lowest:g}: the image is constant.", "Check the file.")
    ranges: Sequence[Sequence[float]] = profile.channels
    if profile.unit == "percent":
        ranges = np.percentile(array[body] if body is not None and body.any() else array, ranges).tolist()
    return np.stack([_bytes(array, low, high) for low, high in ranges], axis=-1)


def _bytes(array: NDArray[np.floating], low: float, high: float) -> Bytes:
    """Rounded; where quantiles coincide the channel shows what lies above them."""
    if high <= low:
        return np.where(array > low, np.uint8(255), np.uint8(0))
    scaled = (array.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)
