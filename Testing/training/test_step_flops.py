"""Counted arithmetic of a step: forwards known for a convolution, gradients twice as much again, eight times for twice the edge."""

import pytest

from mass_core.schema import changed
from Testing.benchmarks.step_flops import flops
from training.pretrain import recipes

TINY = ["model.channels=8,32", "model.stages=1", "model.position_size=32"]


def counted(*settings, masks=1):
    return flops(changed(recipes.smoke(), [*TINY, *settings]), masks)


def test_gradients_cost_twice_what_the_network_does():
    forwards, both = counted("preprocess.window_zyx=16,16,16")
    assert both == pytest.approx(3 * forwards, rel=0.1)
    stem_and_block = 2 * 27 * 16**3 * (8 + 8 * 8 * 2)
    assert forwards > 2 * stem_and_block, "reference and target both pass the first level"


def test_arithmetic_grows_with_the_volume_and_hardly_with_the_masks():
    small, large = counted("preprocess.window_zyx=16,16,16"), counted("preprocess.window_zyx=32,32,32")
    assert large[0] / small[0] == pytest.approx(8, rel=0.15)
    assert 1 < counted("preprocess.window_zyx=16,16,16", masks=8)[0] / small[0] < 1.5


@pytest.mark.slow
def test_the_papers_network_needs_what_was_estimated_from_its_layers():
    """Encoder about 335 billion multiplications, twice, and decoder about 978."""
    forwards, _ = flops(recipes.paper(), 1)
    assert forwards == pytest.approx(2 * (2 * 335e9 + 978e9), rel=0.05)
