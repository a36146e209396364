"""The image encoder of pretrained weights as a module of its own, for networks and training loops of other people."""

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from ..config import Recipe
from ..errors import GeometryError, InputError
from .checkpoint import Model, load_model


class PretrainedEncoder(nn.Module):
    """Maps an image to its features at every resolution, finest first. All its parameters are trainable.

    It has what nnU-Net's `UNetDecoder` and MONAI's decoders ask an encoder for.

    Args:
        model: whose encoder it is; its own network stays as it is.
    """

    conv_op: ClassVar[type[nn.Module]] = nn.Conv3d
    conv_bias: ClassVar[bool] = True
    norm_op: ClassVar[type[nn.Module]] = nn.InstanceNorm3d
    norm_op_kwargs: ClassVar[dict[str, Any]] = {"eps": 1e-5, "affine": True}
    dropout_op: ClassVar[None] = None
    dropout_op_kwargs: ClassVar[None] = None
    nonlin: ClassVar[type[nn.Module]] = nn.LeakyReLU
    nonlin_kwargs: ClassVar[dict[str, Any]] = {"inplace": True}
    """Settings from which a decoder of nnU-Net makes its own blocks: nnU-Net's defaults, not what the encoder is made of."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.levels = model.network.encoder
        self.levels.requires_grad_(True).train()
        self.in_channels: int = model.config.in_channels
        self.output_channels: tuple[int, ...] = tuple(model.config.channels)
        """Of each level, finest first."""
        levels = len(self.output_channels)
        self.strides: tuple[tuple[int, int, int], ...] = ((1, 1, 1), *[(2, 2, 2)] * (levels - 1))
        """By what each level divides the resolution of the one before."""
        self.kernel_sizes: tuple[tuple[int, int, int], ...] = ((3, 3, 3),) * levels
        self.recipe: Recipe = model.recipe
        """Preparation of scans for the pretraining: orientation, voxel size, clip."""
        self.licence: str = model.licence
        """Of the weights."""

    @property
    def reduction(self) -> int:
        """Factor between the resolution of the image and that of the deepest level."""
        return 1 << (len(self.output_channels) - 1)

    def forward(self, image_B1DHW: Tensor) -> list[Tensor]:
        """Feature maps [B,C,d,h,w], finest first, of an image as `mass_core.normalise` leaves it.

        Raises:
            InputError: if the image has another number of channels.
            GeometryError: if a side is not a multiple of `reduction`.
        """
        if image_B1DHW.ndim != 5 or image_B1DHW.shape[1] != self.in_channels:
            raise InputError(
                f"The image has shape {tuple(image_B1DHW.shape)}, the encoder takes [batch, {self.in_channels}, depth, height, width].",
                "Encode each channel as an image of its own.",
            )
        if any(side % self.reduction or not side for side in image_B1DHW.shape[2:]):
            raise GeometryError(
                f"The image has {' x '.join(map(str, image_B1DHW.shape[2:]))} voxels.",
                f"Pad or cut every side to a multiple of {self.reduction}.",
            )
        features: list[Tensor] = self.levels(image_B1DHW)
        return features[::-1]


def encoder(weights: str | Path = "small", device: str = "cpu") -> PretrainedEncoder:
    """The image encoder of weights, ready to be trained on or used as it is.

    Args:
        weights: as `load_model` takes them.
        device: see `choose_device`.

    Raises:
        WeightsError: if the file is missing, damaged, unsafe or of another network.
        DeviceError: if the device is absent.
    """
    return PretrainedEncoder(load_model(weights, device))
