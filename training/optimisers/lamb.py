"""LAMB: Adam with layer-wise adaptive step lengths (You et al. 2020, https://arxiv.org/abs/1904.00962).

As the released code has it: no bias correction, weight decay within the step, and a norm of the weights that counts as 10 at most.
All tensors are updated together, without asking the device for a number in between.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_LARGEST_NORM = 10.0


class Lamb(torch.optim.Optimizer):
    """For each tensor p: m, v are running means of its gradient and its square, u = m / (sqrt(v) + eps) + weight_decay * p, and
    p -= lr * |p| / |u| * u; the ratio of the norms is 1 where one of them is 0.

    Args:
        params: tensors, or groups of them.
        lr: step size.
        betas: decay of m and v.
        eps: keeps the quotient finite.
        weight_decay: of all tensors.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no loss is computed again within a step
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            self._update(group)

    def _update(self, group: dict[str, Any]) -> None:
        weights: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        if not weights:
            return
        gradients = [p.grad for p in weights if p.grad is not None]
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {"mean": torch.zeros_like(weight), "square": torch.zeros_like(weight)}
        means, squares = ([self.state[weight][name] for weight in weights] for name in ("mean", "square"))
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, group["eps"])
        updates = torch._foreach_div(means, roots)
        torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        trust = [_trust(*norms) for norms in zip(torch._foreach_norm(weights), torch._foreach_norm(updates), strict=True)]
        torch._foreach_mul_(updates, trust)
        torch._foreach_add_(weights, updates, alpha=-group["lr"])


def _trust(weight: Tensor, update: Tensor) -> Tensor:
    """Ratio of two norms, 1 where one of them is 0."""
    return torch.where((weight > 0) & (update > 0), weight.clamp(max=_LARGEST_NORM) / update, 1.0)
