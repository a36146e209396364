"""Parameters of the worker's methods; `schema.read` checks them. Standard library only."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..colors import LabelStyle
from ..config import Recipe, recipe
from ..schema import check_counts, values_of


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A scan with the mask that says what to segment."""

    image: str
    mask: str
    labels: list[int] | None = None
    """Values of the mask that count; null: all but 0."""
    frame: int | None = None
    """Index of the volume in a 4D image, and in a 4D mask."""
    same_grid: bool = False
    """The mask belongs to the image voxel for voxel, wherever its header says it lies."""
    threshold: float | None = None
    """Values of the mask from this on are label 1; null: values are labels."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Parameters of `load`; encode, segment and features take the same."""

    weights: str = "small"
    device: str = "auto"
    ema: bool | None = None
    compile: bool = False
    """Compile what goes over windows, on a CUDA device with Triton: minutes once, faster from then on."""
    without: list[str] = field(default_factory=list)
    """Switches of inference on a GPU that are off, by name (`devices.DeviceUse`)."""
    recipe: Literal["default", "released"] = "default"
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe by name that shall differ from it."""

    @property
    def averaged(self) -> bool | None:
        """True to take averaged weights; None: the default of the reader."""
        return False if self.ema is None and self.recipe == "released" else self.ema

    def changed(self, base: Recipe) -> Recipe:
        """The recipe of this name, starting from a base, with the options in place of its own fields.

        Raises:
            InputError: naming an option that is unknown or cannot be used.
        """
        return replace(recipe(self.recipe, base), **values_of(Recipe, self.options, "options"))


@dataclass(frozen=True, kw_only=True)
class ReferenceRequest(Load):
    """Common parameters of encode, segment and assess."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    references: list[Reference] = field(default_factory=list)
    appearance: dict[str, LabelStyle] = field(default_factory=dict)
    """By value of the mask; overrides what the mask's file says."""
    labels: list[int] | None = None
    """Values to learn or to segment; null: all there are."""


@dataclass(frozen=True, kw_only=True)
class Encode(ReferenceRequest):
    """Parameters of `encode`."""

    output: str
    overwrite: bool = False
    with_alignment: bool = False
    """The task file also holds what alignment needs, derived from the images."""


@dataclass(frozen=True, kw_only=True)
class Adapt(Encode):
    """Parameters of `adapt`."""

    seconds: float = 30.0
    seed: int = 0
    """Of the windows looked at."""

    def __post_init__(self) -> None:
        """Validate the seed."""
        check_counts(self, "seed", least=0)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Geometry given to a result, in LPS mm."""

    spacing_xyz: tuple[float, float, float]
    origin_xyz: tuple[float, float, float]
    direction: tuple[float, float, float, float, float, float, float, float, float]
    """Row by row, as in SimpleITK."""


@dataclass(frozen=True, kw_only=True)
class TargetRequest(ReferenceRequest):
    """Common parameters of segment and assess."""

    target: str
    frame: int | None = None
    """Index of the volume in a 4D target."""
    task: str | None = None
    """A task file, instead of references."""


@dataclass(frozen=True, kw_only=True)
class Assess(TargetRequest):
    """Parameters of `assess`."""

    result: str
    """A label map that is there."""
    same_grid: bool = False
    """It belongs to the target voxel for voxel, wherever its header says it lies."""


@dataclass(frozen=True, kw_only=True)
class Segment(TargetRequest, Encode):
    """Parameters of `segment`."""

    assess: bool = False
    """Also estimate how good every label of the result is."""
    output_label: int | None = None
    """Number of a single label in the result; null: its own."""
    probabilities: bool = False
    crop: bool = False
    """The output holds the box around what was found only."""
    grid: Grid | None = None
    """Geometry of the output, whose voxels are the target's."""


@dataclass(frozen=True, kw_only=True)
class Features(Load):
    """Parameters of `features`."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    target: str
    frame: int | None = None
    """Index of the volume in a 4D target."""
    common: list[str] = field(default_factory=list)
    """Scans whose common colours it gets, at the voxel size of the first one; empty: its own."""
    seed: int = 0
    """Of the voxels that make the colours."""

    def __post_init__(self) -> None:
        """Validate the seed."""
        check_counts(self, "seed", least=0)

    output: str
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Parameters of `finetune`; `training.finetune` takes the same."""

    weights: str = "small"
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """float16 counts as auto: weights are trained in bfloat16 or float32."""
    cases: list[Reference] = field(default_factory=list)
    """Labelled scans as files."""
    dataset: str | None = None
    """Folder of a dataset, instead of `cases`."""
    labels: list[int] | None = None
    """Values to learn; null: all that training scans show."""
    appearance: dict[str, LabelStyle] = field(default_factory=dict)
    """By value of the masks; overrides what their files say."""
    modality: Literal["auto", "ct", "mr", "pet"] = "auto"
    """Of `cases`."""
    train_cases: list[str] | None = None
    """Names of the training scans of the dataset that count; null: all."""
    shots: int | None = None
    """So many training scans, drawn at random; null: all."""
    draw: int = 0
    """Number of the draw, from 0; successive draws share as few scans as possible."""
    scratch: bool = False
    """Start from random weights, as a baseline."""
    output: str | None = None
    """The weights file to write."""
    folder: str | None = None
    """Of the run; null: a temporary one."""
    resume: bool = False
    """Go on from the newest state in `folder`, if there is one."""
    recipe: str | None = None
    """Null: the one that suits the size of the network."""
    settings: list[str] = field(default_factory=list)
    """Changes to the recipe: "section.field=value"."""
    epochs: int | None = None
    minutes: float | None = None
    overwrite: bool = False
