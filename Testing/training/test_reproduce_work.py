"""The arithmetic that GPU hours rest on, counted on tensors without contents."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mass_core.config import ModelConfig
from mass_core.model import MASS, build_model
from mass_core.weights.published import LAYOUTS
from training.baselines.learners import LEARNERS
from training.pretrain import recipes
from training.reproduce import work

PAPER = recipes.paper().model
NETWORKS = {"paper": (PAPER, 128), "resnet152": (replace(PAPER, encoder="resnet152"), 128)} | {
    name: (
        ModelConfig(
            channels=layout.channels, stages=min(3, len(layout.channels) - 1), task_rows=0, position_size=layout.recipe.window_zyx[0],
            encoder=name,
        ),
        layout.recipe.window_zyx[0],
    )
    for name, layout in LAYOUTS.items()
}  # fmt: skip
"""Network and edge of its window."""


def tflop(compute: Callable[[], Tensor], *, backwards: bool = True) -> float:
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        result = compute()
        if backwards:
            result.sum().backward()
        return counter.get_total_flops() / 1e12


def zeros(count: int, *size: int) -> Tensor:
    return torch.zeros(1, count, *size)


def pretraining(config: ModelConfig) -> Tensor:
    image = zeros(1, 128, 128, 128)
    return build_model(config).train()(image, image, zeros(13, 128, 128, 128))


def baseline(method: str) -> Tensor:
    learner = LEARNERS[method](build_model(PAPER).encoder, PAPER.channels).train()
    return learner(torch.zeros(2, 2, 1, 128, 128, 128), torch.Generator().manual_seed(0))


def tuning(config: ModelConfig, edge: int) -> Tensor:
    tokens = tuple(torch.zeros(1, 13, config.queries + 1, channels) for channels in config.channels[::-1][: config.stages])
    return MASS(config).train().segment(zeros(1, edge, edge, edge), tokens)


@pytest.mark.slow
def test_pretraining() -> None:
    counted = {
        name: tflop(lambda config=NETWORKS[key][0]: pretraining(config)) for name, key in (("mass", "paper"), ("resnet152", "resnet152"))
    }
    counted |= {method: tflop(lambda method=method: baseline(method)) / 2 for method in LEARNERS}
    assert counted == pytest.approx({name: value for name, value in work.PRETRAIN.items() if name != "none"}, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(work.TUNE))
def test_finetuning_and_classification(name: str) -> None:
    config, edge = NETWORKS[name]
    assert tflop(lambda: tuning(config, edge)) == pytest.approx(work.TUNE[name], rel=0.02)
    encoded = tflop(lambda: build_model(config).train().encode_image(zeros(1, 96, 128, 192))[0], backwards=False)
    assert encoded == pytest.approx(work.ENCODE[name], rel=0.03)
