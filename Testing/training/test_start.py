"""Start of a run: recomputation gives the same gradients from less memory; views whose gradients would be wrong are refused."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mass_core.errors import InputError
from mass_core.schema import changed
from training.pretrain import recipes
from training.pretrain.start import start
from training.runs.precision import autocast

CPU = torch.device("cpu")

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


@pytest.mark.parametrize(("what", "share"), [("activations", 0.8), ("blocks", 0.7)])
def test_what_is_recomputed_gives_the_same_gradients_from_less_memory(what, share):
    plain, much = gradients()
    again, little = gradients(f"recompute={what}")
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-6, rtol=1e-5, msg=name)
    assert little < share * much


def test_recomputing_in_bfloat16_changes_gradients_far_less_than_rounding_does():
    settings = ["model.channels=8,32,32", "model.stages=1", "model.position_size=24"]
    exact, plain, again = (
        torch.cat([gradient.flatten() for gradient in rounded_gradients(*settings, *more, precision=precision).values()])
        for precision, more in (("float32", []), ("bfloat16", []), ("bfloat16", ["recompute=activations"]))
    )
    assert (again - plain).norm() < 0.1 * (plain - exact).norm()


def test_recomputing_activations_repeats_no_convolution():
    assert convolutions("recompute=nothing") == convolutions("recompute=activations") < convolutions("recompute=blocks")


def convolutions(*settings):
    """Number of convolutions computed for a prediction and its gradients, those of gradients not counted."""
    network = start(changed(CONFIG, settings), CPU, None).network
    images = torch.randn(2, 1, 1, 16, 16, 16)
    with Convolutions() as counted:
        network(images[0], images[1], (images[1] > 1).float()).sum().backward()
    return counted.number


class Convolutions(TorchDispatchMode):
    """Counts them."""

    number = 0

    def __torch_dispatch__(self, function, types, arguments=(), words=None):
        self.number += function.overloadpacket is torch.ops.aten.convolution
        return function(*arguments, **(words or {}))


@pytest.mark.parametrize("settings", [["preprocess.window_zyx=16,16,16"], ["early_window=16"], ["early_window=8"]])
def test_views_whose_gradients_would_be_wrong_are_refused(settings):
    """Four levels halve 16 voxels to 2 and 8 to 1, by way of 2."""
    with pytest.raises(InputError, match="(?s)features 2 voxels deep.*at least 24 voxels"):
        start(changed(recipes.small(), settings), CPU, None)


def test_gradients_at_the_smallest_views_allowed_are_those_of_float32():
    """With bfloat16 the gradients of two runs agree, and in the deepest level they point where those of float32 point."""
    settings = ["preprocess.window_zyx=24,24,24", "model.channels=8,32,32,32", "model.stages=1", "model.position_size=24"]
    once, again = (rounded_gradients(*settings) for _ in range(2))
    exact = rounded_gradients(*settings, precision="float32")
    for name, gradient in once.items():
        assert torch.equal(gradient, again[name]), name
        if name.startswith("encoder.levels.2"):
            assert torch.nn.functional.cosine_similarity(gradient.flatten(), exact[name].flatten(), dim=0) > 0.9, name


def rounded_gradients(*settings, precision="bfloat16"):
    network = start(changed(CONFIG, settings), CPU, None).network
    images = torch.randn(2, 1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    with autocast(precision, CPU):
        logits = network(images[0], images[1], (images[1] > 1).float())
    logits.float().square().mean().backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def test_the_average_and_the_weights_names_do_not_change():
    states = [start(changed(CONFIG, some), torch.device("cpu"), None) for some in ([], ["recompute=blocks"])]
    for a, b in zip(*[(s.network.state_dict(), s.average.state_dict()) for s in states], strict=True):
        assert a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
