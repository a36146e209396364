"""Batches of episodes, in the order of the steps, each process its share."""

from collections.abc import Iterator, Sequence
from functools import partial

from torch.utils.data import DataLoader, Sampler

from mass_core.errors import InputError

from ..augmentation.batch import Batch
from ..runs.distributed import ProcessGroup
from ..runs.sources import Source, weights
from ..runs.stopping import ignore_interrupt
from .config import RunConfig
from .episodes import Episode, Episodes, collate
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
        more = f" and {len(bare) - _NAMED} more" * (len(bare) > _NAMED)
        raise InputError(
            f"Training scans have no masks: {', '.join(bare[:_NAMED])}{more}.",
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
    loader: DataLoader[Episode] = DataLoader(
        episodes,
        batch_sampler=_Steps(range(start, config.steps), config.batch_size, group, config.accumulate),
        num_workers=config.workers,
        collate_fn=collate,
        prefetch_factor=4 if config.workers else None,
        pin_memory=group.device.type == "cuda",
        worker_init_fn=ignore_interrupt,
    )
    parts: list[Batch] = []
    for batch in loader:
        parts.append(batch.to(group.device))
        if len(parts) == config.accumulate:
            yield parts
            parts = []


class _Steps(Sampler[list[int]]):
    """Episode numbers of each part of each step, in order: shuffling is the episodes' own business. Whoever computes a number, it is the
    same episode, so the number of processes and parts changes nothing about what a step sees."""

    def __init__(self, steps: range, batch_size: int, group: ProcessGroup, parts: int = 1) -> None:
        self.steps, self.batch_size = steps, batch_size
        share = group.share(batch_size, parts)
        self.mine = [range(first, first + share) for first in range(group.rank * parts * share, (group.rank + 1) * parts * share, share)]

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            for part in self.mine:
                yield [step * self.batch_size + place for place in part]

    def __len__(self) -> int:
        return len(self.steps) * len(self.mine)
