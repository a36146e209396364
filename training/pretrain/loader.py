"""Batches of episodes, in the order of the steps, each process its share."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from torch.utils.data import DataLoader, Sampler

from mass_core.data.opening import open_dataset

from ..runs.distributed import Group
from ..runs.stopping import ignore_interrupt
from .config import RunConfig
from .episodes import Batch, Episode, Episodes, collate
from .schedule import window_at


def batches(config: RunConfig, data: Sequence[Path], start: int, group: Group) -> Iterator[list[Batch]]:
    """What this process computes in each step from `start` on, in `config.accumulate` parts, on its device."""
    episodes = Episodes(
        [open_dataset(path) for path in data],
        config.episodes,
        window=partial(window_at, config=config),
        batch_size=config.batch_size,
        seed=config.seed,
        steps=config.steps,
        weights=config.dataset_weights,
    )
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

    def __init__(self, steps: range, batch_size: int, group: Group, parts: int = 1) -> None:
        self.steps, self.batch_size = steps, batch_size
        share = group.share(batch_size, parts)
        self.mine = [range(first, first + share) for first in range(group.rank * parts * share, (group.rank + 1) * parts * share, share)]

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            for part in self.mine:
                yield [step * self.batch_size + place for place in part]

    def __len__(self) -> int:
        return len(self.steps) * len(self.mine)
