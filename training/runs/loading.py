"""Samples of this process, loaded in the order of the steps."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from .distributed import ProcessGroup
from .stopping import ignore_interrupt


def own_numbers(steps: range, batch_size: int, group: ProcessGroup, parts: int = 1) -> Iterator[range]:
    """Numbers of this process's samples in each part of each step.

    A step has the same samples whatever the number of processes and parts.

    Raises:
        InputError: if the batch cannot be divided evenly.
    """
    share = group.share(batch_size, parts)
    for step in steps:
        for part in range(parts):
            first = step * batch_size + (group.rank * parts + part) * share
            yield range(first, first + share)


def loaded(
    samples: Dataset[Any], batches: Iterable[Any], workers: int, group: ProcessGroup, collate: Callable[..., Any] | None = None
) -> "DataLoader[Any]":
    """Batches of samples.

    Args:
        samples: by number.
        batches: numbers of the samples of each batch.
        workers: processes that load them; 0: this one does.
        group: has the device they go to.
        collate: makes one of the samples of a batch (default: PyTorch's).
    """
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=4 if workers else None,
        pin_memory=group.device.type == "cuda",
        worker_init_fn=ignore_interrupt,
    )
