"""What each method of the worker takes, and the check that it was given just that. Standard library only."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..config import Recipe, recipe
from ..errors import InputError


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A scan with the mask that says what to segment."""

    image: str
    mask: str
    labels: list[int] | None = None
    """Values of the mask that count; null: all but 0."""
    frame: int | None = None
    """Which volume of a 4D image, and of a 4D mask."""
    same_grid: bool = False
    """The mask belongs to the image voxel for voxel, wherever its header says it lies."""
    threshold: float | None = None
    """Values of the mask from this on are label 1; null: values are labels."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a label is called and shown; goes before what the mask's file says."""

    name: str
    color: tuple[float, float, float] | None = None
    terminology: str = ""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Of `load`; encode, segment and features take the same."""

    weights: str = "small"
    device: str = "auto"
    ema: bool | None = None
    recipe: Literal["default", "released"] = "default"
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe by name that shall differ from it."""

    @property
    def averaged(self) -> bool | None:
        """Whether to take averaged weights; None: the reader's own preference."""
        return False if self.ema is None and self.recipe == "released" else self.ema

    def changed(self, base: Recipe) -> Recipe:
        """The recipe of this name, starting from a base, with the options in place of its own fields.

        Raises:
            InputError: naming an option that is unknown or cannot be used.
        """
        return replace(recipe(self.recipe, base), **_values(Recipe, self.options, "options"))


@dataclass(frozen=True, kw_only=True)
class Learn(Load):
    """What encode, segment and assess take."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    references: list[Reference] = field(default_factory=list)
    appearance: dict[str, Look] = field(default_factory=dict)
    """By value of the mask."""
    labels: list[int] | None = None
    """Values to learn or to segment; null: all there are."""


@dataclass(frozen=True, kw_only=True)
class Encode(Learn):
    """Of `encode`."""

    output: str
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Adapt(Encode):
    """Of `adapt`."""

    seconds: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the voxels of a result shall lie, in LPS mm."""

    spacing_xyz: tuple[float, float, float]
    origin_xyz: tuple[float, float, float]
    direction: tuple[float, float, float, float, float, float, float, float, float]
    """Row by row, as in SimpleITK."""


@dataclass(frozen=True, kw_only=True)
class Order(Learn):
    """What segment and assess take."""

    target: str
    frame: int | None = None
    """Which volume of a 4D target."""
    task: str | None = None
    """A task file, instead of references."""


@dataclass(frozen=True, kw_only=True)
class Assess(Order):
    """Of `assess`."""

    result: str
    """A label map that is there."""


@dataclass(frozen=True, kw_only=True)
class Segment(Order, Encode):
    """Of `segment`."""

    assess: bool = False
    """Also estimate how good every label of the result is."""
    probabilities: bool = False
    crop: bool = False
    """The output holds the box around what was found only."""
    grid: Grid | None = None
    """The output's voxels are the target's, but are said to lie here."""


@dataclass(frozen=True, kw_only=True)
class Features(Load):
    """Of `features`."""

    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    target: str
    frame: int | None = None
    """Which volume of a 4D target."""
    output: str
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Of `finetune`; `training.finetune` takes the same."""

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
    appearance: dict[str, Look] = field(default_factory=dict)
    """By value of the masks."""
    modality: Literal["auto", "ct", "mr", "pet"] = "auto"
    """Of `cases`."""
    train_cases: list[str] | None = None
    """Names of the training scans of the dataset that count; null: all."""
    shots: int | None = None
    """So many training scans, drawn by chance; null: all."""
    draw: int = 0
    """Which draw, counted from 0; those that follow one another share as few scans as possible."""
    scratch: bool = False
    """Start from chance instead of from the weights, to compare with."""
    output: str | None = None
    """The weights file to write."""
    folder: str | None = None
    """Of the run; null: a temporary one."""
    recipe: str | None = None
    """Null: the one that suits the size of the network."""
    settings: list[str] = field(default_factory=list)
    """Changes to the recipe: "section.field=value"."""
    epochs: int | None = None
    minutes: float | None = None
    overwrite: bool = False


Kind = TypeVar("Kind")


def read(kind: type[Kind], values: Mapping[str, Any], where: str = "params") -> Kind:
    """Params of one kind.

    Args:
        kind: one of the classes here.
        values: as they came.
        where: for messages.

    Raises:
        InputError: naming what is missing, unknown or of the wrong kind.
    """
    given = _values(kind, values, where)
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    missing = [name for name in needed if name not in given]
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} is missing.")
    return kind(**given)


def _values(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values for some fields of a class, each as its field wants it."""
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise InputError(f"{where}: {', '.join(unknown)} is not known.", f"Known are {', '.join(known)}.")
    return {name: _as(hints[name], value, f"{where}: {name}") for name, value in values.items()}


def _as(kind: Any, value: Any, where: str) -> Any:
    """A JSON value as what an annotation asks for."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return None if value is None else _as(next(k for k in inner if k is not type(None)), value, where)
    if origin is list and isinstance(value, list):
        return [_as(inner[0], one, where) for one in value]
    if origin is tuple and isinstance(value, list) and len(value) == len(inner):
        return tuple(_as(k, one, where) for k, one in zip(inner, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {name: _as(inner[1], one, where) for name, one in value.items()}
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict):
        return read(kind, value, where)
    if origin is Literal and value in inner:
        return value
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and origin is None and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise InputError(f"{where} is {value!r}.", f"It must be {_described(kind)}.")


def _described(kind: Any) -> str:
    """An annotation in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin is tuple:
        return f"a list of {len(inner)} numbers"
    if origin is list:
        return f"a list, each {_described(inner[0])}"
    if origin is dict or is_dataclass(kind):
        return "an object"
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(kind, str(kind))
