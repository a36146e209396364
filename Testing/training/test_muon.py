"""Muon: updates of matrices are orthogonal and as large as AdamW's, everything else is AdamW, and a run resumes."""

import pytest
import torch
from torch import nn

from mass_core.config import ModelConfig
from mass_core.model import build_model
from training.optimisers.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 16), (16, 64), (64, 16), (32, 16, 3, 3, 3)])
def test_update_has_singular_values_near_one_and_the_size_of_an_adamw_step(shape):
    update = orthogonal(torch.randn(shape))
    assert update.shape == shape
    matrix = update.flatten(1)
    values = torch.linalg.svdvals(matrix) / max(matrix.shape) ** 0.5
    assert values.min() > 0.4 and values.max() < 1.4, "five rounds bring singular values into this range (Jordan et al.)"
    assert 0.5 < matrix.pow(2).mean().sqrt() < 1.3


def test_direction_is_that_of_the_gradient():
    """Of a rotation times a number, the nearest orthogonal matrix is the rotation."""
    rotation = torch.linalg.qr(torch.randn(16, 16))[0]
    found = orthogonal(rotation * 1e-3)
    torch.testing.assert_close(found / found.norm(), rotation / rotation.norm(), atol=0.03, rtol=0)


def test_every_parameter_belongs_to_one_side():
    network = build_model(ModelConfig(channels=(16, 32, 64), stages=1, position_size=16, task_rows=0))
    optimiser = Muon(network, lr=1e-3, weight_decay=0.0, ratio=2.0)
    others, matrices = (set(map(id, group["params"])) for group in optimiser.param_groups)
    assert others | matrices == set(map(id, network.parameters())) and not others & matrices
    names = {name for name, p in network.named_parameters() if id(p) in others}
    assert any("position" in name for name in names) and any("queries" in name for name in names) and "encoder.stem.weight" in names
    assert not any(name.endswith(("linear1.weight", "conv1.weight")) for name in names)


def test_vectors_move_as_with_adamw():
    plain, ours = nn.Linear(32, 32), nn.Linear(32, 32)
    ours.load_state_dict(plain.state_dict())
    adamw = torch.optim.AdamW(plain.parameters(), lr=0.1, weight_decay=0.1)
    muon = Muon(ours, lr=0.1, weight_decay=0.1, ratio=1.0)
    for layer, optimiser in ((plain, adamw), (ours, muon)):
        layer(torch.ones(1, 32)).pow(2).sum().backward()
        optimiser.step()
    assert torch.equal(plain.bias, ours.bias) and not torch.equal(plain.weight, ours.weight)


def test_it_brings_a_matrix_to_its_goal_and_goes_on_after_loading():
    goal, layer = torch.randn(16, 24), nn.Linear(24, 16)
    muon = Muon(layer, lr=0.02, weight_decay=0.0, ratio=1.0)

    def run(steps):
        for _ in range(steps):
            muon.zero_grad()
            loss = (layer.weight - goal).pow(2).mean()
            loss.backward()
            muon.step()
        return loss.item()

    first = run(1)
    run(100)
    kept = muon.state_dict()
    muon = Muon(layer, lr=0.02, weight_decay=0.0, ratio=1.0)
    muon.load_state_dict(kept)
    assert torch.equal(muon.state[layer.weight]["momentum"], kept["state"][1]["momentum"])
    assert run(400) < first / 20
