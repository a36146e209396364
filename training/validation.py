"""In-context validation: the averaged network, run by the same segmenter users have, on labelled scans it was not trained on.

References are training scans, targets those of the split `val`; the split `test` is never read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mass_core.checkpoint import Model, fingerprint
from mass_core.dataset import Dataset
from mass_core.errors import InputError
from mass_core.evaluation import draw_references, evaluate, learn, segmenter_for, table
from mass_core.segmenter import Segmenter

from .config import RunConfig
from .distributed import Group
from .state import State


@dataclass(frozen=True)
class Labelled:
    """What one dataset is judged by."""

    dataset: Dataset
    cases: tuple[str, ...]
    labels: tuple[int, ...]


def labelled(config: RunConfig, data: Sequence[Path]) -> tuple[list[Labelled], list[str]]:
    """The datasets that can be judged, and what the user should be told about them and about the others."""
    sets, told = [], []
    for dataset in map(Dataset.read, data):
        cases = tuple(name for name in dataset.splits["val"] if dataset.case(name).labels is not None)[: config.validate_cases]
        if not cases:
            told.append(f"{dataset.name} has no labelled scans in its split val.")
            continue
        if len(modalities := sorted({case.modality for case in dataset.cases})) > 1:
            told.append(f"{dataset.name} mixes {', '.join(modalities)}: scans may be judged by references of another modality.")
        labels, unknown = _labels(dataset, cases)
        told += [f"No training scan of {dataset.name} shows label {label}; it is not validated." for label in unknown]
        if labels:
            sets.append(Labelled(dataset, cases, labels))
    if not sets:
        told.append("Nothing to validate on: the last weights count as the best.")
    return sets, told


def _labels(dataset: Dataset, cases: Sequence[str]) -> tuple[tuple[int, ...], list[int]]:
    """Labels the cases show, by whether a training scan shows them too."""
    seen = sorted({int(value) for name in cases for value in np.unique(np.asarray(dataset.labels(name))) if value})
    known, unknown = [], []
    for label in seen:
        try:
            draw_references(dataset, label, 1, 1, 0)
            known.append(label)
        except InputError:
            unknown.append(label)
    return tuple(known), unknown


def validate(config: RunConfig, sets: Sequence[Labelled], state: State, group: Group) -> dict[str, float]:
    """Dice after one reference, mean over structures: of each dataset as `val_<name>`, and their mean as `val_dice`.

    Processes share the scans; all of them get the same values.
    """
    network = state.average
    model = Model(
        network=network,
        config=config.model,
        recipe=config.preprocess,
        provenance={},
        licence=config.licence,
        name="average",
        fingerprint=fingerprint(network),
        device=group.device,
    )
    means = {}
    for one in sets:
        segmenter = segmenter_for(Segmenter(model, config.preprocess), one.dataset)
        tasks = {1: learn(one.dataset, segmenter, one.labels, 1, 1, config.seed)}
        mine = one.cases[group.rank :: group.size]
        scores = group.gather([score for some in evaluate(one.dataset, segmenter, mine, tasks) for score in some])
        means[f"val_{one.dataset.name}"] = float(np.nanmean([row.dice for row in table(scores, one.dataset.label_names)]))
    return {**means, "val_dice": float(np.mean(list(means.values())))}
