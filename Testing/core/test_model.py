"""The network: its shortcuts do not change the numbers, and it has the properties the paper states."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from mass_core.config import ModelConfig
from mass_core.errors import GeometryError, InputError, WeightsError
from mass_core.model import MASS, blocks, build_model, slabs
from mass_core.model.blocks import ResidualBlock, norm_relu, norm_relu_one_by_one
from mass_core.model.interpolation import along_axis, upsampling_matrix
from mass_core.model.task_encoding import mean_under_masks, shuffle, unshuffle
from mass_core.model.threads import in_threads

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A query of odd size, a reference and three box masks."""
    generator = torch.Generator().manual_seed(1)
    query, reference = torch.randn(1, 1, 24, 37, 40, generator=generator), torch.randn(1, 1, 32, 16, 32, generator=generator)
    masks = torch.zeros(1, 3, 32, 16, 32)
    masks[0, 0, 4:20, 2:9, 5:25] = masks[0, 1, 20:30, 4:15, 1:9] = masks[0, 2, :8, :8, :8] = 1
    return query, reference, masks


def test_upsampling_matrix_by_hand() -> None:
    assert torch.allclose(upsampling_matrix(3, 2, CPU), torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]))
    assert torch.allclose(upsampling_matrix(1, 2, CPU), torch.tensor([[1.0, 0.0]]))
    assert torch.allclose(upsampling_matrix(2, 1, CPU), torch.tensor([[1.0], [1.0]]))


def test_upsampling_matrices_are_torch_interpolate() -> None:
    coarse, size = torch.randn(2, 3, 4, 5, 6), (9, 5, 16)
    fine = coarse
    for axis, n in enumerate(size, start=2):
        fine = along_axis(upsampling_matrix(n, coarse.shape[axis], CPU), fine, axis)
    assert torch.allclose(fine, F.interpolate(coarse, size=size, mode="trilinear", align_corners=True), atol=1e-5)


def test_mean_under_masks_is_the_mean_of_upsampled_features() -> None:
    features, masks = torch.randn(2, 6, 4, 3, 5), (torch.rand(2, 3, 16, 12, 20) > 0.7).float()
    masks[1, 2] = 0
    upsampled = F.interpolate(features, size=masks.shape[2:], mode="trilinear", align_corners=True)
    expected = torch.einsum("bkzyx,bczyx->bkc", masks, upsampled) / masks.sum((2, 3, 4)).clamp_min(1)[..., None]
    found = mean_under_masks(features, masks)
    assert torch.allclose(found, expected, atol=1e-5)
    assert (found[1, 2] == 0).all(), "nothing is under an empty mask"


def test_shuffle_puts_the_first_subvoxel_axis_along_z() -> None:
    volume = shuffle(torch.arange(8.0).reshape(1, 8, 1, 1, 1), 2)
    assert volume[0, 0].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    blocks = torch.randn(2, 64, 2, 3, 4)
    assert torch.equal(unshuffle(shuffle(blocks, 4), 4), blocks)


def test_parts_are_a_concatenation() -> None:
    block = ResidualBlock(12, 4)
    skip, up = torch.randn(2, 4, 6, 8, 10), torch.randn(2, 8, 6, 8, 10)
    assert torch.allclose(block(skip, up), block(torch.cat([skip, up], dim=1)), atol=1e-5)


@pytest.mark.parametrize("size", [(5, 6, 7), (1, 4, 4), (12, 40, 40), (16, 33, 40)])
@pytest.mark.parametrize("slab_voxels", [1, 40 * 40 * 4, 2**16])
def test_slabs_are_the_block(size: tuple[int, int, int], slab_voxels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct and pairwise convolution, whole and odd last slabs, stored and upsampled halves."""
    monkeypatch.setattr(slabs, "SLAB_VOXELS", slab_voxels)
    monkeypatch.setattr(slabs, "PLANAR_VOXELS", 1000)
    block = ResidualBlock(12, 4)
    skip, coarse = torch.randn(1, 4, *size) + 5, torch.randn(1, 8, *(-(-n // 2) for n in size)) * 3 - 2
    expected = block(skip, F.interpolate(coarse, size=size, mode="trilinear", align_corners=True))
    with torch.no_grad():
        found = block.in_slabs([slabs.Stored(skip), slabs.Upsampled(coarse, skip.shape[2:])])
    assert torch.allclose(found, expected, atol=1e-4)


def test_moments_keep_their_digits_far_from_zero() -> None:
    """Channels whose mean is a thousand deviations; naive sums of squares would lose the variance."""
    tensor = torch.randn(1, 2, 16, 64, 70, dtype=torch.float64) + torch.tensor([1000.0, -3.0]).view(1, 2, 1, 1, 1)
    mean, variance = slabs.Stored(tensor.float()).moments()
    assert torch.allclose(mean.double(), tensor.mean((0, 2, 3, 4)), rtol=1e-6)
    assert torch.allclose(variance.double(), tensor.var((0, 2, 3, 4), correction=0), rtol=1e-3)


def test_only_blocks_that_may_overwrite_their_input_do() -> None:
    x = torch.randn(1, 4, 5, 6, 7).contiguous(memory_format=torch.channels_last_3d)
    before = x.clone()
    with torch.no_grad():
        kept = ResidualBlock(4, 4)(x)
        assert torch.equal(x, before) and kept.data_ptr() != x.data_ptr()
        assert ResidualBlock(4, 4, inplace=True)(x).data_ptr() == x.data_ptr()


def test_whole_network_with_and_without_slabs(tiny_network: MASS, inputs: tuple[torch.Tensor, ...]) -> None:
    query, reference, masks = inputs
    expected = tiny_network(query, reference, masks).detach()
    with torch.inference_mode():
        found = tiny_network(query, reference, masks)
    assert found.shape == (1, 3, 24, 37, 40)
    assert torch.allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("images", [1, 3])
def test_norms_that_keep_channels_last_are_the_same(images: int) -> None:
    x = torch.randn(images, 5, 6, 7, 8).contiguous(memory_format=torch.channels_last_3d)
    found = norm_relu_one_by_one(x, 1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.allclose(found, norm_relu(x.contiguous(), 1e-4), atol=1e-5)


def test_network_with_channels_last_as_on_a_gpu(
    tiny_network: MASS, inputs: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slabs, "apply_to", lambda x: False)
    pairs = [torch.cat([x, x.flip(-1)]) for x in inputs]
    last = deepcopy(tiny_network).to(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        expected = tiny_network(*pairs)
        monkeypatch.setattr(blocks, "norm_relu", lambda x, eps=slabs.EPS: norm_relu_one_by_one(x, eps))
        found = last(*pairs)
    assert torch.allclose(found, expected, atol=1e-3)


def test_images_of_a_batch_are_independent(tiny_network: MASS, inputs: tuple[torch.Tensor, ...]) -> None:
    query, reference, masks = (torch.cat([x, x.flip(-1)]) for x in inputs)
    with torch.inference_mode():
        together = tiny_network(query, reference, masks)
        second = tiny_network(query[1:], reference[1:], masks[1:])
    assert torch.allclose(together[1:], second, atol=1e-4)


def test_order_of_classes_does_not_matter_but_company_does(tiny_network: MASS, inputs: tuple[torch.Tensor, ...]) -> None:
    query, reference, masks = inputs
    with torch.inference_mode():
        logits = tiny_network(query, reference, masks)
        turned = tiny_network(query, reference, masks[:, [2, 0, 1]])
        alone = tiny_network(query, reference, masks[:, :1])
    assert torch.allclose(turned, logits[:, [2, 0, 1]], atol=1e-4)
    assert (alone[:, 0] - logits[:, 0]).abs().max() > 1e-3, "tokens of all classes exchange"


def test_masks_are_encoded_one_by_one(tiny_network: MASS, inputs: tuple[torch.Tensor, ...]) -> None:
    _, reference, masks = inputs
    with torch.inference_mode():
        together, single = tiny_network.encode_reference(reference, masks), tiny_network.encode_reference(reference, masks[:, 1:2])
    for all_tokens, tokens in zip(together, single, strict=True):
        assert tokens.shape[2] == 11
        assert torch.allclose(all_tokens[:, 1:2], tokens, atol=1e-5)


def test_gradients_reach_every_parameter(tiny_config: ModelConfig) -> None:
    torch.manual_seed(0)
    network = build_model(tiny_config)
    masks = torch.zeros(2, 2, 32, 32, 32)
    masks[:, 0, :9], masks[:, 1, 5:20, 3:9] = 1, 1
    network(torch.randn(2, 1, 32, 32, 32), torch.randn(2, 1, 32, 32, 32), masks).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all() or p.grad.abs().max() == 0]
    assert without == []


@pytest.mark.parametrize("path", ["slabs", "plain"])
def test_autocast_stays_close(path: str, tiny_network: MASS, inputs: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights amplify rounding, so only roughly."""
    with torch.inference_mode():
        exact = tiny_network(*inputs)
        if path == "plain":
            monkeypatch.setattr(slabs, "apply_to", lambda x: False)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = tiny_network(*inputs).float()
    assert torch.corrcoef(torch.stack([exact.flatten(), rough.flatten()]))[0, 1] > 0.9
    assert not torch.allclose(exact, rough, atol=1e-4), "bfloat16 was used"


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_work_side_by_side_and_nothing_else_changes(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            seen = in_threads(lambda n: (n, torch.get_num_threads(), torch.is_inference_mode_enabled()), range(5))
        assert seen == [(n, 1, True) for n in range(5)]
        assert in_threads(lambda n: torch.get_num_threads(), [0]) == [threads], "a single task has all threads"
        with pytest.raises(ZeroDivisionError):
            in_threads(lambda n: 1 / n, [1, 0, 2])
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_slabs_in_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_VOXELS", 2 * 20 * 20)
    block, x = ResidualBlock(6, 4), torch.randn(1, 6, 27, 20, 20)
    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            torch.set_num_threads(1)
            alone = block(x)
            torch.set_num_threads(3)
            assert len(slabs.spans(x.shape[2:])) > 3
            assert torch.allclose(block(x), alone, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_compiles_in_one_graph(tiny_network: MASS, inputs: tuple[torch.Tensor, ...]) -> None:
    """Traced only; no compiler needs to be there."""
    query, reference, masks = inputs
    with torch.no_grad():
        tokens = tiny_network.encode_reference(reference, masks)
        traced = torch.compile(tiny_network.segment, backend="eager", fullgraph=True)(query, tokens)
        assert torch.allclose(traced, tiny_network.segment(query, tokens), atol=2e-4)


def test_norm_keeps_a_constant_channel_finite() -> None:
    assert (norm_relu(torch.full((1, 1, 4, 4, 4), 7.0)) == 0).all()


@pytest.mark.parametrize("size", [(24, 32, 32), (32, 32, 48)])
def test_reference_crops_that_cannot_be_encoded(tiny_network: MASS, size: tuple[int, int, int]) -> None:
    with pytest.raises(GeometryError, match="multiple of 16 and at most 32"):
        tiny_network.encode_reference(torch.zeros(1, 1, *size), torch.zeros(1, 1, *size))


def test_class_tokens(tiny_network: MASS) -> None:
    tokens = tiny_network.class_tokens([1, 0])
    assert [t.shape for t in tokens] == [(1, 2, 11, 128), (1, 2, 11, 64), (1, 2, 11, 32)]
    assert torch.equal(tokens[0][0, 1], tiny_network.class_tokens0[0])
    with pytest.raises(InputError, match=r"2 classes, there is no class \[2\]"):
        tiny_network.class_tokens([0, 2])


def test_unknown_encoder() -> None:
    with pytest.raises(WeightsError, match="crystal ball"):
        build_model(ModelConfig(encoder="crystal ball"))


def test_sizes_of_the_released_network() -> None:
    """Parameters as counted in the released code (paper section 6.2 rounds them)."""
    with torch.device("meta"):
        network = build_model(ModelConfig())
    parts = (network.encoder, network.decoder, network.task_encoders, network.classifier)
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [37_657_440, 46_000_384, 35_632_229, 836_320]


def test_names_of_tensors_are_a_contract() -> None:
    """Weights files of users hold these names: a change needs a new format version."""
    with torch.device("meta"):
        names = list(build_model(ModelConfig()).state_dict())
    assert len(names) == 572
    for name in [
        "class_tokens0",
        "encoder.stem.weight",
        "encoder.stem_block.conv1.weight",
        "encoder.levels.3.0.shortcut.weight",
        "encoder.levels.3.1.conv2.weight",
        "decoder.fusions.2.blocks.1.tokens_read_image.norm_query.weight",
        "decoder.fusions.2.blocks.1.tokens_read_image.norm_memory.bias",
        "decoder.fusions.0.blocks.0.image_reads_tokens.attention.project_in.weight",
        "decoder.fusions.0.blocks.0.image_mlp.mlp.linear1.weight",
        "decoder.fusions.0.blocks.0.tokens_exchange.attention.project_out.bias",
        "decoder.fusions.0.blocks.0.tokens_mlp1.norm.weight",
        "decoder.fusions.0.blocks.0.tokens_mlp2.norm.weight",
        "decoder.levels.3.join.shortcut.weight",
        "decoder.levels.0.refine.conv2.weight",
        "task_encoders.0.queries",
        "task_encoders.0.position",
        "task_encoders.1.blocks.0.self_attention1.norm.weight",
        "task_encoders.1.blocks.0.cross_attention.norm_memory.weight",
        "task_encoders.1.blocks.1.self_attention2.attention.project_in.bias",
        "task_encoders.1.blocks.1.mlp3.mlp.linear2.weight",
        "task_encoders.2.norm_queries.weight",
        "task_encoders.2.norm_foreground.weight",
        "task_encoders.2.norm_in.weight",
        "task_encoders.2.norm_out.weight",
        "task_encoders.2.expand.weight",
        "task_encoders.2.merge.bias",
        "task_encoders.2.squeeze.weight",
        "classifier.norm.weight",
        "classifier.mlp1.linear1.weight",
        "classifier.mlp2.linear2.bias",
    ]:
        assert name in names
