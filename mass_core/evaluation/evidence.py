"""Evidence for the quality of a result without ground truth: repeated inference, and comparison of sizes and positions.

The network runs near the masks only: a window counts if it touches the mask or a rim of a quarter of a window around it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..config import Recipe, Triple
from ..encoding.location import Location, Measured
from ..encoding.task import Task, TaskLabel
from ..encoding.working_spacing import LADDER
from ..errors import InputError, listing
from ..inference.segmenter import Segmenter
from ..progress import Steps
from ..volumes.boxes import Box, label_boxes
from ..volumes.label_maps import on_grid
from ..volumes.volume import Geometry, Volume
from .metrics import dice

Reference = tuple[Volume, Volume]
"""An image with its label map."""

MOST_REFERENCES = 3
"""References in which a label is segmented again: more cost time and add little."""
_RIM = 0.25
"""Rim around a mask as a share of the window; the network does not search outside it."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Evidence about one label of a result; None: not known."""

    ml: float
    """Volume of the label in the result; 0: nothing was found, and nothing else is known."""
    cycle: float | None = None
    """Cycle consistency: mean Dice with the references' own masks when the result is the reference and their scans are the targets."""
    own: float | None = None
    """Dice with the result when the result is the reference and its own scan is the target."""
    scaled: float | None = None
    """Of a network that takes no references: Dice with what is found at the next coarser working spacing."""
    volume_ratio: float | None = None
    """Volume over the mean of the references."""
    extent_ratio: float | None = None
    """Of the extents along left, posterior and superior over those in the references the one furthest from 1."""
    offset: float | None = None
    """Distance from where the references show it, in mean extents of the label there; None also if the scans show different regions."""
    cut: bool = False
    """True if it reaches the border of the scan."""
    aligned: float | None = None
    """Trust of the alignment, 0 where the references could not be aligned with this part of the body."""


class QualityProbe:
    """One result and the inferences that check it.

    Args:
        segmenter: that found it.
        task: what was looked for.
        target: the scan.
        labels: label map on the target's grid.
        cancelled: called between windows; true stops the run.

    Raises:
        InputError: if the label map holds labels, but none of the task's.
        GeometryError: if it lies elsewhere than the scan.
    """

    def __init__(
        self, segmenter: Segmenter, task: Task, target: Volume, labels: Volume, cancelled: Callable[[], bool] | None = None
    ) -> None:
        self._segmenter = segmenter.with_recipe(segmenter.recipe.changed(align="off"))  # the network is tested, not the alignment
        self._task = task
        self._target = target
        self._labels = on_grid(labels, target.geometry)
        self._cancelled = cancelled
        self._boxes = label_boxes(self._labels.array)
        if self._boxes and not any(label.value in self._boxes for label in task.labels):
            raise InputError(
                f"The result holds {listing(self._boxes)}; the labels expected are {listing(x.value for x in task.labels)}.",
                "Give the label map that was made from these references or this task.",
            )

    def gather(self, references: Sequence[Reference], steps: Steps) -> dict[int, Evidence]:
        """Collect the evidence on every label of the task.

        Args:
            references: images with label maps the task was learned from; none: there is no cycle.
            steps: counts the questions, as stage `assess`.

        Raises:
            MassError: if a reference cannot be used, or memory does not suffice.
            Cancelled: if `cancelled` said so.
        """
        known = {label.value: self._plain(label) for label in self._task.labels}
        # Of less than a working voxel nothing can be learned.
        values = [label.value for label in self._task.labels if known[label.value].ml * 1000 >= math.prod(label.spacing_zyx)]
        answers: dict[str, dict[int, list[float]]] = {}
        questions = list(self._questions(values, references)) if values else []
        for done, (kind, ask) in enumerate(questions):
            steps.at("assess", done, len(questions))
            for value, answer in ask().items():
                answers.setdefault(kind, {}).setdefault(value, []).append(answer)
        steps.at("assess", 1, 1)
        for value in values:
            means: dict[str, Any] = {kind: float(np.mean(some[value])) for kind, some in answers.items() if value in some}
            known[value] = replace(known[value], **means)
        return known

    def _plain(self, label: TaskLabel) -> Evidence:
        """Volume, extent and position of the label."""
        box = self._boxes.get(label.value)
        if box is None:
            return Evidence(ml=0.0)
        grid = self._labels.geometry
        measured = Measured.of(self._labels, label.value, box, grid)
        return Evidence(
            ml=measured.ml,
            volume_ratio=measured.ml / label.ml if label.ml else None,
            extent_ratio=_strangest(measured.extent_mm, label.extent_mm),
            offset=_offset(measured.place, label),
            cut=any(low == 0 or high == n for low, high, n in zip(*box, grid.shape_zyx, strict=True)),
        )

    def _questions(self, values: list[int], references: Sequence[Reference]) -> Iterator[tuple[str, Callable[[], dict[int, float]]]]:
        """Inferences that check some labels: the field each one fills, and the function that runs it."""
        scan, labels, task = self._target, self._labels, self._task.only(values)
        if not self._segmenter.model.network.config.task_encoding:
            yield "scaled", partial(self._found_again, scan, labels, _scaled(task, LADDER))
            return
        spacings = {label.value: label.spacing_zyx for label in task.labels}
        try:
            learned = self._segmenter.encode([(scan, labels)], values, spacings=spacings, cancelled=self._cancelled)
        except InputError:  # without `mask_coverage` nothing may be left of something thin
            return
        yield "own", partial(self._found_again, scan, labels, learned)
        for image, mask, some in _shown(references, values):
            yield "cycle", partial(self._found_again, image, mask, learned.only(some))

    def _found_again(self, scan: Volume, labels: Volume, task: Task) -> dict[int, float]:
        """Dice of labels of a map with what a task finds near them."""
        boxes = label_boxes(labels.array)
        result: dict[int, float] = {}
        for spacing, indices in task.groups().items():
            values = [task.labels[index].value for index in indices]
            near = [_with_rim(boxes[value], scan.geometry, spacing, self._segmenter.recipe) for value in values]
            found = self._segmenter.segment(scan, task.only(values), near=near, cancelled=self._cancelled).labels.array
            for value in values:
                result[value] = dice(found == value, labels.array == value)
        return result


def _shown(references: Sequence[Reference], values: Sequence[int]) -> Iterator[tuple[Volume, Volume, list[int]]]:
    """References with the labels to segment in each; each label is segmented in a few at most."""
    seen = dict.fromkeys(values, 0)
    for image, mask in references:
        labels = on_grid(mask, image.geometry)
        present = label_boxes(labels.array)
        some = [value for value in values if value in present and seen[value] < MOST_REFERENCES]
        seen.update({value: seen[value] + 1 for value in some})
        if some:
            yield image, labels, some


def _with_rim(box: Box, grid: Geometry, spacing_zyx: Triple, recipe: Recipe) -> Box:
    """A box of the scan's voxels with the rim around it."""
    rim_mm = _RIM * max(n * edge for n, edge in zip(recipe.window_zyx, spacing_zyx, strict=True))
    return box.grown((math.ceil(rim_mm / edge) for edge in grid.spacing_zyx), grid.shape_zyx)


def _scaled(task: Task, factor: float) -> Task:
    """The same task at other working spacings."""
    labels = [replace(label, spacing_zyx=_times(label.spacing_zyx, factor)) for label in task.labels]
    return replace(task, labels=tuple(labels))


def _times(triple: Triple, factor: float) -> Triple:
    z, y, x = triple
    return z * factor, y * factor, x * factor


def _strangest(extents_mm: Triple, expected_mm: Triple | None) -> float | None:
    """The ratio of extents furthest from 1."""
    if expected_mm is None:
        return None
    return max((a / b for a, b in zip(extents_mm, expected_mm, strict=True)), key=lambda ratio: abs(math.log(ratio)))


def _offset(place: Location, label: TaskLabel) -> float | None:
    """Distance from the expected place, in extents of the label."""
    if label.place is None or label.extent_mm is None or not place.same_region(label.place):
        return None
    return math.dist(place.centre_mm, label.place.centre_mm) / float(np.mean(label.extent_mm))
