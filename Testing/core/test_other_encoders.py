"""Encoders that others have pretrained: their checkpoints, made here of random weights under the authors' names, are read strictly."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("monai", reason="MONAI is not installed: pip install '.[train]'")

from monai.networks.nets import BasicUNet, SegResNet, SwinUNETR
from monai.networks.nets.resnet import ResNet

from mass_core.cli import main as mass
from mass_core.config import ModelConfig, Recipe
from mass_core.errors import InputError, WeightsError
from mass_core.inference.classifier import ClassifierConfig, ClassifierNetwork
from mass_core.inference.segmenter import Segmenter
from mass_core.model import MASS
from mass_core.model import published as networks
from mass_core.model.encoder import build_encoder
from mass_core.weights import published as weights
from mass_core.weights.checkpoint import fill, load_model, save_weights
from mass_core.weights.other_encoders import adopt, adopt_monai
from mass_core.weights.published import LAYOUTS, PUBLISHED, recognised
from mass_core.weights.store import locate
from Testing.core.worker_process import scan

BASIC = ("BasicUNet", "features=4,32,32,32,32,4")
State = dict[str, Tensor]


def resenc(channels: tuple[int, ...], blocks: tuple[int, ...]) -> nn.Module:
    """The U-Net that nnssl pretrains."""
    unet = pytest.importorskip("dynamic_network_architectures.building_blocks.unet_decoder")
    residual = pytest.importorskip("dynamic_network_architectures.building_blocks.residual_encoders")
    encoder = residual.ResidualEncoder(
        1, len(channels), channels, nn.Conv3d, [3] * len(channels), [1, *[2] * (len(channels) - 1)], blocks, conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, return_skips=True,
    )  # fmt: skip
    whole = nn.Module()
    whole.encoder, whole.decoder = encoder, unet.UNetDecoder(encoder, 1, 1, False)
    return whole


def ghosts(**shapes: tuple[int, ...]) -> State:
    return {name: torch.empty(shape) for name, shape in shapes.items()}


def norm(name: str, channels: int) -> State:
    parts = ("weight", "bias", "running_mean", "running_var")
    return ghosts(**{f"{name}.{part}": (channels,) for part in parts}, **{f"{name}.num_batches_tracked": ()})


def openmind() -> State:
    return {**resenc((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)).state_dict()}


def suprem(backbone: State, features: int, deepest: int) -> State:
    heads = ghosts(**{"organ_embedding": (32, 512), "precls_conv.0.weight": (features,), "GAP.3.weight": (256, deepest, 1, 1, 1),
                      "controller.weight": (153, 512, 1, 1, 1), "text_to_vision.weight": (256, 512)})  # fmt: skip
    return {f"module.{name}": value for name, value in ({f"backbone.{key}": value for key, value in backbone.items()} | heads).items()}


def suprem_unet() -> State:
    found: State = {}
    sizes = {"down_tr64": (1, 32, 64), "down_tr128": (64, 64, 128), "down_tr256": (128, 128, 256), "down_tr512": (256, 256, 512)}
    for name, (a, b, c) in (sizes | {"up_tr256": (768, 256, 256)}).items():
        for step, (i, o) in enumerate(((a, b), (b, c))):
            found |= ghosts(**{f"{name}.ops.{step}.conv1.weight": (o, i, 3, 3, 3), f"{name}.ops.{step}.conv1.bias": (o,)})
            found |= norm(f"{name}.ops.{step}.bn1", o)
    return suprem(found | ghosts(**{"up_tr256.up_conv.bias": (512,)}), 64, 512)


def suprem_segresnet() -> State:
    net = SegResNet(init_filters=16, in_channels=1, out_channels=25, blocks_down=(1, 2, 2, 4), dropout_prob=0.0)
    return {f"module.{name}": value for name, value in net.state_dict().items()}


def suprem_swinunetr() -> State:
    with torch.device("cpu"):
        return suprem(SwinUNETR(1, 25, feature_size=48).state_dict(), 48, 768)


def merlin(blocks: tuple[int, ...] = (3, 8, 36, 3)) -> State:
    net = ResNet("bottleneck", list(blocks), [64, 128, 256, 512], conv1_t_size=(3, 7, 7), conv1_t_stride=(1, 2, 2), bias_downsample=False,
                 feed_forward=False)  # fmt: skip
    image = {f"encode_image.i3_resnet.{name}": value for name, value in net.state_dict().items()}
    others = {"encode_image.i3_resnet.classifier.bias": (1692,), "encode_image.i3_resnet.contrastive_head.bias": (512,), "logit_scale": ()}
    return image | ghosts(**others, **{"encode_text.linear_layer.weight": (512, 768)})


def anatomix() -> State:
    """Convolution, batch norm and ReLU stand one after the other, pooling between levels."""
    found, number, before = ghosts(**{"model.0.weight": (16, 1, 3, 3, 3)}) | norm("model.1", 16), 3, 16
    for level, c in enumerate((16, 32, 64, 128, 256)):
        number += level > 0
        for i in (before, c):
            found |= ghosts(**{f"model.{number}.weight": (c, i, 3, 3, 3)}) | norm(f"model.{number + 1}", c)
            number += 3
        before = c
    return found | ghosts(**{"model.38.weight": (128, 384, 3, 3, 3), "model.65.weight": (16, 16, 3, 3, 3)}) | norm("model.39", 128)


PUBLISHED_STATES: dict[str, Callable[[], State]] = {
    "openmind": openmind, "suprem-unet": suprem_unet, "suprem-segresnet": suprem_segresnet, "suprem-swinunetr": suprem_swinunetr,
    "merlin": merlin, "anatomix": anatomix,
}  # fmt: skip


def state_of(encoder: str) -> State:
    """Without memory where the library allows that, and without what wrappers put before the names."""
    with torch.device("meta"):
        return {name.removeprefix("module."): value for name, value in PUBLISHED_STATES[encoder]().items()}


@pytest.mark.parametrize("encoder", LAYOUTS)
def test_the_published_names_and_shapes_fit_exactly(encoder: str) -> None:
    """At full size; and no checkpoint is taken for another."""
    state, holders = state_of(encoder), {layout.entry for layout in LAYOUTS.values()}
    assert {recognised(holder, state) for holder in holders} == {encoder, None}
    with torch.device("meta"):
        found = adopt(encoder, state, Path("file.pth"))
    assert found.provenance["learned"] == "encoder" and found.licence and found.config.encoder == encoder


@pytest.mark.parametrize("encoder", ["suprem-segresnet", "anatomix"])
def test_one_tensor_more_or_less_or_of_another_shape_is_refused_by_name(encoder: str) -> None:
    state = state_of(encoder)
    name = next(name for name in state if (LAYOUTS[encoder].ours(name) or "").startswith("encoder.backbone."))
    with torch.device("meta"):
        for bad, told in (
            ({key: value for key, value in state.items() if key != name}, r"1 tensors missing: encoder\.backbone\."),
            ({**state, "novel.weight": torch.empty(3)}, "1 tensors unexpected: novel"),
            ({**state, name: torch.empty(7, 7)}, "(?s)1 tensors of another shape: .*Choose the file its authors publish at https://"),
        ):
            with pytest.raises(WeightsError, match=told):
                adopt(encoder, bad, Path("file.pth"))


@pytest.fixture
def small_openmind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Path, nn.Module]]:
    """A checkpoint of S3D: modules that appear twice there have two sets of tensors, of which the second was trained."""
    channels, blocks = (4, 8, 32, 32, 32), (1, 1, 2, 1, 1)
    monkeypatch.setattr(networks.ResEncL, "channels", channels)
    monkeypatch.setattr(networks.ResEncL, "blocks", blocks)
    layout = replace(LAYOUTS["openmind"], channels=channels, recipe=Recipe(spacing_zyx=(6.0, 6.0, 6.0), window_zyx=(32, 32, 32)))
    monkeypatch.setitem(weights.LAYOUTS, "openmind", layout)
    torch.manual_seed(0)
    net = resenc(channels, blocks)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    for name in state:
        if name.endswith((".conv.weight", ".norm.weight")):
            state[name] += 1
    plan = {"key_to_encoder": "encoder.stages", "pretrain_num_input_channels": 1}
    path = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": state, "trainer_name": "SparkMAETrainer", "current_epoch": 3, "nnssl_adaptation_plan": plan}, path)
    yield path, net


def test_features_are_those_of_the_network_it_was(small_openmind: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, net = small_openmind
    model, image = load_model(path, "cpu"), torch.randn(1, 1, 32, 32, 32)
    for ours, theirs in zip(model.network.encoder(image)[::-1], net.encoder(image), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert load_model(path, "cpu").fingerprint == model.fingerprint and model.licence == "CC BY 4.0"
    save_weights(tmp_path / "ours.safetensors", model.network, model.recipe, model.provenance)
    assert load_model(tmp_path / "ours.safetensors", "cpu").fingerprint == model.fingerprint


def test_it_takes_no_references_until_it_is_finetuned(small_openmind: tuple[Path, nn.Module]) -> None:
    model = load_model(small_openmind[0], "cpu")
    segmenter = Segmenter(model, model.recipe.changed(modality="ct"))
    with pytest.raises(WeightsError, match="(?s)only the image encoder is pretrained.*Finetune"):
        segmenter.encode([scan()])
    assert segmenter.encode([scan()], to_finetune=True).labels


def test_every_weight_learns_but_no_statistics() -> None:
    """Distributed training refuses weights that get no gradient; norms keep what they were pretrained with."""
    with torch.device("cpu"):
        for arguments in (("BasicUNet", "features=4,32,32,32,32,4", "norm=batch"), ("SegResNet", "init_filters=8", "blocks_down=1,1,1,1")):
            encoder = build_encoder(config_of(*arguments)).train()
            before = {name: value.clone() for name, value in encoder.named_buffers()}
            sum(level.mean() for level in encoder(torch.randn(1, 1, 32, 32, 32))).backward()
            assert [name for name, weight in encoder.named_parameters() if weight.grad is None] == []
            assert all(torch.equal(before[name], value) for name, value in encoder.named_buffers())


def config_of(*arguments: str) -> ModelConfig:
    channels = networks.decoder_channels(arguments)
    return ModelConfig(channels=channels, task_rows=0, position_size=32, encoder="monai", encoder_arguments=arguments)


@pytest.mark.parametrize(
    ("arguments", "channels"),
    [
        (BASIC, (4, 32, 32, 32, 32)),
        (("SegResNet", "init_filters=8", "blocks_down=1,1,1,1"), (8, 32, 32, 64)),
        (("UNet", "spatial_dims=3", "in_channels=1", "out_channels=2", "channels=8,32,64,64", "strides=2,2,2"), (32, 32, 32, 128)),
        (("SwinUNETR", "in_channels=1", "out_channels=2", "feature_size=12"), (32, 12, 24, 32, 96, 192)),
        (
            (
                "DynUNet",
                "spatial_dims=3",
                "in_channels=1",
                "out_channels=2",
                "kernel_size=3,3,3,3",
                "strides=1,2,2,2",
                "upsample_kernel_size=2,2,2",
            ),
            (32, 64, 128, 256),
        ),
    ],
    ids=lambda value: value[0] if isinstance(value[0], str) else "",
)
def test_any_network_of_monai_that_halves_its_image_has_levels(arguments: tuple[str, ...], channels: tuple[int, ...]) -> None:
    config = config_of(*arguments)
    encoder = build_encoder(config).to("meta")
    levels = encoder(torch.zeros(2, 1, 64, 32, 96, device="meta"))
    edges = [(64 >> k, 32 >> k, 96 >> k) for k in range(len(levels))]
    assert [tuple(level.shape) for level in levels[::-1]] == [(2, c, *edge) for c, edge in zip(config.channels, edges, strict=True)]
    assert config.channels == channels


def test_levels_are_what_the_network_of_monai_computes() -> None:
    torch.manual_seed(0)
    net, image = BasicUNet(features=(4, 32, 32, 32, 32, 4)).eval(), torch.randn(1, 1, 32, 32, 32)
    found = adopt_monai(BASIC, net.state_dict(), Path("net.pt"))
    network = MASS(found.config)
    fill(network, found.tensors, Path("net.pt"))
    encoder = network.encoder.eval()
    expected = [net.conv_0(image)]
    for down in (net.down_1, net.down_2, net.down_3, net.down_4):
        expected.append(down(expected[-1]))
    for ours, theirs in zip(encoder(image)[::-1], expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not [name for name, _ in encoder.named_parameters() if "upcat" in name or "final" in name]


def test_merlin_sees_planes_of_three_millimetres_with_its_own_order_of_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks.MerlinResNet, "blocks", (1, 1, 1, 1))
    torch.manual_seed(0)
    ours = networks.MerlinResNet().eval()
    net = ResNet("bottleneck", [1, 1, 1, 1], [64, 128, 256, 512], conv1_t_size=(3, 7, 7), conv1_t_stride=(1, 2, 2), bias_downsample=False,
                 feed_forward=False).eval()  # fmt: skip
    layout = LAYOUTS["merlin"]
    found = {layout.ours(f"encode_image.i3_resnet.{name}"): value for name, value in net.state_dict().items()}
    ours.load_state_dict({str(name).removeprefix("encoder.backbone."): value for name, value in found.items()})
    image_zyx = torch.rand(1, 1, 32, 32, 64)
    image_xyz = F.avg_pool3d(image_zyx, (2, 1, 1)).permute(0, 1, 4, 3, 2)
    x = net.act(net.bn1(net.conv1(image_xyz.permute(0, 1, 4, 2, 3).repeat(1, 3, 1, 1, 1))))
    expected = [x, net.layer1(net.maxpool(x))]
    expected += [net.layer2(expected[-1])]
    for mine, theirs in zip(ours(image_zyx), expected, strict=False):
        torch.testing.assert_close(mine, theirs.permute(0, 1, 2, 4, 3))
    assert [tuple(level.shape[2:]) for level in ours(image_zyx)] == [(32 >> k, 32 >> k, 64 >> k) for k in range(1, 6)]


def test_intensities_reach_the_range_a_network_was_trained_on() -> None:
    images = torch.stack([torch.full((1, 2, 2, 2), 3.0), torch.arange(8.0).view(1, 2, 2, 2) - 20])
    unit = networks.unit_range(images)
    assert unit[0].unique().tolist() == [0] and torch.equal(unit[1].flatten(), torch.arange(8.0) / 7)


def test_a_frozen_classifier_sees_the_pretrained_features_themselves() -> None:
    """No convolution of chance in between, whatever the decoder would take."""
    config = ModelConfig(channels=(32, 64, 128, 256, 512, 512), task_rows=0, encoder="merlin")
    with torch.device("meta"):
        network = ClassifierNetwork(ClassifierConfig(model=config, recipe=Recipe(window_zyx=(64, 64, 64)), classes=("a", "b")))
        assert network.head.linear.in_features == 2048
        assert network.deepest(torch.zeros(1, 1, 64, 64, 64)).shape == (1, 2048, 2, 2, 2)


def test_a_network_of_monai_is_converted_by_its_name(tmp_path: Path) -> None:
    net = BasicUNet(features=(4, 32, 32, 32, 32, 4))
    torch.save({"state_dict": {f"module.{name}": value for name, value in net.state_dict().items()}}, tmp_path / "net.pt")
    output = tmp_path / "ours.safetensors"
    words = ["weights", "convert", str(tmp_path / "net.pt"), str(output), "--spacing", "2", "2", "3", "--window", "32", "32", "64"]
    assert mass([*words, "--network", *BASIC]) == 0
    model = load_model(output, "cpu")
    assert model.recipe.spacing_zyx == (3, 2, 2) and model.recipe.window_zyx == (32, 32, 64)
    assert model.provenance["encoder"] == " ".join(BASIC) and model.config.encoder_arguments == BASIC
    assert torch.equal(model.network.encoder.backbone.network.conv_0.conv_0.conv.weight, net.conv_0.conv_0.conv.weight)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (("NoSuchNet",), InputError, "MONAI has no network 'NoSuchNet'"),
        (("BasicUNet", "colour=red"), InputError, "BasicUNet cannot be built with colour=red: .*colour"),
        (("BasicUNet", "features=8,32,32,32,32,4"), WeightsError, "(?s)tensors of another shape: .*conv_0.*Give the arguments"),
        (("SegResNet",), WeightsError, "missing: .*unexpected: "),
        (("BasicUNet", "in_channels=2"), InputError, "does not take an image of one channel"),
        (("Discriminator", "in_shape=1,32,32,32", "channels=4,8", "strides=2,2"), InputError, "does not take an image|does not halve"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
def test_a_network_that_does_not_fit_is_told(arguments: tuple[str, ...], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        if error is InputError:
            build_encoder(config_of(*arguments))
        adopt_monai(arguments, BasicUNet(features=(4, 32, 32, 32, 32, 4)).state_dict(), Path("net.pt"))


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    torch.save({"network_weights": {"eva.blocks.0.weight": torch.zeros(3)}, "trainer_name": "BaseEvaMAETrainer"}, tmp_path / "primus.pth")
    torch.save({"config": {"a": 1}}, tmp_path / "empty.pth")
    for file, network, told in (
        ("primus.pth", (), "holds no weights; its entries are network_weights, trainer_name"),
        ("primus.pth", BASIC, "does not fit BasicUNet .* of MONAI"),
        ("empty.pth", BASIC, "holds no weights; its entries are config"),
    ):
        with pytest.raises(WeightsError, match=told):
            load_model(tmp_path / file, "cpu", network=network)
    with pytest.raises(WeightsError, match="already names its network"):
        load_model("small", "cpu", network=BASIC)


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_that_are_not_there_are_told_with_their_source(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASS_HOME", str(tmp_path))
    one = PUBLISHED[name]
    with pytest.raises(WeightsError) as refused:
        locate(name)
    assert all(text in str(refused.value) for text in (one.source, one.licence, " MB", one.file, str(tmp_path)))
    file = tmp_path / "weights" / f"{name}{Path(one.file).suffix}"
    file.parent.mkdir()
    file.touch()
    assert locate(name) == file


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dynamic_network_architectures.building_blocks.residual_encoders", None)
    with pytest.raises(InputError, match="pip install dynamic-network-architectures"):
        networks.ResEncL()
