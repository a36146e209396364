"""The classes in a finetuned checkpoint of the released code: learned tokens beside the network, without names and values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import Recipe, Triple
from ..encoding.task import Task, TaskLabel
from ..errors import WeightsError

_PLAIN, _AVERAGED = "learnable_priors", "ema_learnable_priors"
_SPACING: Triple = (1.5, 1.5, 1.5)
"""mm; of all released weights."""


def released_tokens(values: Mapping[str, Any], path: Path, *, averaged: bool) -> list[Tensor]:
    """Class tokens [classes,queries+1,C] float32 of a released checkpoint, deepest stage first; empty: it was not finetuned.

    Args:
        values: of the file.
        path: of the file, for messages.
        averaged: those that belong to the averaged weights, if they are there.

    Raises:
        WeightsError: if stages or classes do not fit one another.
    """
    found = values.get(_AVERAGED if averaged and values.get(_AVERAGED) else _PLAIN)
    if not found:
        return []
    # a state dict with the keys "0", "1", "2", or a list
    stages = [found[key] for key in sorted(found, key=_number)] if isinstance(found, Mapping) else found
    tensors = isinstance(stages, Sequence) and all(isinstance(stage, Tensor) and stage.ndim == 3 for stage in stages)
    if not tensors or len({len(stage) for stage in stages}) != 1 or values.get("num_classes", len(stages[0])) != len(stages[0]):
        raise WeightsError(f"The class tokens in {path} do not fit one another.", "Copy the checkpoint again.")
    return [stage.float() for stage in stages]


def released_task(stages: Sequence[Tensor], recipe: Recipe) -> Task:
    """The classes of `released_tokens` as a task, numbered from 1: the file holds neither names nor values."""
    labels = tuple(
        TaskLabel(value=number, name=f"class {number}", spacing_zyx=recipe.spacing_zyx or _SPACING, tokens=tokens)
        for number, tokens in enumerate(zip(*stages, strict=True), 1)
    )
    return Task(labels=labels, fingerprint="", weights="", recipe=recipe, modality="auto")


def _number(key: str) -> int:
    """Of a stage: its key's last part, before which wrappers of the network put theirs."""
    last = key.rpartition(".")[2]
    return int(last) if last.isdecimal() else -1
