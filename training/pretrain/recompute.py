"""Activation recomputation: networks keep less for the backward pass and compute it again then. Results do not change."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mass_core.model import MASS
from mass_core.model.blocks import ResidualBlock, convolve, norm_relu
from mass_core.model.task_encoding import TaskBlock

Recompute = Literal["nothing", "activations", "blocks"]

_checkpoint = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


def keep_less(network: MASS, what: Recompute) -> None:
    """Let the parts of a network that hold most of the memory recompute what is cheap, or everything inside residual blocks.

    Cheap (`activations`) are norms and ReLUs of residual blocks, and the attention of task tokens, kept once for every mask.
    """
    if what == "nothing":
        return
    for module in network.modules():
        if isinstance(module, TaskBlock) or (isinstance(module, ResidualBlock) and what == "blocks"):
            module.forward = partial(_checkpoint, module.forward)  # type: ignore[method-assign]
        elif isinstance(module, ResidualBlock):
            module.convolve_activated = convolve_activated


def convolve_activated(parts: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """As in `mass_core.model.blocks`; of the parts and what becomes of them only the parts are kept.

    Norm and ReLU cost little beside a convolution, whose gradients need their result, and the norm's need its input: half of what a
    block keeps can be had again from the other half. The convolution itself is not repeated: recomputing stops when it has its input.
    """
    sizes = [part.shape[1] for part in parts]
    results = []
    for weight in weights:
        total, *more = [_checkpoint(_convolve_one, part, piece) for part, piece in zip(parts, weight.split(sizes, dim=1), strict=True)]
        results.append(sum(more, start=total))
    return results


def _convolve_one(part: Tensor, weight: Tensor) -> Tensor:
    return convolve([norm_relu(part)], weight)
