"""Validation of a finetuned network on the labelled scans of the split `val`, with the same segmenter as in use."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mass_core.evaluation.metrics import dice
from mass_core.evaluation.scoring import scan, segmenter_for
from mass_core.inference.segmenter import Segmenter
from mass_core.progress import Report, Steps

from .fixed_classes import FixedClasses
from .run import Run


class Validator:
    """Segments the validation scans with the current network.

    Args:
        run: has the scans, the classes, and the preprocessing that counts. Its processes share the scans; all get the same scores.
        average: the network.
    """

    def __init__(self, run: Run, average: FixedClasses) -> None:
        current = replace(run.model, network=average.network, config=average.network.config, name="average", fingerprint="average")
        # In the precision of training: on a processor, validation in float32 takes longer than the training in bfloat16 it looks at.
        self._segmenter = segmenter_for(Segmenter(current, precision=run.config.precision), run.cohort.dataset)
        self._run, self._average = run, average
        self._task = replace(run.task, fingerprint="average", weights="average", recipe=self._segmenter.recipe)

    def scores(self, progress: Report, cancelled: Callable[[], bool]) -> dict[str, float]:
        """Dice of each class, the mean over the scans that show it, as `dice_<value>`; their mean as `val_dice`.

        Raises:
            Cancelled: if `cancelled` said so.
        """
        group, cohort = self._run.group, self._run.cohort
        task, mine = self._average.learned(self._task), cohort.val[group.rank :: group.size]
        found: list[tuple[int, float]] = []
        steps = Steps(progress)
        for number, name in enumerate(mine):
            steps.at("validate", number, len(mine))
            image, truth = scan(cohort.dataset, name)
            labels = self._segmenter.segment(image, task, cancelled=cancelled).labels.array
            shown = [label.value for label in task.labels if (truth.array == label.value).any()]
            found += [(value, dice(truth.array == value, labels == value)) for value in shown]
        steps.at("validate", len(mine), len(mine))
        found = group.gather(found)
        means = {value: float(np.mean([d for v, d in found if v == value])) for value in sorted({v for v, _ in found})}
        return {f"dice_{value}": mean for value, mean in means.items()} | {"val_dice": float(np.mean(list(means.values())))}
