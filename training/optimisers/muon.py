"""Muon: momentum whose update is made orthogonal, for the weights that act as matrices; AdamW for the rest.

After Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), with the step size of Liu et al. 2025 (https://arxiv.org/abs/2502.16982),
which makes updates as large as AdamW's. PyTorch's own takes two-dimensional weights only; here convolutions count as matrices
[out, in * kernel], too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration that drives all singular values close to 1 (Jordan et al.)."""


class Muon(torch.optim.AdamW):
    """AdamW in which the parameters of groups with `momentum` are updated the Muon way.

    Args:
        network: all of its parameters.
        lr: of AdamW.
        weight_decay: decoupled, of both.
        ratio: step size of the matrices over `lr`.
        momentum: of the matrices.
    """

    def __init__(self, network: nn.Module, *, lr: float, weight_decay: float, ratio: float, momentum: float = 0.95) -> None:
        matrices = [p for p in network.parameters() if _is_matrix(p)]
        others = [p for p in network.parameters() if not _is_matrix(p)]
        groups = [{"params": others, "momentum": 0.0}, {"params": matrices, "momentum": momentum}]
        super().__init__(groups, lr=lr, weight_decay=weight_decay)
        self.ratio = ratio

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update all parameters that have a gradient."""
        matrices = self.param_groups.pop()
        try:
            loss = super().step(closure)
        finally:
            self.param_groups.append(matrices)
        lr = matrices["lr"] * self.ratio
        for parameter in matrices["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())  # unused, but AdamW looks for it when a state is loaded
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(parameter.grad, 1 - matrices["momentum"])
            ahead = parameter.grad.lerp(state["momentum"], matrices["momentum"])
            parameter.mul_(1 - lr * matrices["weight_decay"])
            parameter.add_(orthogonal(ahead), alpha=-lr * 0.2)
        return loss


def orthogonal(update: Tensor) -> Tensor:
    """The nearest matrix with orthogonal rows or columns, as large as an AdamW update: mean square 1 for a square matrix."""
    matrix = update.flatten(1)
    turned = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if turned else matrix).bfloat16()
    x = x / (x.norm() + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = (x.T if turned else x).to(update.dtype) * max(matrix.shape) ** 0.5
    return x.reshape(update.shape)


def _is_matrix(parameter: Tensor) -> bool:
    """Weights of convolutions and linear layers; not biases, norms, queries or the position volume."""
    return parameter.ndim in (2, 5) and min(parameter.shape[:2]) >= 16
