"""In-context validation of the averaged network on labelled scans it was not trained on, with the same segmenter as in use.

References are training scans, targets those of the split `val`; the split `test` is never read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mass_core.data.dataset import Dataset, shown_labels
from mass_core.encoding.task import Task
from mass_core.evaluation.scoring import Score, Trial, scan, score_scan, segmenter_for
from mass_core.evaluation.tables import table
from mass_core.inference.segmenter import Segmenter
from mass_core.weights.checkpoint import Model, fingerprint

from ..runs.distributed import ProcessGroup
from ..runs.logbook import PATIENCE_S, progress_bar
from ..runs.sources import Source
from .config import RunConfig
from .state import State


@dataclass(frozen=True)
class Labelled:
    """Validation scans of one dataset with their references."""

    dataset: Dataset
    cases: tuple[str, ...]
    references: dict[int, str]
    """For each structure the training scan used as its reference."""


def labelled(config: RunConfig, sources: Sequence[Source]) -> tuple[list[Labelled], list[str]]:
    """The datasets with labelled validation scans, and notes for the user."""
    sets, notes = [], []
    for dataset in (source.dataset for source in sources):
        cases = tuple(name for name in dataset.splits["val"] if dataset.case(name).labels is not None)[: config.validate_cases]
        if not cases:
            notes.append(f"{dataset.name} has no labelled scans in its split val.")
            continue
        if len(modalities := sorted({case.modality for case in dataset.cases})) > 1:
            notes.append(f"{dataset.name} mixes {', '.join(modalities)}: scans may be segmented with references of another modality.")
        references, unknown = _references(dataset, cases, config.seed)
        notes += [f"No training scan of {dataset.name} shows label {label}; it is not validated." for label in unknown]
        if references:
            sets.append(Labelled(dataset, cases, references))
    if not sets:
        notes.append("There is nothing to validate on: the last weights are kept as the best.")
    return sets, notes


def _references(dataset: Dataset, cases: Sequence[str], seed: int) -> tuple[dict[int, str], list[int]]:
    """For each structure the cases show, in ascending order, a training scan that shows it too; and the structures without one."""
    wanted = frozenset[int]().union(*shown_labels(dataset, cases).values())
    found: dict[int, str] = {}
    order = np.random.default_rng(seed).permutation(dataset.splits["train"])
    for name in progress_bar(map(str, order), total=len(order), desc="references", unit="scan", leave=False, delay=PATIENCE_S):
        if len(found) == len(wanted):
            break
        for shown in shown_labels(dataset, [name]).values():
            found = dict.fromkeys(shown & wanted, name) | found
    return dict(sorted(found.items())), sorted(wanted - set(found))


def validate(config: RunConfig, sets: Sequence[Labelled], state: State, group: ProcessGroup) -> dict[str, float]:
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
        task = _task(segmenter, one)
        mine = progress_bar(one.cases[group.rank :: group.size], desc="validate", unit="scan", leave=False, disable=not group.leads)
        scores = group.gather([score for name in mine for score in _scores(segmenter, task, one, name)])
        means[f"val_{one.dataset.name}"] = float(np.nanmean([row.dice for row in table(scores, one.dataset.label_names)]))
    return {**means, "val_dice": float(np.mean(list(means.values())))}


def _task(segmenter: Segmenter, labelled: Labelled) -> Task:
    """The task with each structure encoded from its reference."""
    singles = [segmenter.encode([scan(labelled.dataset, name)], [label]) for label, name in labelled.references.items()]
    return replace(singles[0], labels=tuple(single.labels[0] for single in singles))


def _scores(segmenter: Segmenter, task: Task, labelled: Labelled, name: str) -> list[Score]:
    image, truth = scan(labelled.dataset, name)
    found = segmenter.segment(image, task).labels.array
    return score_scan(Trial(method="in-context", shots=1, draw=0), name, list(labelled.references), truth, found)
