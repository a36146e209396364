"""Parts of scans and where views are cut from them, for many episodes or crops at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WORD = 32
"""Masks that one whole number of `Batch.bits` holds."""


@dataclass(frozen=True)
class Batch:
    """Episodes laid end to end, since their parts of a scan differ in shape."""

    image: Tensor
    """[V] floating point."""
    bits: Tensor
    """[words,V] int32: mask k in bit k % 32 of word k // 32; in finetuning one word with the number of the class."""
    shapes: Tensor
    """[B,views,3] int64: the part of a scan each view is cut from."""
    starts: Tensor
    """[B,views] int64: where that part begins in `image` and `bits`."""
    affines: Tensor
    """[B,views,3,4] float32: two views of an episode, one of a crop (`training.finetune.crops`)."""
    slots: int
    """Masks of every task in the batch."""

    @classmethod
    def of(cls, parts: Sequence[Sequence[tuple[NDArray[Any], NDArray[Any]]]], affines: Sequence[NDArray[Any]], slots: int) -> "Batch":
        """Lay parts of scans end to end.

        Args:
            parts: of each episode image [z,y,x] and bits [z,y,x] or [words,z,y,x] of the scan, or of each view's scan.
            affines: [views,3,4] of each episode.
            slots: masks of every task.
        """
        everything = [part for some in parts for part in some]
        firsts = np.cumsum([0, *(image.size for image, _ in everything[:-1])])
        owners = iter(range(len(everything)))
        views = len(affines[0])
        lines = [(own * views)[:views] for own in ([next(owners) for _ in some] for some in parts)]
        return cls(
            image=torch.from_numpy(np.concatenate([image.ravel() for image, _ in everything])),
            bits=torch.from_numpy(np.concatenate([bits.reshape(-1, image.size) for image, bits in everything], axis=1)),
            shapes=torch.tensor([[everything[i][0].shape for i in line] for line in lines]),
            starts=torch.from_numpy(firsts[np.array(lines)]),
            affines=torch.from_numpy(np.stack(affines)),
            slots=slots,
        )

    def pin_memory(self) -> "Batch":
        """Called by the loader: from page-locked memory the copy to the device overlaps with computing."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Batch":
        """The batch on the device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        moved: dict[str, Any] = {name: change(getattr(self, name)) for name in ("image", "bits", "shapes", "starts", "affines")}
        return replace(self, **moved)
