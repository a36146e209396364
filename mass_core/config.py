"""Configurations: the network, and the recipe that leads from a scan to its label map.

Both are frozen and travel with the weights as JSON, so a model cannot be run with another model's preprocessing.
Sizes, spacings and margins are in array order z, y, x and say so in their names.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, TypeVar

from .errors import InputError, WeightsError
from .schema import check_choices

Modality = Literal["ct", "mr", "pet"]
Triple = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the network. The defaults are those of the released weights (paper section 6.2)."""

    in_channels: int = 1
    channels: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Feature channels from full resolution to the deepest level; each level halves the resolution."""
    stages: int = 3
    """Levels, counted from the deepest, at which task tokens and image features meet."""
    queries: int = 10
    """Learned task queries; the foreground token is added to them."""
    task_encoding: bool = True
    """False: a fixed-class network, whose class tokens are stored in the weights; it takes no reference."""
    task_rows: int = 73
    """Rows of the class-token buffers of a fixed-class model."""
    position_size: int = 128
    """Edge of the learned position volume in voxels: the largest reference crop."""
    encoder: str = "resunet"
    """resunet, the released weights'; with MONAI also resnet50, resnet152 and swin (`model.backbones`), and those that others have
    pretrained (`model.published`)."""
    encoder_arguments: tuple[str, ...] = ()
    """Of the encoder `monai`: name of the network, then its arguments as `name=value`."""
    summary_token: int = 0
    """Token that sums up a class after each fusion: 0, the first learned query, in the released weights; -1, the foreground token. That
    one differs between classes from the first step on: a network learned to tell masks apart in half the steps."""

    def __post_init__(self) -> None:
        """Refuse shapes no network can be built from."""
        if len(self.channels) < self.stages + 1:
            raise WeightsError(f"{self.stages} stages need at least {self.stages + 1} levels of channels, got {self.channels}.")
        odd = [c for c in self.channels[-self.stages :] if c % 32]
        if odd:
            raise WeightsError(f"Channels where tokens and features meet must be multiples of 32 (one attention head each), got {odd}.")

    @property
    def stride(self) -> int:
        """Voxels of the input a deepest feature covers along one axis; reference crops are multiples of it."""
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything between a file and a label map that is not the network.

    A recipe starts from what the weights were trained with. The fields under "mends" are switches: each one cures a defect of the
    released script, `released()` has them all off.
    """

    orientation: Literal["RAS", "none"] = "RAS"
    """RAS: voxel axes permuted and flipped so that x grows to the right, y to anterior, z to superior. none: as stored."""
    spacing_zyx: Triple | None = (1.5, 1.5, 1.5)
    """Working voxel size in mm. None: chosen for every label from its extent in the reference (see `extent_fraction`)."""
    interpolation: Literal["linear", "bspline"] = "linear"
    modality: Literal["auto", "ct", "mr", "pet"] = "auto"
    ct_clip_hu: tuple[float, float] = (-991.0, 500.0)
    percentiles: tuple[float, float] = (2.0, 98.0)
    """Intensity clip of MR and PET."""
    body_crop: Literal["threshold", "none"] = "threshold"
    body_threshold_hu: float = -500.0
    body_margin_zyx: Shape = (16, 32, 32)
    """Voxels at working spacing kept around the body."""
    window_zyx: Shape = (128, 128, 128)
    overlap: float = 0.5
    """Share of the window that neighbours have in common along each axis, 0 <= overlap < 1."""
    threshold: float = 0.5
    """Probability from which a voxel belongs to a label."""
    classes_per_pass: int = 0
    """Labels decoded together; 0: all of one working spacing. Labels of one pass influence each other."""
    parts: Literal["all", "largest", "reference"] = "all"
    """Connected parts kept of each label: all, the largest one, or as many of the largest as its references have."""
    place_mm: float = 0.0
    """With as many parts as the references have: a part so far from where they show the structure counts 0.6 of its size, one twice as far
    0.14 (a Gaussian); where extents say that target and references are scans of different regions, size alone counts. 0: always."""

    extent_fraction: float = 0.35
    """With a chosen spacing: share of the window the reference structure's longest side shall fill."""
    thickness_voxels: float = 3.5
    """With a chosen spacing: voxels that shall span the structure's thickness, even where its extent then exceeds the window."""
    spacing_limits_mm: tuple[float, float] = (0.8, 6.0)
    """With a chosen spacing: the finest and coarsest allowed."""

    align: Literal["auto", "off", "only"] = "auto"
    """auto: the references are aligned with the target, and their prior is combined with the network if `fusion` holds the weights. only:
    the aligned masks are the result. off: the network alone decides."""
    fusion: tuple[float, float, float, float, float] | None = None
    """Weights of alignment and network, fitted on validation patients (`alignment.fusion`); None: not fitted, so auto does not align."""

    normalise_before_crop: bool = True
    """Mend 9: reference intensities are those of the whole body region, as in training, not of a crop padded with raw zeros."""
    modality_once: bool = True
    """Mend 10: the modality is guessed once, on the whole image as stored, instead of on every crop."""
    edge_fill: bool = True
    """Mend 11: the working grid covers the scan whole, its border voxels continued outwards, instead of 0 in the outer half voxels."""
    blend_floor: float = 1e-3
    """Mend 12: least weight of a voxel in a window; 0 lets corner probabilities fade as in the released script."""
    smooth_restore: bool = True
    """Mend 14: probabilities, not labels, are interpolated back onto the target's grid."""
    skip_uniform: bool = True
    """Windows of a single value, air around the body, are not computed: nothing is there."""
    cover_reference: bool = True
    """Mend 16: a reference that exceeds the window is encoded by several crops on its densest parts, averaged."""
    antialias: bool = True
    """Along axes that become coarser the image is averaged over the new voxel instead of sampled; else fine detail turns into noise."""
    mask_coverage: bool = True
    """Reference masks keep their volume and their thin parts when resampled: voxels of most coverage instead of nearest neighbours."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, naming them."""
        check_choices(self)
        if not 0 <= self.overlap < 1:
            raise InputError(f"The overlap of windows is {self.overlap}.", "Choose a number from 0 up to, not including, 1.")
        if self.spacing_zyx is not None and not all(s > 0 for s in self.spacing_zyx):
            raise InputError(f"The working spacing is {self.spacing_zyx} mm.", "All three must be above zero.")
        if not all(w > 0 for w in self.window_zyx):
            raise InputError(f"The window is {self.window_zyx} voxels.", "All three sizes must be above zero.")
        if self.place_mm < 0:
            raise InputError(f"place_mm is {self.place_mm}.", "Choose 0 or a distance in mm.")
        if not 0 < self.threshold < 1:
            raise InputError(f"The threshold is {self.threshold}.", "Choose a probability between 0 and 1.")
        if self.ct_clip_hu[0] >= self.ct_clip_hu[1]:
            raise InputError(f"The CT clip range is {self.ct_clip_hu} HU.", "The first number must be below the second.")

    @property
    def aligns(self) -> bool:
        """True if references are aligned with targets."""
        return self.align == "only" or (self.align == "auto" and self.fusion is not None)

    def changed(self, **changes: Any) -> "Recipe":
        """This recipe with some fields replaced; None means: leave as it is."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


RELEASED_SWITCHES: dict[str, Any] = {
    "align": "off",
    "normalise_before_crop": False,
    "modality_once": False,
    "edge_fill": False,
    "blend_floor": 0.0,
    "parts": "largest",
    "smooth_restore": False,
    "skip_uniform": False,
    "cover_reference": False,
    "antialias": False,
    "mask_coverage": False,
}
"""Settings that follow the released script; everything else in a recipe is common ground."""


def recipe(name: str, base: Recipe | None = None) -> Recipe:
    """Recipe `default` or `released`, starting from what the weights record.

    Raises:
        InputError: for another name.
    """
    base = base or Recipe()
    if name == "default":
        return base
    if name == "released":
        return replace(base, **RELEASED_SWITCHES)
    raise InputError(f"There is no recipe {name!r}.", "Choose default or released.")


Config = TypeVar("Config", ModelConfig, Recipe)


def to_dict(config: ModelConfig | Recipe) -> dict[str, Any]:
    """Plain JSON values of a configuration."""
    return asdict(config)


def from_dict(kind: type[Config], values: dict[str, Any]) -> Config:
    """Rebuild a configuration from `to_dict` values; lists become tuples again.

    Raises:
        WeightsError: if a field is unknown to this version.
    """
    if unknown := sorted(set(values) - {field.name for field in fields(kind)}):
        raise WeightsError(f"The weights use settings unknown to this version: {', '.join(unknown)}.", "Update MASSSlicer.")
    arguments: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return kind(**arguments)


def differences(before: Any, now: Any, name: str = "") -> dict[str, str]:
    """Differences of two configurations given as JSON values: a text with both values, by dotted name."""
    if isinstance(before, dict) and isinstance(now, dict):
        inner = [differences(before[key], now[key], f"{name}.{key}".lstrip(".")) for key in before if key in now]
        return {key: text for found in inner for key, text in found.items()}
    return {} if before == now else {name: f"{name} was {before!r}, now {now!r}"}
