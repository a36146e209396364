"""LAMB equals the formula written out, for every tensor by itself."""

import pytest
import torch

from training.optimisers.lamb import Lamb

LR, DECAY, BETA1, BETA2, EPS = 0.05, 0.1, 0.8, 0.95, 1e-6


def reference(weights, gradients):
    """Steps with the given gradients, in float64 and plain numbers."""
    p = weights.double()
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for g in gradients:
        m = BETA1 * m + (1 - BETA1) * g.double()
        v = BETA2 * v + (1 - BETA2) * g.double() ** 2
        u = m / (v.sqrt() + EPS) + DECAY * p
        long, wide = min(float((p**2).sum().sqrt()), 10.0), float((u**2).sum().sqrt())
        p = p - LR * (long / wide if long and wide else 1.0) * u
    return p


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0], ids=["zero weights", "plain", "norm above ten"])
def test_steps_equal_the_formula(scale):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3,), (4, 5), (2, 3, 3, 3, 3)]
    starts = [scale * torch.randn(shape, generator=generator) for shape in shapes]
    parameters = [torch.nn.Parameter(start.clone()) for start in starts]
    gradients = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(4)]
    optimiser = Lamb(parameters, lr=LR, betas=(BETA1, BETA2), eps=EPS, weight_decay=DECAY)
    for some in gradients:
        for parameter, gradient in zip(parameters, some, strict=True):
            parameter.grad = gradient
        optimiser.step()
    for number, (parameter, start) in enumerate(zip(parameters, starts, strict=True)):
        expected = reference(start, [some[number] for some in gradients])
        torch.testing.assert_close(parameter.detach().double(), expected, atol=1e-5, rtol=1e-5)


def test_tensors_without_gradients_stay():
    moved, still = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    moved.grad = torch.ones(3)
    Lamb([moved, still], lr=LR, weight_decay=DECAY).step()
    assert torch.equal(still, torch.ones(3)) and (moved < 1).all()


def test_a_gradient_of_zero_moves_by_weight_decay_only():
    weight = torch.nn.Parameter(torch.full((4,), 2.0))
    weight.grad = torch.zeros(4)
    Lamb([weight], lr=LR, weight_decay=DECAY).step()
    torch.testing.assert_close(weight.detach(), torch.full((4,), 2.0 - LR * 2.0))
