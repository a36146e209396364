"""Recomputed blocks: the same gradients from less that is kept."""

import torch

from training import recipes
from training.config import changed
from training.start import start

CONFIG = changed(recipes.smoke(), ["model.channels=8,32", "model.stages=1", "model.position_size=16"])


def gradients(*settings):
    """Gradients of a network of the seed, and the bytes kept for them."""
    network = start(changed(CONFIG, settings), torch.device("cpu"), None).network
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 1, 1, 16, 16, 16, generator=generator)
    kept: dict[int, int] = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(images[0], images[1], (images[1] > 1).float())
    logits.square().mean().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}, sum(kept.values())


def test_recomputed_blocks_give_the_same_gradients_from_less_memory():
    plain, much = gradients()
    again, little = gradients("recompute=true")
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-6, rtol=1e-5, msg=name)
    assert little < 0.7 * much


def test_the_average_and_the_weights_names_do_not_change():
    states = [start(changed(CONFIG, some), torch.device("cpu"), None) for some in ([], ["recompute=true"])]
    for a, b in zip(*[(s.network.state_dict(), s.average.state_dict()) for s in states], strict=True):
        assert a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
