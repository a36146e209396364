"""Pretrained weights of others: where they are, what they may be used for, and the names of their tensors. Standard library only.

None of these files has been at hand here: names of tensors are those of the authors' code (docs/other_encoders.md), and a file that does
not have exactly these is refused.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from ..config import Recipe


@dataclass(frozen=True, kw_only=True)
class Published:
    """Weights somebody else has published."""

    encoder: str
    """The image encoder they are for, one of `model.published.NAMES`."""
    source: str
    """The authors' page."""
    file: str
    millions: float
    """Parameters of the whole network; the file may hold an optimiser's as well."""
    licence: str

    def absence(self, name: str, folder: object) -> tuple[str, str]:
        """Message and cure for weights requested by name before they are there."""
        size = f"{self.millions:g} M parameters, {4 * self.millions:.0f} MB or more"
        ending = self.file[self.file.rindex(".") :]
        return (
            f"The weights {name} are not on this computer. They are published at {self.source} ({size}; licence: {self.licence}).",
            f"Download {self.file} there and give its path, or put it into {folder} as {name}{ending}.",
        )


_OPENMIND = "https://huggingface.co/MIC-DKFZ/ResEncL-OpenMind-{}"
_SUPREM = "https://huggingface.co/MrGiovanni/SuPreM"
_SUPREM_LICENCE = "Apache-2.0 on that page, CC BY-NC-ND 4.0 in https://github.com/MrGiovanni/SuPreM: ask the authors"

PUBLISHED: dict[str, Published] = {
    **{
        f"openmind-{method.lower()}": Published(
            encoder="openmind", source=_OPENMIND.format(method), file="checkpoint_final.pth", millions=millions, licence="CC BY 4.0"
        )
        for method, millions in {"MG": 102, "MAE": 102, "S3D": 102, "SimCLR": 101}.items()
    },
    **{
        f"suprem-{name}": Published(
            encoder=f"suprem-{name}",
            source=_SUPREM,
            file=f"supervised_suprem_{name}_2100.pth",
            millions=millions,
            licence=_SUPREM_LICENCE,
        )
        for name, millions in {"unet": 19.08, "segresnet": 4.7, "swinunetr": 62.19}.items()
    },
    "merlin": Published(
        encoder="merlin",
        source="https://huggingface.co/stanfordmimi/Merlin",
        file="i3_resnet_clinical_longformer_best_clip_04-02-2024_23-21-36_epoch_99.pt",
        millions=270,
        licence="MIT",
    ),
    "anatomix": Published(
        encoder="anatomix", source="https://huggingface.co/neeldey/anatomix", file="anatomix.pth", millions=6, licence="MIT"
    ),
}
"""By the name that `--weights` takes once a file of that name lies in the user's folder of weights."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Tensor names of a checkpoint, and the images its encoder was made for."""

    entry: str | None
    """Of the checkpoint that holds the tensors; None: the checkpoint is those."""
    mark: str
    """A tensor no other checkpoint has."""
    places: tuple[tuple[str, str], ...]
    """Beginnings of the encoder's names: theirs, those in `model.published`."""
    left_out: tuple[str, ...]
    """Beginnings of the names of what is not the encoder."""
    without: str | None = None
    """Pattern of names that tell nothing more."""
    channels: tuple[int, ...]
    """Of the network, from full resolution to the deepest level."""
    recipe: Recipe

    def ours(self, key: str) -> str | None:
        """Name of a tensor in our network; None: it is no part of the encoder. A name outside the table comes back as it is."""
        if key.startswith(self.left_out) or (self.without and re.search(self.without, key)):
            return None
        for theirs, ours in self.places:
            if key.startswith(theirs):
                return f"encoder.backbone.{ours}{key[len(theirs) :]}"
        return key


def _recipe(edge_mm: float, window: int, ct_clip_hu: tuple[float, float] = Recipe().ct_clip_hu) -> Recipe:
    return Recipe(spacing_zyx=(edge_mm, edge_mm, edge_mm), window_zyx=(window, window, window), ct_clip_hu=ct_clip_hu)


_SUPREM_RECIPE = _recipe(1.5, 96, (-175.0, 250.0))
_HEADS = ("organ_embedding", "precls_conv.", "GAP.", "controller.", "text_to_vision.")
"""Parts of SuPreM's networks besides their backbone."""
_I3 = "encode_image.i3_resnet."

LAYOUTS: dict[str, Layout] = {
    "openmind": Layout(
        entry="network_weights",
        mark="encoder.stem.convs.0.all_modules.0.weight",
        places=(("encoder.stem.", "stem."), ("encoder.stages.", "stages.")),
        left_out=("decoder.", "projector."),
        # second names of what is in all_modules; in S3D's checkpoints these hold tensors that were never trained
        without=r"\.(conv|norm)\.(weight|bias)$",
        channels=(32, 64, 128, 256, 320, 320),
        recipe=_recipe(1.0, 160),
    ),
    "suprem-unet": Layout(
        entry="net",
        mark="backbone.down_tr64.ops.0.conv1.weight",
        places=(("backbone.down_tr", "down_tr"),),
        left_out=("backbone.up_tr", "backbone.out_tr.", *_HEADS),
        without=r"\.bn1\.(running_mean|running_var|num_batches_tracked)$",
        channels=(64, 128, 256, 512),
        recipe=_SUPREM_RECIPE,
    ),
    "suprem-segresnet": Layout(
        entry="net",
        mark="convInit.conv.weight",
        places=(("convInit.", "convInit."), ("down_layers.", "down_layers.")),
        left_out=("up_layers.", "up_samples.", "conv_final."),
        channels=(16, 32, 64, 128),
        recipe=_SUPREM_RECIPE,
    ),
    "suprem-swinunetr": Layout(
        entry="net",
        mark="backbone.swinViT.patch_embed.proj.weight",
        places=(("backbone.swinViT.", "swinViT."), ("backbone.encoder", "encoder")),
        left_out=("backbone.decoder", "backbone.out.", *_HEADS),
        channels=(48, 48, 96, 192, 384, 768),
        recipe=_SUPREM_RECIPE,
    ),
    "merlin": Layout(
        entry=None,
        mark=f"{_I3}conv1.weight",
        places=(
            (f"{_I3}conv1.", "first.0."),
            (f"{_I3}bn1.", "first.1."),
            *((f"{_I3}layer{number}.", f"layers.{number - 1}.") for number in (1, 2, 3, 4)),
        ),
        left_out=("encode_text.", "logit_scale", f"{_I3}classifier.", f"{_I3}contrastive_head."),
        channels=(32, 64, 128, 256, 512, 512),
        recipe=_recipe(1.5, 128, (-1000.0, 1000.0)),
    ),
    "anatomix": Layout(
        entry=None,
        mark="model.0.weight",
        places=(("model.", "model."),),
        left_out=tuple(f"model.{number}." for number in range(37, 70)),  # the expanding path
        channels=(16, 32, 64, 128, 256),
        recipe=_recipe(1.5, 128),
    ),
}
"""By the name of the encoder."""


def recognised(entry: str | None, keys: Collection[str]) -> str | None:
    """The encoder whose checkpoint holds tensors of these names; None: of none.

    Args:
        entry: of the checkpoint that holds them; None: the checkpoint is those.
        keys: without what wrappers put before them.
    """
    return next((encoder for encoder, layout in LAYOUTS.items() if layout.entry == entry and layout.mark in keys), None)
