"""Datasets of a run and their sampling weights."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mass_core.data.dataset import Dataset
from mass_core.data.opening import open_dataset
from mass_core.errors import InputError


@dataclass(frozen=True)
class Source:
    """A dataset and how often tasks are drawn from it."""

    dataset: Dataset
    weight: float | None = None
    """In proportion to the other datasets' weights; None: the number of scans counts."""

    def __str__(self) -> str:
        """Its training scans, and the weight where there is one."""
        name = identity(self.dataset, self.dataset.splits["train"])
        return name if self.weight is None else f"{name} with weight {self.weight:g}"


def identity(dataset: Dataset, names: Iterable[str]) -> str:
    """Name and number of some scans of a dataset, and a fingerprint that is another one where the scans are others or made otherwise."""
    cases = [asdict(dataset.case(name)) for name in sorted(names)]
    fingerprint = hashlib.sha256(json.dumps(cases).encode()).hexdigest()[:8]
    return f"{dataset.name} (scans: {len(cases)}, fingerprint: {fingerprint})"


def open_sources(words: Sequence[str]) -> tuple[Source, ...]:
    """Datasets as a command line names them: folders, all or none followed by `=` and a weight.

    Raises:
        InputError: if a dataset cannot be opened, or weights are missing, no numbers or not above zero.
    """
    given = [_parted(word) for word in words]
    weighted = [folder for folder, weight in given if weight is not None]
    if weighted and len(weighted) < len(given):
        bare = ", ".join(folder for folder, weight in given if weight is None)
        raise InputError(f"{', '.join(weighted)} has a weight, {bare} has none.", "Give every dataset a weight, DATASET=0.5, or none.")
    return tuple(Source(open_dataset(folder), weight) for folder, weight in given)


def weights(sources: Sequence[Source]) -> tuple[float, ...]:
    """Sampling weights of the datasets; empty: by number of scans."""
    return tuple(source.weight for source in sources if source.weight is not None)


def record(sources: Sequence[Source]) -> dict[str, Any]:
    """Names of the folders, and weights if there are any, as kept in the weights made of them."""
    names = [source.dataset.folder.name for source in sources]
    return {"data": names, "dataset_weights": list(weights(sources))}


def _parted(word: str) -> tuple[str, float | None]:
    """Folder and weight; a folder that exists may have the sign in its name."""
    folder, sign, text = word.rpartition("=")
    if not sign or Path(word).exists():
        return word, None
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise InputError(f"The weight of {folder} is {text!r}.", "Give a number above zero: DATASET=0.5, say.")
    return folder, weight
