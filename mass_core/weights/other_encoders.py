"""Networks whose image encoder others have pretrained; everything else in them is random until they are finetuned."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig, Recipe
from ..errors import WeightsError
from ..model import MASS, build_model
from ..model.published import decoder_channels, monai_network
from .fit import Checkpoint, check_fit
from .published import LAYOUTS, PUBLISHED

LEARNED = "learned"
"""Entry of a model's provenance: the part that is pretrained, where that is not all of it."""
_SEED = 0
"""Of what is random: a file gives the same network, with the same fingerprint, every time."""
_BACKBONE = "encoder.backbone."


def adopt(encoder: str, state: Mapping[str, Tensor], path: Path) -> Checkpoint:
    """The network with the encoder of a checkpoint of others.

    Args:
        encoder: its name, from `published.recognised`.
        state: tensors under the checkpoint's names, without what wrappers put before them.
        path: of the file.

    Raises:
        WeightsError: naming tensors that are missing, unexpected or of another shape.
        InputError: if a library is missing.
    """
    layout = LAYOUTS[encoder]
    one = next(one for one in PUBLISHED.values() if one.encoder == encoder)
    found = {ours: value for key, value in state.items() if (ours := layout.ours(key)) is not None}
    network = _network(encoder, (), layout.channels, layout.recipe)
    own = {name: value for name, value in network.state_dict().items() if name.startswith(_BACKBONE)}
    check_fit(own, found, path, f"the image encoder {encoder}", f"Choose the file its authors publish at {one.source}.")
    network.load_state_dict(found, strict=False)
    provenance = {"file": path.name, "encoder": encoder, "source": one.source}
    return _contents(network, layout.recipe, provenance, one.licence)


def adopt_monai(arguments: Sequence[str], state: Mapping[str, Tensor], path: Path) -> Checkpoint:
    """The network with the levels of one of MONAI's as its encoder.

    Args:
        arguments: name of the class in `monai.networks.nets`, then its arguments as `name=value`.
        state: all tensors of that network under its own names.
        path: of the file.

    Raises:
        WeightsError: naming tensors that are missing, unexpected or of another shape.
        InputError: if MONAI is missing, has no such network, or it has no levels.
    """
    recipe, prefix = Recipe(), f"{_BACKBONE}network."
    check_fit(
        monai_network(arguments).state_dict(), state, path, f"{' '.join(arguments)} of MONAI", "Give the arguments it was trained with."
    )
    network = _network("monai", tuple(arguments), decoder_channels(arguments), recipe)
    used = [name.removeprefix(prefix) for name in network.state_dict() if name.startswith(prefix)]
    network.load_state_dict({f"{prefix}{name}": state[name] for name in used}, strict=False)
    return _contents(network, recipe, {"file": path.name, "encoder": " ".join(arguments)})


def _contents(network: MASS, recipe: Recipe, provenance: dict[str, Any], licence: str = "") -> Checkpoint:
    provenance = {**provenance, LEARNED: "encoder"}
    return Checkpoint(tensors=network.state_dict(), config=network.config, recipe=recipe, provenance=provenance, licence=licence)


def _network(encoder: str, arguments: tuple[str, ...], channels: tuple[int, ...], recipe: Recipe) -> MASS:
    """Random, the same every time."""
    config = ModelConfig(
        channels=channels,
        stages=min(3, len(channels) - 1),
        task_rows=0,
        position_size=recipe.window_zyx[0],
        encoder=encoder,
        encoder_arguments=arguments,
        summary_token=-1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return build_model(config)


def refuse_unlearned(provenance: Mapping[str, Any], name: str) -> None:
    """Refuse to take references with a network of which only the encoder is pretrained.

    Raises:
        WeightsError: saying what to do instead.
    """
    if provenance.get(LEARNED) == "encoder":
        raise WeightsError(
            f"Of the weights {name} only the image encoder is pretrained; the rest is random, so it cannot segment from references.",
            "Finetune them first: python -m training.finetune, or `mass evaluate --methods finetuned`.",
        )
