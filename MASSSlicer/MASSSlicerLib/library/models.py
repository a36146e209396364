"""Finetuned models: weights with fixed classes, files in the user's folder of weights."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from slicer.i18n import tr as _

from mass_core.colors import LabelStyle
from mass_core.errors import MassError, WeightsError
from mass_core.weights import store as weights_store

from . import named_files

ENDING = ".safetensors"


@dataclass(frozen=True)
class Model:
    """A finetuned model and its classes."""

    name: str
    path: Path
    classes: dict[int, LabelStyle]
    """By their number in label maps."""


def listing() -> list[Model]:
    """All finetuned models in the user's folder, by name."""
    files = sorted(weights_store.folder().glob(f"*{ENDING}"))
    return [Model(path.stem, path, classes) for path in files if (classes := classes_of(path))]


def classes_of(weights: str | Path) -> dict[int, LabelStyle] | None:
    """Classes of weights; empty if they need references, None if they are missing.

    Args:
        weights: a name or a file.
    """
    try:
        path = weights_store.locate(weights)
        about = path.stat()
    except (MassError, OSError):
        return None
    return _read(path, about.st_mtime_ns, about.st_size)


def add(source: Path, name: str) -> None:
    """Copy a file into the folder of weights.

    Raises:
        WeightsError: if it is not a finetuned model.
        InputError: if the name cannot be a file's or is taken.
        OutputError: if it cannot be written.
    """
    if source.suffix != ENDING or not weights_store.classes(source):
        raise WeightsError(
            _("{path} is not a finetuned model.").format(path=source), _("Choose weights that need references under Advanced, Browse….")
        )
    named_files.copy(source, free(name))


def free(name: str) -> Path:
    """The file of a new name.

    Raises:
        InputError: if the name cannot be a file's, or is that of other weights.
    """
    target = named_files.free(weights_store.folder(), name, ENDING, _("model"))
    # Weights are chosen by name, so no two may share one, those that could be downloaded included.
    if target.stem in {entry.name for entry in weights_store.entries()}:
        raise named_files.taken(target.stem, _("model"))
    return target


@functools.lru_cache(maxsize=64)
def _read(path: Path, changed: int, size: int) -> dict[int, LabelStyle]:
    """Classes in a file, cached by modification time and size, because the window reads them often."""
    if path.suffix != ENDING:
        return {}
    try:
        return weights_store.classes(path)
    except WeightsError:
        return {}
