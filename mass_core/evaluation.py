"""How well structures are found in a dataset's scans after a few of its scans as references: the paper's protocol (its 4.1).

References are drawn for each structure by itself among the training scans that show it. A scan counts for a structure if it shows it;
what is found of a structure in scans without it is reported apart, as is a structure of which nothing was found.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from .components import bounding_box
from .config import Modality, Triple
from .dataset import Dataset
from .errors import InputError
from .metrics import dice, surface_distances
from .segmenter import Segmenter
from .task import Task
from .volume import Geometry, Volume, slices


@dataclass(frozen=True, kw_only=True)
class Score:
    """One structure in one scan, found with one draw of references."""

    shots: int
    draw: int
    case: str
    label: int
    truth_ml: float
    """0: the scan does not show it."""
    found_ml: float
    dice: float | None = None
    """None: the scan does not show it."""
    asd_mm: float | None = None
    """Average distance of the surfaces; None: one of the two is not there."""
    hd95_mm: float | None = None
    """95th percentile of the distances, the larger of both directions."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a table says about a structure."""

    shots: int
    label: int
    name: str
    scans: int
    """That show it."""
    dice: float
    """Mean over scans, then over draws, as all of these."""
    dice_sd: float
    """Standard deviation over draws; 0 for a single one."""
    asd_mm: float | None
    hd95_mm: float | None
    missed: float
    """Share of the scans that show it in which nothing was found; those have no distances."""
    false_ml: float | None
    """Mean volume found in scans that do not show it; None: all do."""


def scan(dataset: Dataset, name: str) -> tuple[Volume, Volume]:
    """A case's normalised image, its modality said, and its label map.

    Raises:
        InputError: if the case has no label map.
    """
    image, labels = case_volumes(dataset, name)
    return replace(image, array=image.array.astype(np.float32)), replace(labels, array=np.asarray(labels.array))


def case_volumes(dataset: Dataset, name: str) -> tuple[Volume, Volume]:
    """The same, mapped into memory as it is stored: many scans at once take little of it.

    Raises:
        InputError: if the case has no label map.
    """
    case, labels = dataset.case(name), dataset.labels(name)
    if labels is None:
        raise InputError(f"The case {name} of {dataset.folder} has no labels.", "Prepare the dataset with --labels DIR.")
    x, y, z = case.spacing_zyx[::-1]
    grid = Geometry(shape_zyx=case.shape_zyx, spacing_xyz=(x, y, z), origin_xyz=case.origin_xyz, direction=case.direction)
    modality = next((known for known in get_args(Modality) if known == case.modality), None)
    return Volume(dataset.image(name), grid, modality), Volume(labels, grid)


def segmenter_for(segmenter: Segmenter, dataset: Dataset) -> Segmenter:
    """For images of `scan`, which are cropped and normalised already: clipping and scaling change nothing about those, and none is
    guessed: in a dataset of several modalities each has that of its case."""
    modalities = {case.modality for case in dataset.cases}
    modality = modalities.pop() if len(modalities) == 1 else "auto"
    return segmenter.with_recipe(segmenter.recipe.changed(modality=modality, modality_once=True, body_crop="none"))


def draw_references(dataset: Dataset, label: int, shots: int, draws: int, seed: int) -> list[tuple[str, ...]]:
    """Names of the training scans that show a structure, `shots` for each draw; draws that follow one another share as few as possible.

    Raises:
        InputError: if too few show it.
    """
    rng = np.random.default_rng((seed, label))
    order = [str(name) for name in rng.permutation(dataset.splits["train"])]
    wanted, showing = shots * draws, []
    for name in order:
        labels = dataset.labels(name)
        if labels is not None and (labels == label).any():
            showing.append(name)
        if len(showing) == wanted:
            break
    if len(showing) < shots:
        raise InputError(
            f"{len(showing)} training scans of {dataset.folder} show label {label}, {shots} are asked for.", "Ask for fewer --shots."
        )
    return [tuple(showing[(draw * shots + k) % len(showing)] for k in range(shots)) for draw in range(draws)]


def learn(dataset: Dataset, segmenter: Segmenter, labels: Sequence[int], shots: int, draws: int, seed: int) -> list[Task]:
    """A task of all structures for each draw of references."""
    tasks: list[Task] = []
    drawn = {label: draw_references(dataset, label, shots, draws, seed) for label in labels}
    for draw in range(draws):
        singles = [segmenter.encode([scan(dataset, name) for name in drawn[label][draw]], [label]) for label in labels]
        tasks.append(replace(singles[0], labels=tuple(single.labels[0] for single in singles)))
    return tasks


Judged = Callable[[Sequence[Score], Volume, Volume, NDArray[Any]], None]
"""Hears the scores of a case with one draw, its image, its true labels and the labels found."""


def evaluate(
    dataset: Dataset, segmenter: Segmenter, cases: Sequence[str], tasks: dict[int, list[Task]], judged: Judged | None = None
) -> Iterator[list[Score]]:
    """The scores of each case, one case after the other.

    Args:
        dataset: with labels.
        segmenter: of `segmenter_for`.
        cases: names.
        tasks: by number of references one for each draw, of `learn`.
        judged: see `Judged`.
    """
    for name in cases:
        image, truth = scan(dataset, name)
        scores: list[Score] = []
        for shots, draws in tasks.items():
            for draw, task in enumerate(draws):
                found = segmenter.segment(image, task).labels.array
                some = [_judge(shots, draw, name, label.value, truth, found) for label in task.labels]
                scores += some
                if judged is not None:
                    judged(some, image, truth, found)
        yield scores


def _judge(shots: int, draw: int, case: str, label: int, truth: Volume, found: NDArray[Any]) -> Score:
    a, b, spacing = truth.array == label, found == label, truth.geometry.spacing_zyx
    ml = float(np.prod(spacing)) / 1000
    score = Score(shots=shots, draw=draw, case=case, label=label, truth_ml=np.count_nonzero(a) * ml, found_ml=np.count_nonzero(b) * ml)
    if not score.truth_ml:
        return score
    distances = _distances(a, b, spacing) if score.found_ml else (None, None)
    return replace(score, dice=dice(a, b), asd_mm=distances[0], hd95_mm=distances[1])


def _distances(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing_zyx: Triple) -> tuple[float, float]:
    """Of the surfaces, computed in the box around both."""
    box = bounding_box(a | b)
    assert box is not None  # neither is empty
    return surface_distances(a[slices(box)], b[slices(box)], spacing_zyx)


def table(scores: Sequence[Score], names: dict[int, str]) -> list[Row]:
    """A row for each number of references and structure, in this order."""
    keys = sorted({(score.shots, score.label) for score in scores})
    return [_row([s for s in scores if (s.shots, s.label) == key], names.get(key[1], f"label {key[1]}")) for key in keys]


def _row(scores: Sequence[Score], name: str) -> Row:
    shown, absent = [s for s in scores if s.truth_ml], [s for s in scores if not s.truth_ml]
    draws = [[s for s in shown if s.draw == draw] for draw in sorted({s.draw for s in shown})]
    means = [float(np.mean([s.dice for s in draw])) for draw in draws]
    return Row(
        shots=scores[0].shots,
        label=scores[0].label,
        name=name,
        scans=len({s.case for s in shown}),
        dice=float(np.mean(means)) if means else float("nan"),
        dice_sd=float(np.std(means, ddof=1)) if len(means) > 1 else 0.0,
        asd_mm=_mean_over_draws(draws, "asd_mm"),
        hd95_mm=_mean_over_draws(draws, "hd95_mm"),
        missed=float(np.mean([not s.found_ml for s in shown])) if shown else 0.0,
        false_ml=float(np.mean([s.found_ml for s in absent])) if absent else None,
    )


def _mean_over_draws(draws: Sequence[Sequence[Score]], field: str) -> float | None:
    means = [np.mean(known) for draw in draws if (known := [v for s in draw if (v := getattr(s, field)) is not None])]
    return float(np.mean(means)) if means else None


def markdown(rows: Sequence[Row]) -> str:
    """The table for people: structures down, their mean last, for each number of references."""
    lines = ["| references | structure | scans | Dice (sd over draws) | ASD mm | HD95 mm | missed | found where absent, ml |"]
    lines.append("|--:|---|" + "--:|" * 6)
    for shots in sorted({row.shots for row in rows}):
        some = [row for row in rows if row.shots == shots]
        for row in some:
            cells = (row.name, row.scans, f"{row.dice:.3f} ({row.dice_sd:.3f})", _cell(row.asd_mm), _cell(row.hd95_mm))
            lines.append(f"| {shots} | {' | '.join(map(str, cells))} | {row.missed:.0%} | {_cell(row.false_ml)} |")
        lines.append(f"| {shots} | **mean** | | **{np.nanmean([row.dice for row in some]):.3f}** | | | | |")
    return "\n".join(lines) + "\n"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def as_csv(records: Sequence[Score] | Sequence[Row], kind: type[Score] | type[Row]) -> str:
    """Records as a table for programs; what there is not stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(record) for record in records)
    return text.getvalue()
