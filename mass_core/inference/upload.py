"""A prepared scan on the device where its windows are cut."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ..model.compute import Compute

_BUFFER_BYTES = 32 << 20
"""Of each of two buffers: pinning memory takes time, and so does starting a copy."""


class Mark(Protocol):
    """A place in what a device was given to do (`torch.cuda.Event`)."""

    def record(self) -> None:
        """Put it behind what was given so far."""

    def synchronize(self) -> None:
        """Wait until the device has come there; one that was never put anywhere is not waited for."""


def uploaded(volume_zyx: Tensor, compute: Compute) -> Tensor:
    """A volume [z,y,x] on the device on which its windows are blended; there already, the same one."""
    device = compute.blend_device
    if device.type != "cuda" or not compute.use.pinned_upload:
        return volume_zyx.to(device)
    there = torch.empty(volume_zyx.shape, dtype=volume_zyx.dtype, device=device)
    with torch.cuda.device(device):  # marks go where the copies do, which may be another GPU than the first
        return through_buffers(volume_zyx, there, pinned=_pinned, mark=torch.cuda.Event)


def _pinned(like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)


def through_buffers(
    source: Tensor, target: Tensor, *, pinned: Callable[[Tensor], Tensor], mark: Callable[[], Mark], size: int = _BUFFER_BYTES
) -> Tensor:
    """Copy a volume plane by plane through two buffers: while a device fetches one, the other is filled.

    Args:
        source: [z,y,x] in main memory.
        target: of the same shape, on the device.
        pinned: makes a buffer of the shape and kind of a tensor, which the device can read while the host works.
        mark: makes a mark on the device's way.
        size: bytes of a buffer.

    Returns:
        The target.
    """
    planes = max(1, size // max(1, source[0].nbytes))
    buffers = [pinned(source[:planes]) for _ in range(2)]
    fetched = [mark(), mark()]
    for number, first in enumerate(range(0, len(source), planes)):
        part, turn = source[first : first + planes], number % 2
        fetched[turn].synchronize()
        buffer = buffers[turn][: len(part)]
        buffer.copy_(part)
        target[first : first + planes].copy_(buffer, non_blocking=True)
        fetched[turn].record()
    return target
