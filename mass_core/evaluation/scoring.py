"""Evaluation of few-shot segmentation on a labelled dataset by the paper's protocol (its 4.1).

All methods and structures have the same references: some training scans that together show every structure. A scan counts for a structure
if it shows it; what is found of a structure in scans without it is reported apart, as is a structure of which nothing was found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..config import Modality, Triple
from ..data.dataset import Dataset
from ..errors import InputError
from ..inference.segmenter import Segmenter
from ..volumes.boxes import bounding_box
from ..volumes.volume import Volume
from .metrics import dice, surface_distances

METHODS = ("copied", "aligned", "scratch", "in-context", "default", "adapted", "finetuned")
"""As tables list them. copied: the reference's mask laid on the target, image centre on image centre. aligned: alignment alone. in-context:
the network alone. default: what users get. adapted: a task fitted to the references, the network alone. scratch and finetuned train a
network for the draw."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One method after one draw of references."""

    method: str
    shots: int
    draw: int


@dataclass(frozen=True, kw_only=True)
class Score(Trial):
    """One structure in one scan, found in one trial."""

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
    away: float | None = None
    """Distance of the centres of find and truth over the truth's length, its box's longest side; None: one of the two is not there."""
    warnings: str = ""
    """Warnings of the segmentation about it."""

    @property
    def trial(self) -> Trial:
        """The trial it is from."""
        return Trial(method=self.method, shots=self.shots, draw=self.draw)


def scan(dataset: Dataset, name: str) -> tuple[Volume, Volume]:
    """A case's normalised image with its modality, and its label map.

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
    modality = next((known for known in get_args(Modality) if known == case.modality), None)
    return Volume(dataset.image(name), case.grid, modality), Volume(labels, case.grid)


def segmenter_for(segmenter: Segmenter, dataset: Dataset) -> Segmenter:
    """For images of `scan`, which are cropped and normalised already: clipping and scaling change nothing about those, and none is
    guessed: in a dataset of several modalities each has that of its case."""
    return segmenter.with_recipe(segmenter.recipe.changed(modality=dataset.modality or "auto", modality_once=True, body_crop="none"))


def draw_scans(shown: Mapping[str, frozenset[int]], labels: Sequence[int], shots: int, draws: int, seed: int) -> list[tuple[str, ...]]:
    """Scans that together show every structure, `shots` for each draw; draws that follow one another share as few as possible.

    A draw takes scans in a random order; while it lacks structures, those that show most of them come first. More draws begin as fewer do.

    Args:
        shown: by name of a training scan, of `shown_labels`.
        labels: the structures.
        shots: scans of a draw.
        draws: how many.
        seed: of the order.

    Raises:
        InputError: if there are too few scans, or no draw shows everything.
    """
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(shown)) if shown[str(name)] & set(labels)]
    _check_enough(shown, labels, shots)
    drawn = []
    for _ in range(draws):
        lacking, chosen = set(labels), list[str]()
        for _ in range(shots):
            left = [name for name in order if name not in chosen]
            chosen.append(max(left, key=lambda name: len(shown[name] & lacking)))  # the first of the best
            lacking -= shown[chosen[-1]]
        if lacking:
            missing = ", ".join(map(str, sorted(lacking)))
            raise InputError(
                f"{shots} training scans do not show all structures: label {missing} is missing.",
                "Increase --shots, or choose fewer --labels.",
            )
        order = [name for name in order if name not in chosen] + chosen
        drawn.append(tuple(chosen))
    return drawn


def _check_enough(shown: Mapping[str, frozenset[int]], labels: Sequence[int], shots: int) -> None:
    """Check that enough scans show each structure for the draws."""
    for label in labels:
        if not any(label in values for values in shown.values()):
            raise InputError(f"No training scan shows label {label}.", "Choose other --labels.")
    count = sum(bool(values & set(labels)) for values in shown.values())
    if count < shots:
        raise InputError(f"Only {count} training scans show the structures; {shots} were requested.", "Choose fewer --shots.")


def score_scan(
    trial: Trial, case: str, labels: Sequence[int], truth: Volume, found: NDArray[Any], warnings: Mapping[int, Sequence[str]] | None = None
) -> list[Score]:
    """The scores of a scan.

    Args:
        trial: in which it was segmented.
        case: its name.
        labels: structures to score.
        truth: its label map.
        found: label map on the same grid.
        warnings: sentences about a structure, by label.
    """
    texts = {label: " ".join(sentences) for label, sentences in (warnings or {}).items()}
    return [replace(_score(trial, case, label, truth, found), warnings=texts.get(label, "")) for label in labels]


def _score(trial: Trial, case: str, label: int, truth: Volume, found: NDArray[Any]) -> Score:
    a, b, spacing = truth.array == label, found == label, truth.geometry.spacing_zyx
    ml = float(np.prod(spacing)) / 1000
    score = Score(**asdict(trial), case=case, label=label, truth_ml=np.count_nonzero(a) * ml, found_ml=np.count_nonzero(b) * ml)
    if not score.truth_ml:
        return score
    distances = _distances(a, b, spacing) if score.found_ml else (None, None)
    return replace(score, dice=dice(a, b), asd_mm=distances[0], hd95_mm=distances[1], away=_away(a, b, spacing) if score.found_ml else None)


def _away(truth: NDArray[np.bool_], found: NDArray[np.bool_], spacing_zyx: Triple) -> float:
    """Distance of the centres over the length of the truth."""
    box = bounding_box(truth)
    assert box is not None  # it is not empty
    length = max(n * mm for n, mm in zip(box.size, spacing_zyx, strict=True))
    apart = np.subtract(ndimage.center_of_mass(truth), ndimage.center_of_mass(found)) * spacing_zyx
    return float(np.linalg.norm(apart)) / length


def _distances(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing_zyx: Triple) -> tuple[float, float]:
    """Of the surfaces, computed in the box around both."""
    box = bounding_box(a | b)
    assert box is not None  # neither is empty
    return surface_distances(a[box.slices()], b[box.slices()], spacing_zyx)
