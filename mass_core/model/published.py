"""Image encoders of networks that others have pretrained, with the names of their tensors, so that MASS can be finetuned from them.

OpenMind's ResEnc-L comes from dynamic-network-architectures, SegResNet, Swin UNETR and ResNet from MONAI; only the parts up to the deepest
level are built. `weights.published` lists where their weights are.
"""

import ast
import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import InputError, WeightsError
from .backbones import ResNetLevels, in_turn, library
from .blocks import ResidualBlock

_PROBE = (96, 160, 224)
"""Size of the image by which the levels of a network are found: it stays whole when halved five times, and no axis can be taken for
another one or for channels."""
_MOST_CHANNELS = (32, 64, 128, 256, 512, 512, 512)
"""That the decoder takes from a network of MONAI's, finest level first."""


class Published(nn.Module):
    """A pretrained backbone as the encoder of MASS; norms keep the statistics they were pretrained with.

    Args:
        backbone: maps an image to its levels, finest first, each half as fine as the one before; the first one has full or half resolution.
        config: its channels are what the decoder takes; where the backbone has others, 1x1x1 convolutions of chance adapt them.

    Attributes:
        width: channels of the backbone's deepest level, which `deepest` returns as it is.
    """

    def __init__(self, backbone: Any, config: ModelConfig) -> None:
        super().__init__()
        found, wanted = backbone.channels, config.channels
        if len(found) not in (len(wanted), len(wanted) - 1):
            raise WeightsError(f"The encoder has {len(found)} levels, but {len(wanted)} are requested.", "Set model.channels accordingly.")
        self.backbone = backbone
        self.width: int = found[-1]
        self.finest = None
        if len(found) < len(wanted):
            stem = nn.Conv3d(config.in_channels, wanted[0], 3, padding=1, bias=False)
            self.finest = nn.Sequential(stem, ResidualBlock(wanted[0], wanted[0], inplace=True))
        pairs = zip(found, wanted[-len(found) :], strict=True)
        self.bridges = nn.ModuleList(nn.Identity() if c == d else nn.Conv3d(c, d, 1) for c, d in pairs)

    def forward(self, image_B1DHW: Tensor) -> list[Tensor]:
        """Map an image [B,1,D,H,W] to its feature maps [B,C,d,h,w], deepest first."""
        levels = [bridge(level) for bridge, level in zip(self.bridges, self._levels(image_B1DHW), strict=True)]
        return levels[::-1] if self.finest is None else [*levels[::-1], self.finest(image_B1DHW)]

    def deepest(self, image_B1DHW: Tensor) -> Tensor:
        """The backbone's deepest level [B,width,d,h,w]."""
        return self._levels(image_B1DHW)[-1]

    def train(self, mode: bool = True) -> "Published":
        """As of any module, but batch norms stay as pretrained: batches of a few crops are too small to measure them anew."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def _levels(self, image_B1DHW: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.backbone(unit_range(image_B1DHW) if self.backbone.unit else image_B1DHW)
        return levels


def unit_range(image_B1DHW: Tensor) -> Tensor:
    """Each image between 0 and 1 by its own extremes: where it reaches both ends of the clip range, what scaling that range would give."""
    low, high = image_B1DHW.amin((1, 2, 3, 4), keepdim=True), image_B1DHW.amax((1, 2, 3, 4), keepdim=True)
    return (image_B1DHW - low) / (high - low).clamp(min=1e-6)


class ResEncL(nn.Module):
    """ResEnc-L of nnssl (Wald et al. 2025, https://arxiv.org/abs/2412.17041)."""

    channels, unit = (32, 64, 128, 256, 320, 320), False
    blocks = (1, 3, 4, 6, 6, 6)

    def __init__(self) -> None:
        super().__init__()
        residual = library("dynamic_network_architectures.building_blocks.residual_encoders", "dynamic-network-architectures")
        stages = len(self.channels)
        whole = residual.ResidualEncoder(
            1, stages, self.channels, nn.Conv3d, [3] * stages, [1, *[2] * (stages - 1)], self.blocks, conv_bias=True,
            norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        )  # fmt: skip
        for part in whole.modules():
            if hasattr(part, "all_modules"):  # which computes; what else is there are second names of the same modules
                part._modules = {"all_modules": part.all_modules}
        self.stem, self.stages = whole.stem, whole.stages

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels [B,C,d,h,w], finest first."""
        return in_turn(self.stages, self.stem(image))


class SupremUNet(nn.Module):
    """The contracting path of SuPreM's U-Net (Li et al. 2024, https://github.com/MrGiovanni/SuPreM).

    Its batch norms take the statistics of the batch at hand, in use too; here those of each image, which is the same for one image.
    """

    channels, unit = (64, 128, 256, 512), True
    names = ("down_tr64", "down_tr128", "down_tr256", "down_tr512")

    def __init__(self) -> None:
        super().__init__()
        before = 1
        for name, c in zip(self.names, self.channels, strict=True):
            ops = nn.Sequential(self._step(before, c // 2), self._step(c // 2, c))
            self.add_module(name, nn.Sequential(OrderedDict(ops=ops)))
            before = c

    @staticmethod
    def _step(channels_in: int, channels_out: int) -> nn.Module:
        conv, norm = nn.Conv3d(channels_in, channels_out, 3, padding=1), nn.InstanceNorm3d(channels_out, affine=True)
        return nn.Sequential(OrderedDict(conv1=conv, bn1=norm, activation=nn.ReLU()))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels [B,C,d,h,w], finest first."""
        found: list[Tensor] = []
        for name in self.names:
            found.append(self.get_submodule(name)(F.max_pool3d(found[-1], 2) if found else image))
        return found


class SupremSegResNet(nn.Module):
    """The encoder of SuPreM's SegResNet."""

    channels, unit = (16, 32, 64, 128), True

    def __init__(self) -> None:
        super().__init__()
        whole = library("monai.networks.nets.segresnet").SegResNet(init_filters=16, in_channels=1, out_channels=1, blocks_down=(1, 2, 2, 4))
        self.convInit, self.down_layers = whole.convInit, whole.down_layers

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels [B,C,d,h,w], finest first."""
        return in_turn(self.down_layers, self.convInit(image))


class SupremSwinUNETR(nn.Module):
    """The encoder of SuPreM's Swin UNETR, with the blocks that lead from the transformer to its decoder."""

    channels, unit = (48, 48, 96, 192, 384, 768), True

    def __init__(self) -> None:
        super().__init__()
        library("einops")  # which MONAI looks for when it computes only
        with torch.device("cpu"):  # it reads numbers while it is built, which a tensor without storage has not
            whole = library("monai.networks.nets.swin_unetr").SwinUNETR(in_channels=1, out_channels=1, feature_size=48)
        self.swinViT = whole.swinViT
        self.encoder1, self.encoder2, self.encoder3 = whole.encoder1, whole.encoder2, whole.encoder3
        self.encoder4, self.encoder10 = whole.encoder4, whole.encoder10

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels [B,C,d,h,w], finest first."""
        hidden = self.swinViT(image.contiguous(), True)
        encoders = (self.encoder2, self.encoder3, self.encoder4, nn.Identity(), self.encoder10)
        return [self.encoder1(image), *(encoder(level) for encoder, level in zip(encoders, hidden, strict=True))]


class MerlinResNet(ResNetLevels):
    """The image encoder of Merlin (Blankemeier et al. 2026, https://arxiv.org/abs/2406.06512): an inflated ResNet-152.

    It saw planes 3 mm apart with pixels of 1.5 mm, and halves the pixels first. Here two planes of 1.5 mm become one, which makes up for
    that: every level is half as fine as the one before along all axes.
    """

    unit = True
    blocks = (3, 8, 36, 3)

    def __init__(self) -> None:
        super().__init__(self.blocks, 3, 5, norm="batch", conv1_t_size=(3, 7, 7), conv1_t_stride=(1, 2, 2), bias_downsample=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels [B,C,d,h,w], finest first."""
        planes = F.avg_pool3d(image, (2, 1, 1)).transpose(3, 4).expand(-1, 3, -1, -1, -1)  # its axes are z, x, y
        return [level.transpose(3, 4) for level in super().forward(planes)]


class AnatomixUNet(nn.Module):
    """The contracting path of AnatoMix' U-Net (Dey et al. 2025, https://arxiv.org/abs/2411.02372)."""

    channels, unit = (16, 32, 64, 128, 256), True

    def __init__(self) -> None:
        super().__init__()
        parts, before = self._step(1, 16), 16
        self.ends = []
        for level, c in enumerate(self.channels):
            parts += [*([nn.MaxPool3d(2)] if level else []), *self._step(before, c), *self._step(c, c)]
            self.ends.append(len(parts) - 1)
            before = c
        self.model = nn.Sequential(*parts)

    @staticmethod
    def _step(channels_in: int, channels_out: int) -> list[nn.Module]:
        conv = nn.Conv3d(channels_in, channels_out, 3, padding="same", padding_mode="reflect", bias=False)
        return [conv, nn.BatchNorm3d(channels_out), nn.ReLU()]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels [B,C,d,h,w], finest first."""
        x, found = image, []
        for number, part in enumerate(self.model):
            x = part(x)
            if number in self.ends:
                found.append(x)
        return found


class _DeepestReached(Exception):  # noqa: N818 - no error
    """Ends the pass of a network whose deepest level has been computed."""


class MonaiNetwork(nn.Module):
    """The levels of any network of MONAI's that halves its image: the last output of each resolution before the next coarser one.

    Args:
        arguments: name of the class in `monai.networks.nets`, then its arguments as `name=value`.

    Raises:
        InputError: if there is no such network, it does not take the arguments, or has no levels that halve.
    """

    unit = False

    def __init__(self, arguments: Sequence[str]) -> None:
        super().__init__()
        self.network = monai_network(arguments)
        try:
            found, ran = _Probe.of(self.network).levels()
        except (RuntimeError, ValueError, AssertionError, NotImplementedError) as error:
            reason = f"{arguments[0]} does not take an image of one channel and any size: {error}."
            raise InputError(reason, "Choose another network, or other arguments.") from error
        if len(found) < 2:
            raise InputError(f"{arguments[0]} does not halve its image step by step.", "Choose a network with levels, a U-Net, say.")
        self.places = tuple(name for name, _ in found.values())
        self.channels = tuple(channels for _, channels in found.values())
        self.begins_whole = 0 in found
        """True if the finest level has the image's resolution."""
        _keep_only(self.network, ran)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Levels [B,C,d,h,w], finest first."""
        found: list[Tensor] = []

        def keep(module: nn.Module, inputs: object, output: Tensor) -> None:
            found.append(output)
            if len(found) == len(self.places):
                raise _DeepestReached

        handles = [self.network.get_submodule(place).register_forward_hook(keep) for place in self.places]
        try:
            self.network(image)
        except _DeepestReached:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return found


@dataclass
class _Probe:
    """Outputs of a network's modules for an image, by their names, in the order in which they end."""

    begun: list[str] = field(default_factory=list)
    ended: list[tuple[str, Tensor, int]] = field(default_factory=list)
    """With outputs [B,C,d,h,w], and how many had begun by then."""
    rises: list[str] = field(default_factory=list)
    """Those that return a finer image than they were given, as the ways back up do."""

    @classmethod
    def of(cls, network: nn.Module) -> "_Probe":
        """Send an image without storage, of another length along each axis, through a copy of the network."""
        probe, ghost = cls(), copy.deepcopy(network).to("meta").eval()
        for name, module in ghost.named_modules():
            module.register_forward_pre_hook(lambda module, inputs, name=name: probe.begun.append(name))
            module.register_forward_hook(lambda module, inputs, output, name=name: probe._end(name, inputs, output))
        ghost(torch.zeros(1, 1, *_PROBE, device="meta"))
        return probe

    def _end(self, name: str, inputs: Sequence[object], output: object) -> None:
        if name and isinstance(output, Tensor) and output.ndim == 5:
            self.ended.append((name, output, len(self.begun)))
            if any(isinstance(given, Tensor) and given.ndim == 5 and given.shape[2] < output.shape[2] for given in inputs[:1]):
                self.rises.append(name)

    def levels(self) -> tuple[dict[int, tuple[str, int]], set[str]]:
        """By how often it was halved, name and channels of the last output of each resolution down to the deepest; what had run by then."""
        found: dict[int, tuple[str, int]] = {}
        ran = 0
        for name, output, begun in self.ended:
            halved = next((k for k in range(6) if tuple(output.shape[2:]) == tuple(n >> k for n in _PROBE)), None)
            if halved is None or any(f"{name}.".startswith(f"{rise}.") for rise in self.rises):
                continue
            if found and halved not in (max(found), max(found) + 1):
                break
            if found or halved < 2:
                found[halved], ran = (name, output.shape[1]), begun
        return found, set(self.begun[:ran])


def _keep_only(network: nn.Module, ran: set[str]) -> None:
    """Remove the modules of which no part ran: distributed training refuses weights without a gradient."""
    needed = {name[:end] for name in ran for end in (*(i for i, letter in enumerate(name) if letter == "."), len(name))}
    for name in [name for name, _ in network.named_modules()]:
        parent, _, child = name.rpartition(".")
        if name and name not in needed and (not parent or parent in needed):
            network.get_submodule(parent).add_module(child, nn.Identity())


def decoder_channels(arguments: Sequence[str]) -> tuple[int, ...]:
    """Channels a decoder takes from the levels of one of MONAI's networks, finest first: its own, as far as decoder and attention can.

    Raises:
        InputError: as `MonaiNetwork`.
    """
    backbone = MonaiNetwork(arguments)
    found = backbone.channels if backbone.begins_whole else (_MOST_CHANNELS[0], *backbone.channels)
    fused = len(found) - 3
    wanted = [min(pair) for pair in zip(found, _MOST_CHANNELS, strict=False)]
    return tuple(max(32, c // 32 * 32) if level >= fused else c for level, c in enumerate(wanted))


def monai_network(arguments: Sequence[str]) -> nn.Module:
    """A network of MONAI's with random weights, on the CPU.

    Args:
        arguments: name of the class in `monai.networks.nets`, then its arguments as `name=value`.

    Raises:
        InputError: if there is no such network, or it does not take the arguments.
    """
    nets = library("monai.networks.nets")
    name, *given = arguments or [""]
    network = getattr(nets, name, None)
    if not (isinstance(network, type) and issubclass(network, nn.Module)):
        raise InputError(f"MONAI has no network {name!r}.", "Choose a class of monai.networks.nets: SegResNet, BasicUNet, DynUNet, say.")
    parted = [text.partition("=") for text in given]
    try:
        with torch.device("cpu"):  # some read numbers while they are built, which a tensor without storage has not
            built: nn.Module = network(**{key: _value(text) for key, _, text in parted})
    except (TypeError, ValueError, KeyError, NotImplementedError) as error:
        reason = f"{name} cannot be built with {' '.join(given) or 'no arguments'}: {error}."
        raise InputError(reason, "Name each argument as MONAI's documentation does.") from error
    return built


def _value(text: str) -> Any:
    """A number, a tuple, true, false, none or a word."""
    try:
        return ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text, text))
    except (ValueError, SyntaxError):
        return text


_BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "openmind": ResEncL,
    "suprem-unet": SupremUNet,
    "suprem-segresnet": SupremSegResNet,
    "suprem-swinunetr": SupremSwinUNETR,
    "merlin": MerlinResNet,
    "anatomix": AnatomixUNet,
}
NAMES = (*_BACKBONES, "monai")


def build_published(config: ModelConfig) -> Published:
    """The encoder of one of `NAMES`, with random weights; `monai` takes the network's name and arguments from `config.encoder_arguments`.

    Raises:
        WeightsError: if it has another number of levels than the configuration.
        InputError: if a library is missing, or MONAI has no such network.
    """
    backbone = MonaiNetwork(config.encoder_arguments) if config.encoder == "monai" else _BACKBONES[config.encoder]()
    return Published(backbone, config)
