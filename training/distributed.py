"""The processes of a run: one under plain `python -m`, several under `torchrun`. All hold the same weights and average their gradients."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mass_core.checkpoint import choose_device
from mass_core.errors import InputError


@dataclass(frozen=True)
class Group:
    """This process among those of the run."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> "Group":
        """Meet the other processes `torchrun` started, if there are any.

        Args:
            device: as for `choose_device`; with several processes, cuda stands for one GPU each.
        """
        rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if size == 1:
            return cls(0, 1, choose_device(device))
        chosen = choose_device(device)
        if chosen.type == "cuda":
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(chosen)
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        return cls(rank, size, chosen)

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """Samples of a step that fall to each process.

        Raises:
            InputError: if they cannot be divided evenly.
        """
        if batch_size % self.size:
            raise InputError(f"A batch of {batch_size} cannot be divided among {self.size} processes.", "Set batch_size to a multiple.")
        return batch_size // self.size

    def wrap(self, network: nn.Module) -> Callable[..., Tensor]:
        """The network, its gradients averaged over all processes."""
        if self.size == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in some process; all must ask together."""
        if self.size == 1:
            return flag
        votes = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(votes)
        return bool(votes > 0)

    def leave(self) -> None:
        """Wait for the others, then part."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()
