"""Priors of structures in a target: every reference aligned, then one prior for each label."""

from collections.abc import Sequence

import numpy as np
import torch

from ..config import Recipe
from ..progress import Steps
from ..volumes.volume import Volume
from .align import Target, align
from .atlas import Atlas
from .prior import LEAST_TRUST, Prior, combined


def locate(
    atlases: Sequence[Atlas], values: Sequence[int], target: Volume, recipe: Recipe, device: torch.device, steps: Steps
) -> dict[int, Prior]:
    """The prior of every label that alignment puts into the target; those it puts outside or cannot place are missing.

    Args:
        atlases: the references.
        values: the labels.
        target: the scan.
        recipe: for modality, intensity limits and the weights of both.
        device: where to compute.
        steps: told of every reference, as stage `align`; may stop the run.
    """
    ready, alignments = Target(target, recipe, device), []
    for number, atlas in enumerate(atlases):
        alignments.append(align(atlas, ready, check=lambda done=number: steps.at("align", done, len(atlases))))  # type: ignore[misc]
    steps.at("align", len(atlases), len(atlases))
    priors = {}
    for value in values:
        showing = [one for one in alignments if value in one.atlas.distances]
        prior = combined(showing, value, target.geometry, recipe.fusion or (0.0, 1.0, 1.0, 0.0, 0.0)) if showing else None
        if prior is not None:
            priors[value] = prior
    return priors


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
