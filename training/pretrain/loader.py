"""Batches of episodes, in the order of the steps, each process its share."""

from collections.abc import Iterator, Sequence
from functools import partial

from mass_core.augmentation.batch import Batch
from mass_core.errors import InputError, listing

from ..runs.distributed import ProcessGroup
from ..runs.loading import loaded, own_numbers
from ..runs.sources import Source, weights
from .config import RunConfig
from .episodes import Episodes, collate
from .schedule import window_at

_NAMED = 3
"""Scans without masks that are named."""


def episodes_of(config: RunConfig, sources: Sequence[Source]) -> Episodes:
    """The episodes of a run.

    Raises:
        InputError: if training scans have nothing to learn from.
    """
    episodes = Episodes(
        [source.dataset for source in sources],
        config.episodes,
        window=partial(window_at, config=config),
        batch_size=config.batch_size,
        seed=config.seed,
        steps=config.steps,
        weights=weights(sources),
    )
    if bare := [name for source, scans in zip(sources, episodes.scans, strict=True) for name in _without_masks(source, len(scans))]:
        raise InputError(
            f"Training scans have no masks: {listing(bare, _NAMED)}.",
            "Make their masks with `mass masks`, or prepare the dataset without these scans.",
        )
    return episodes


def _without_masks(source: Source, usable: int) -> list[str]:
    """Training scans without masks, in a dataset of which `usable` scans can be used."""
    dataset, names = source.dataset, source.dataset.splits["train"]
    bare = [name for name in names if not len(dataset.masks(name))] if usable < len(names) else []
    return [f"{name} of {dataset.name}" for name in bare]


def batches(config: RunConfig, episodes: Episodes, start: int, group: ProcessGroup) -> Iterator[list[Batch]]:
    """Batches of this process in each step from `start` on, in `config.accumulate` parts, on its device."""
    own = own_numbers(range(start, config.steps), config.batch_size, group, config.accumulate)
    parts: list[Batch] = []
    for batch in loaded(episodes, own, config.workers, group, collate):
        parts.append(batch.to(group.device))
        if len(parts) == config.accumulate:
            yield parts
            parts = []
