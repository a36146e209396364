"""Arithmetic of a training step, counted on tensors without contents: for cost models of machines not at hand.

    python -m Testing.benchmarks.step_flops [--recipe paper] [--set section.field=value]...

One line for each number of masks a task of the recipe may have.
"""

import argparse

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mass_core.model import build_model
from mass_core.schema import changed
from training.pretrain import recipes
from training.pretrain.config import RunConfig


def flops(config: RunConfig, masks: int) -> tuple[float, float]:
    """Of one sample with so many masks: the network forwards, and forwards and backwards. A multiplication and an addition are two."""
    with FakeTensorMode():
        network = build_model(config.model).train()
        image = torch.zeros(1, config.model.in_channels, *config.preprocess.window_zyx)
        shown = torch.zeros(1, masks, *config.preprocess.window_zyx)
        with FlopCounterMode(display=False) as counter:
            logits = network(image, image, shown)
            forwards = counter.get_total_flops()
            logits.sum().backward()
        return forwards, counter.get_total_flops()


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--set", nargs="*", default=[], action="extend", metavar="section.field=value")
    arguments = parser.parse_args()
    config = changed(recipes.named(arguments.recipe), arguments.set)
    for masks in sorted({1, *config.episodes.task_slots}):
        forwards, both = (count / 1e12 for count in flops(config, masks))
        step = both * config.batch_size
        print(f"{masks} masks: {forwards:.3f} TFLOP forwards, {both:.3f} with gradients a sample, {step:.1f} a step, without the optimiser")


if __name__ == "__main__":
    main()
