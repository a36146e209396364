"""Classification metrics, AUC first as in the paper; what cannot be computed is null, not 0."""

from typing import Any

import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from mass_core.inference.classifier import ClassifierConfig
from mass_core.masks.statistics import mean_known


def scores(probabilities: Tensor, targets: Tensor, config: ClassifierConfig) -> dict[str, Any]:
    """Scores of scans.

    Args:
        probabilities: [scans, classes].
        targets: [scans, classes], 1 for the classes a scan has.
        config: says whether a scan has one class or any number.

    Returns:
        `scans`; `auc`: of the second class where there are two, else the mean over classes, each against all others; `auc_by_class`;
        `accuracy`; `balanced_accuracy`: mean share of right answers over classes, or over presence and absence of each class;
        `f1`: of the second class where there are two, else the mean over classes. Classes whose score is not defined count in no mean.
    """
    found = probabilities >= 0.5 if config.multi_label else torch.nn.functional.one_hot(probabilities.argmax(1), targets.shape[1]).bool()
    truth = targets > 0.5
    areas = [area(probabilities[:, c], truth[:, c]) for c in range(targets.shape[1])]
    f1 = [_f1(found[:, c], truth[:, c]) for c in range(targets.shape[1])]
    recalls = [_share(found[:, c], truth[:, c]) for c in range(targets.shape[1])]
    if config.multi_label:
        absent = [_share(~found[:, c], ~truth[:, c]) for c in range(targets.shape[1])]
        recalls = [mean_known([a, b]) for a, b in zip(recalls, absent, strict=True)]
    binary = not config.multi_label and len(config.classes) == 2
    right = (found == truth).float().mean() if config.multi_label else (found & truth).any(dim=1).float().mean()
    return {
        "scans": len(targets),
        "auc": areas[1] if binary else mean_known(areas),
        "accuracy": float(right),
        "balanced_accuracy": mean_known(recalls),
        "f1": f1[1] if binary else mean_known(f1),
        "auc_by_class": dict(zip(config.classes, areas, strict=True)),
    }


def area(probabilities: Tensor, truth: Tensor) -> float | None:
    """Area under the ROC curve of one class [scans]; None: all scans have it, or none has.

    It is the share of pairs, one with and one without the class, that are in order: the statistic of Mann and Whitney.
    """
    having, lacking = probabilities[truth].double().numpy(), probabilities[~truth].double().numpy()
    if not len(having) or not len(lacking):
        return None
    return float(mannwhitneyu(having, lacking, method="asymptotic").statistic) / (len(having) * len(lacking))


def _f1(found: Tensor, truth: Tensor) -> float | None:
    total = int(found.sum() + truth.sum())
    return 2 * int((found & truth).sum()) / total if total else None


def _share(found: Tensor, truth: Tensor) -> float | None:
    """Recall: share of the true scans that were found; None: there are none."""
    return int((found & truth).sum()) / int(truth.sum()) if truth.any() else None
