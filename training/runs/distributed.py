"""The processes of a run: one under plain `python -m`, several under `torchrun`. All hold the same weights and average their gradients."""

import atexit
import gc
import importlib
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mass_core.devices import choose_device
from mass_core.errors import InputError

_OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of the run."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> "ProcessGroup":
        """Meet the other processes `torchrun` started, if there are any.

        Args:
            device: as for `choose_device`; with several processes, cuda stands for one GPU each.

        Raises:
            InputError: if `torchrun` is to restart processes that could not meet again.
        """
        rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if size == 1:
            return cls(0, 1, choose_device(device))
        restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
        if restarts and os.environ.get(_OWN_STORE) != "1":
            # Restarted processes would read the addresses of the dead ones (https://github.com/pytorch/pytorch/issues/135712).
            raise InputError(
                f"With --max-restarts {restarts} torchrun hands the old processes' addresses to the new ones.", f"Set {_OWN_STORE}=1."
            )
        chosen = choose_device(device)
        if chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(chosen)
        # Its functions take the group there is when it is first imported as their default, and hold it for ever; DistributedDataParallel
        # imports it. Imported now, there is none yet, so that `leave` can end the threads of the group.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        if chosen.type != "cuda":
            atexit.register(_end)  # a run that fails does not come to `leave`
        return cls(rank, size, chosen)

    @property
    def leads(self) -> bool:
        """True if this process writes the run's files."""
        return self.rank == 0

    def share(self, batch_size: int, parts: int = 1) -> int:
        """Samples of a step that fall to each process, or to each of the `parts` it computes one after the other.

        Raises:
            InputError: if they cannot be divided evenly.
        """
        if batch_size % (self.size * parts):
            among = f"{self.size} processes" + (f" in {parts} parts each" if parts > 1 else "")
            raise InputError(f"A batch of {batch_size} cannot be divided among {among}.", "Set batch_size to a multiple.")
        return batch_size // (self.size * parts)

    def wrap(self, network: nn.Module) -> Callable[..., Tensor]:
        """The network, its gradients averaged over all processes."""
        if self.size == 1:
            return network
        # Of kernels with a single voxel or input channel, weight and gradient lie alike in memory whichever of two strides each is given.
        warnings.filterwarnings("ignore", message="Grad strides do not match")
        return nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)

    def alone(self, network: Callable[..., Tensor], last: bool) -> AbstractContextManager[object]:
        """While gradients of parts of a step add up, nothing is sent; with the last part the sums are averaged."""
        skip_sync = isinstance(network, nn.parallel.DistributedDataParallel) and not last
        return network.no_sync() if skip_sync else nullcontext()  # type: ignore[attr-defined]

    def any(self, flag: bool) -> bool:
        """True if the flag is set in any process; all processes must call this together."""
        if self.size == 1:
            return flag
        votes = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(votes)
        return bool(votes > 0)

    def gather(self, mine: list[Any]) -> list[Any]:
        """The values of all processes, in the order of their ranks; all must call this together."""
        if self.size == 1:
            return mine
        every: list[list[Any]] = [[] for _ in range(self.size)]
        dist.all_gather_object(every, mine)
        return [one for some in every for one in some]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Wait for the others, then part; no thread of the group is left.

        A thread that still lets go of a tensor while Python shuts down aborts the process (https://github.com/pytorch/pytorch/issues/190489).
        The group ends its threads once nothing holds it any more, so networks from `wrap` must be out of use.
        """
        self.wait()
        if self.size > 1:
            _end()


def _end() -> None:
    """End the group of this process, if there is one, without waiting for the others, which may have failed."""
    if dist.is_initialized():
        gc.collect()
        dist.destroy_process_group()
