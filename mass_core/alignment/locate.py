"""Priors of structures in a target: every reference aligned, then one prior for each label."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from ..config import Recipe
from ..progress import Steps
from ..volumes.volume import Volume
from .align import Target, align, mirrored_axis
from .atlas import Atlas
from .prior import Prior, combined
from .trust import LEAST_TRUST

_DOUBTFUL = 0.07
"""Score of the best reference above which a target is also tried mirrored, which takes time. Most validation scans reach 0.045 to 0.06,
mirrored ones at least 0.078 unless they are nearly symmetric."""


def locate(
    atlases: Sequence[Atlas], values: Sequence[int], target: Volume, recipe: Recipe, device: torch.device, steps: Steps
) -> tuple[dict[int, Prior], str | None]:
    """The prior of every label that alignment puts into the target; those it puts outside or cannot place are missing.

    Where no reference fits well, the target is also tried mirrored: a wrong header is reported, not aligned into place.

    Args:
        atlases: the references.
        values: the labels.
        target: the scan.
        recipe: for modality, intensity limits and the weights of both.
        device: where to compute.
        steps: counts references and labels, as stage `align`; may stop the run.

    Returns:
        The priors; and the axis of the patient along which the target fits far better mirrored, None where it does not.
    """
    ready, alignments = Target(target, recipe, device), []
    total = len(atlases) + len(values)
    for number, atlas in enumerate(atlases):
        alignments.append(align(atlas, ready, check=partial(steps.at, "align", number, total)))
    priors = {}
    for number, value in enumerate(values, start=len(atlases)):
        steps.at("align", number, total)
        showing = [one for one in alignments if value in one.atlas.distances]
        prior = combined(showing, value, ready, recipe.fusion or (0.0, 1.0, 1.0, 0.0, 0.0)) if showing else None
        if prior is not None:
            priors[value] = prior
    best = min(alignments, key=lambda one: one.score)
    axis = mirrored_axis(best, ready, partial(steps.at, "align", total - 1, total)) if best.score > _DOUBTFUL else None
    steps.at("align", total, total)
    return priors, axis


def aligned_labels(priors: dict[int, Prior], target: Volume, kind: np.dtype) -> np.ndarray:
    """Label map [z,y,x] of what the alignment alone says; of two labels the one whose surface is further away wins.

    Args:
        priors: by label; those not trusted are left out.
        target: the scan.
        kind: of the label map.
    """
    labels, depth = np.zeros(target.array.shape, kind), np.zeros(target.array.shape, np.float16)
    for value, prior in priors.items():
        if prior.trust >= LEAST_TRUST:
            part, held = labels[prior.box.slices()], depth[prior.box.slices()]
            better = prior.distance > held
            part[better], held[better] = value, prior.distance[better]
    return labels
