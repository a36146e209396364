"""Tasks: embeddings of the structures to segment, with their names, and the task file."""

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, safe_open, save
from torch import Tensor

from ..alignment.atlas import Atlas
from ..alignment.stored import from_tensors, to_tensors
from ..colors import LabelStyle
from ..config import Modality, Recipe, Triple, from_dict, to_dict
from ..errors import InputError, OutputError, WeightsError, concerning, listing
from ..files import write_bytes
from ..model import Tokens
from ..volumes.label_maps import MAX_LABEL
from .location import Location

FORMAT = "mass-task"
VERSION = 1
_ATLAS = "atlas"
"""Tensors of a file that alignment needs begin with this."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskLabel:
    """One structure to segment."""

    value: int
    """The number it gets in label maps."""
    name: str
    color: tuple[float, float, float] | None = None
    """Red, green, blue from 0 to 1, where the reference had one."""
    terminology: str = ""
    """Coded meaning as a segmentation file states it, where the reference had one."""
    spacing_zyx: Triple
    """Working voxel size in mm the reference was encoded at; targets are brought to the same."""
    tokens: Tokens
    """Task tokens [queries+1,C] float32 on the CPU, deepest stage first: the mean over references."""
    references: int = 1
    """Number of references that show it."""
    kept: float = 1.0
    """Share of the reference mask that lay inside the encoded crops, the mean over references."""
    parts: int = 1
    """Connected parts of the structure, the most any reference shows."""
    place: Location | None = None
    """Mean position in the scans of the references."""
    ml: float | None = None
    """Volume in the references, the mean; None: not known, as in tasks of earlier versions."""
    extent_mm: Triple | None = None
    """Extent in the references along left, posterior, superior, the mean; None: not known."""
    self_dice: float | None = None
    """Dice of what the network finds in the reference crops themselves, the mean: what it cannot find there it will not find elsewhere.
    None: not known, or not needed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Labels to segment, bound to the weights and the recipe they were encoded with. Holds no image."""

    labels: tuple[TaskLabel, ...]
    """Ascending values."""
    fingerprint: str
    """Of the weights; tokens mean nothing to others."""
    weights: str
    """Name of the weights, for messages."""
    recipe: Recipe
    """Recipe the references were encoded with."""
    modality: Modality | Literal["auto"]
    """Of the references; auto: not known."""
    warnings: tuple[str, ...] = ()
    """Warnings about the references from encoding."""
    atlases: tuple[Atlas, ...] = ()
    """The references made ready for alignment. They are derived from the images, so a task file holds them only where that is requested."""

    adapted: Mapping[str, Any] = field(default_factory=dict)
    """Of tokens fitted to the references: seed and steps of the fit; empty: they were not."""

    def __post_init__(self) -> None:
        """Refuse a task without labels or with one number twice."""
        values = [label.value for label in self.labels]
        if not values or values != sorted(set(values)):
            raise InputError(f"A task needs labels with distinct numbers, ascending; got {values}.")

    def require(self, fingerprint: str, weights: str) -> None:
        """Refuse weights this task was not made with.

        Raises:
            WeightsError: naming both weights.
        """
        if fingerprint != self.fingerprint:
            raise WeightsError(
                f"The task was encoded with the weights {self.weights} ({self.fingerprint[:12]}), not with {weights} ({fingerprint[:12]}).",
                f"Segment with {self.weights}, or encode the references again with {weights}.",
            )

    def groups(self) -> dict[Triple, list[int]]:
        """Indices into `labels` by working spacing: labels of one spacing are decoded together."""
        groups: dict[Triple, list[int]] = {}
        for index, label in enumerate(self.labels):
            groups.setdefault(label.spacing_zyx, []).append(index)
        return groups

    def tokens(self, indices: Sequence[int]) -> Tokens:
        """Tokens [1,K,queries+1,C] of some labels, ready for the network."""
        chosen = [self.labels[index].tokens for index in indices]
        return tuple(torch.stack(stage)[None] for stage in zip(*chosen, strict=True))

    def about(self, value: int, warnings: Iterable[str]) -> tuple[str, ...]:
        """The warnings that concern a label (`errors.concerning`)."""
        return concerning(value, {label.value: label.name for label in self.labels}, warnings)

    @property
    def styles(self) -> dict[int, LabelStyle]:
        """Name and colour of each label."""
        return {x.value: LabelStyle(x.name, x.color, x.terminology) for x in self.labels}

    def only(self, values: Sequence[int]) -> "Task":
        """The task with some of its labels.

        Raises:
            InputError: naming the labels it has, if one is missing.
        """
        known = {label.value: label for label in self.labels}
        missing = sorted(set(values) - set(known))
        if missing:
            raise InputError(f"The task has no label {listing(missing)}; it has {listing(known)}.", "Choose among those.")
        return replace(self, labels=tuple(known[value] for value in sorted(set(values))))

    def renumbered(self, value: int) -> "Task":
        """The task of a single label with another number.

        Raises:
            InputError: if it has several labels, or the number cannot be stored.
        """
        if len(self.labels) != 1:
            raise InputError(f"One number is given for {len(self.labels)} labels.", "Choose one label with --labels N.")
        if not 0 < value <= MAX_LABEL:
            raise InputError(f"{value} is not a valid label number.", f"Choose one from 1 to {MAX_LABEL}.")
        atlases = tuple(atlas.renumbered(self.labels[0].value, value) for atlas in self.atlases)
        return replace(self, labels=(replace(self.labels[0], value=value),), atlases=atlases)

    def save(self, path: str | Path, *, overwrite: bool = False, with_alignment: bool = False) -> Path:
        """Write the task file.

        Args:
            path: of the file.
            overwrite: replace a file of that name.
            with_alignment: also keep what alignment needs, features and distances at coarse resolution. They are derived from the images.

        Raises:
            InputError: if alignment is requested and the task holds nothing to align.
            OutputError: if it exists and `overwrite` is off, or cannot be written.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists.", "Add --overwrite (overwrite=True) or choose another name.")
        tensors = {
            f"label{label.value}.stage{stage}": tokens.to(torch.float32).contiguous()
            for label in self.labels
            for stage, tokens in enumerate(label.tokens)
        }
        if with_alignment and not self.atlases:
            raise InputError(
                "The task holds nothing to align with a scan.",
                "Encode with weights that support alignment (`fusion` in `mass weights info`).",
            )
        for number, atlas in enumerate(self.atlases if with_alignment else ()):
            tensors |= {f"{_ATLAS}{number}.{name}": values for name, values in to_tensors(atlas).items()}
        write_bytes(path, save(tensors, {FORMAT: json.dumps(self.header())}))
        return path

    def header(self) -> dict[str, Any]:
        """Everything but the tokens, as JSON values."""
        plain = [one.name for one in fields(TaskLabel) if one.name not in ("tokens", "place")]
        labels = [{name: getattr(label, name) for name in plain} | {"place": label.place and asdict(label.place)} for label in self.labels]
        return {
            "version": VERSION,
            "weights": self.weights,
            "fingerprint": self.fingerprint,
            "modality": self.modality,
            "recipe": to_dict(self.recipe),
            "labels": labels,
            "warnings": self.warnings,
            **({"adapted": dict(self.adapted)} if self.adapted else {}),
        }

    @classmethod
    def load(cls, path: str | Path) -> "Task":
        """Read a task file.

        Raises:
            InputError: if the file is missing, damaged or something else.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"There is no task file {path}.", "Make one with: mass encode --reference IMAGE MASK --output TASK.masstask")
        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get(FORMAT)
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            cure = "Encode the references again with mass encode."
            raise InputError(f"{path} is not a task file, or is damaged: {error}.", cure) from error
        if text is None:
            raise InputError(f"{path} holds tensors, but no task.", "A task file is made with mass encode; weights go to --weights.")
        header = json.loads(text)
        try:
            tokens = [_tokens(label["value"], tensors) for label in header.get("labels", ())]
            return replace(cls.of_header(header, tokens), atlases=tuple(_atlases(tensors)))
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise InputError(f"{path} is an incomplete task file: {error}.", "Encode the references again with mass encode.") from error

    @classmethod
    def of_header(cls, header: dict[str, Any], tokens: Sequence[Tokens]) -> "Task":
        """The task of a header and the tokens of its labels, in order.

        Raises:
            InputError: if the header has another version.
            KeyError, TypeError, ValueError: if it is incomplete.
        """
        if header.get("version") != VERSION:
            raise InputError(f"The task has version {header.get('version')}; this MASSSlicer reads {VERSION}.", "Update MASSSlicer.")
        return cls(
            labels=tuple(_label(values, own) for values, own in zip(header["labels"], tokens, strict=True)),
            fingerprint=header["fingerprint"],
            weights=header["weights"],
            recipe=from_dict(Recipe, header["recipe"]),
            modality=header["modality"],
            warnings=tuple(header["warnings"]),
            adapted=dict(header.get("adapted", {})),
        )


def _atlases(tensors: dict[str, Tensor]) -> Iterator[Atlas]:
    """Data for alignment in a task file that holds it."""
    numbers = sorted({int(key[len(_ATLAS) :].split(".")[0]) for key in tensors if key.startswith(_ATLAS)})
    for number in numbers:
        start = f"{_ATLAS}{number}."
        yield from_tensors({key[len(start) :]: values for key, values in tensors.items() if key.startswith(start)})


def _tokens(value: int, tensors: dict[str, Tensor]) -> Tokens:
    """Of one label, in a task file."""
    return tuple(tensors[key] for key in sorted(key for key in tensors if key.startswith(f"label{value}.stage")))


def _label(values: dict[str, Any], tokens: Tokens) -> TaskLabel:
    """One label of the header, with its tokens."""
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    place = plain.pop("place", None)  # tasks of earlier versions do not tell
    plain["place"] = None if place is None else Location(tuple(place["centre_mm"]), tuple(place["scan_mm"]))
    return TaskLabel(**plain, tokens=tokens)
