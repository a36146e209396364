"""A batch size that adapts to memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, is_out_of_memory

Items = TypeVar("Items", list[int], NDArray[np.float32])
Result = TypeVar("Result")


@dataclass
class BatchSize:
    """A batch size that is halved when memory runs out."""

    size: int

    def __post_init__(self) -> None:
        """Refuse an empty batch."""
        if self.size < 1:
            raise InputError(f"The batch size is {self.size}.", "Choose 1 or more.")

    def batches(self, items: Items, run: Callable[[Items], Result]) -> Iterator[tuple[Items, Result]]:
        """Batches of some items, each with its result; one that memory does not suffice for is halved and runs again.

        Other errors, and those of a batch of one, are raised as they are.
        """
        done = 0
        while done < len(items):
            batch = items[done : done + self.size]
            try:
                result = run(batch)
            except (RuntimeError, MemoryError) as error:
                if self.size == 1 or not is_out_of_memory(error):
                    raise
                self.size //= 2
                continue
            done += len(batch)
            yield batch, result
