"""Validation of a finetuned network on the labelled scans of the split `val`, with the same segmenter as in use."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mass_core.data.dataset import Dataset
from mass_core.evaluation.metrics import dice
from mass_core.evaluation.scoring import scan, segmenter_for
from mass_core.inference.segmenter import Segmenter
from mass_core.progress import Report, Steps
from mass_core.tasks.task import Task
from mass_core.weights.checkpoint import Model

from ..runs.distributed import ProcessGroup
from .fixed_classes import FixedClasses


class Judge:
    """Segments the validation scans with the current network.

    Args:
        model: whose preprocessing counts.
        average: the network.
        task: the classes.
        dataset: holds the scans.
        cases: their names.
        group: processes share the scans; all get the same scores.
        precision: that of training: on a processor validation in float32 takes longer than the training in bfloat16 it looks at.
    """

    def __init__(
        self,
        model: Model,
        average: FixedClasses,
        task: Task,
        dataset: Dataset,
        cases: Sequence[str],
        group: ProcessGroup,
        *,
        precision: str = "auto",
    ) -> None:
        current = replace(model, network=average.network, config=average.network.config, name="average", fingerprint="average")
        self._segmenter = segmenter_for(Segmenter(current, precision=precision), dataset)
        self._average, self._dataset, self._cases, self._group = average, dataset, cases, group
        self._task = replace(task, fingerprint="average", weights="average", recipe=self._segmenter.recipe)

    def scores(self, progress: Report, cancelled: Callable[[], bool]) -> dict[str, float]:
        """Dice of each class, the mean over the scans that show it, as `dice_<value>`; their mean as `val_dice`.

        Raises:
            Cancelled: if `cancelled` said so.
        """
        task, mine = self._average.learned(self._task), self._cases[self._group.rank :: self._group.size]
        found: list[tuple[int, float]] = []
        steps = Steps(progress)
        for number, name in enumerate(mine):
            steps.at("validate", number, len(mine))
            image, truth = scan(self._dataset, name)
            labels = self._segmenter.segment(image, task, cancelled=cancelled).labels.array
            shown = [label.value for label in task.labels if (truth.array == label.value).any()]
            found += [(value, dice(truth.array == value, labels == value)) for value in shown]
        steps.at("validate", len(mine), len(mine))
        found = self._group.gather(found)
        means = {value: float(np.mean([d for v, d in found if v == value])) for value in sorted({v for v, _ in found})}
        return {f"dice_{value}": mean for value, mean in means.items()} | {"val_dice": float(np.mean(list(means.values())))}
