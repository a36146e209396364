"""Networks as graphs that other programs run without this package: PyTorch's `.pt2` (torch.export) and ONNX, for images of any size.

A graph holds the fixed-class network (image to logits) or the encoder (image to feature maps, finest first). What belongs to it, the recipe
that prepares images above all, is written into the file as JSON: in `.pt2` the extra file `mass.json`, in ONNX the property `mass`.
"""

import importlib.util
import json
import logging
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ..config import to_dict
from ..errors import InputError, OutputError
from ..model import MASS
from ..outputs import all_or_none
from .checkpoint import Model

Part = Literal["network", "encoder"]
SUFFIXES = (".pt2", ".onnx")
_ONNX = ("onnx", "onnxscript")
"""Packages PyTorch writes ONNX with."""


class Segmenting(nn.Module):
    """A fixed-class network as a function of the image alone."""

    def __init__(self, network: MASS) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_B1DHW: Tensor) -> Tensor:
        """Logits [B,K,D,H,W]; the sigmoid of each is the probability of its class."""
        tokens = self.network.class_tokens(range(self.network.config.task_rows))
        return self.network.segment(image_B1DHW, tuple(stage.expand(image_B1DHW.shape[0], -1, -1, -1) for stage in tokens))


class Encoding(nn.Module):
    """The encoder, its finest features first as those of `mass_core.encoder`."""

    def __init__(self, network: MASS) -> None:
        super().__init__()
        self.encoder = network.encoder

    def forward(self, image_B1DHW: Tensor) -> list[Tensor]:
        """Feature maps [B,C,d,h,w]."""
        features: list[Tensor] = self.encoder(image_B1DHW)
        return features[::-1]


def check_export(output: Path) -> None:
    """Refuse a file of another form, or one of ONNX where what writes it is missing.

    Raises:
        OutputError: if the name does not end in .pt2 or .onnx.
        InputError: if packages are missing.
    """
    if output.suffix not in SUFFIXES:
        raise OutputError(f"{output} is not a valid file name for an exported network.", f"End it with {' or '.join(SUFFIXES)}.")
    missing = [name for name in _ONNX if importlib.util.find_spec(name) is None]
    if output.suffix == ".onnx" and missing:
        raise InputError(
            f"ONNX is written with {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            f"Run pip install {' '.join(missing)}, or write .pt2, which needs nothing more.",
        )


def export(model: Model, output: Path, part: Part | None = None) -> Part:
    """Write a network as a graph.

    Args:
        model: on the CPU.
        output: ends in .pt2 or .onnx; appears complete or not at all.
        part: None: the network if it has fixed classes, else its encoder.

    Returns:
        The part that was written.

    Raises:
        InputError: if the network has no fixed classes, or packages are missing.
        OutputError: if the file cannot be written.
    """
    check_export(output)
    chosen: Part = part or ("encoder" if model.task is None else "network")
    if chosen == "network" and model.task is None:
        raise InputError(
            "These weights take what to segment from references, but an exported graph takes only the image.",
            "Export their encoder (--part encoder), or finetune them to fixed classes first.",
        )
    program = graph(model, chosen)
    about = json.dumps(_about(model, chosen))
    with all_or_none([output]) as place:
        if output.suffix == ".pt2":
            torch.export.save(program, place[output], extra_files={"mass.json": about})
        else:
            _write_onnx(program, place[output], chosen, about)
    return chosen


def graph(model: Model, part: Part) -> ExportedProgram:
    """The graph of images [B,1,D,H,W] whose sides are multiples of the network's stride, twice that at least."""
    module = (Segmenting if part == "network" else Encoding)(model.network).eval()
    stride = model.config.stride
    image = torch.zeros(2, model.config.in_channels, 2 * stride, 3 * stride, 4 * stride)
    blocks = [stride * Dim(f"{name}_blocks", min=2, max=4096) for name in ("depth", "height", "width")]
    shapes = ({0: Dim("batch", min=1, max=4096), 2: blocks[0], 3: blocks[1], 4: blocks[2]},)
    # With gradients on, blocks compute as in training, in operations that graphs have; `slabs` are for running, not for tracing.
    with torch.enable_grad():
        return torch.export.export(module, (image,), dynamic_shapes=shapes, strict=False)


def _write_onnx(program: ExportedProgram, place: Path, part: Part, about: str) -> None:
    outputs = ["logits"] if part == "network" else [f"level{number}" for number in range(len(program.graph_signature.user_outputs))]
    # It would warn that torchvision, of which nothing is used here, is missing.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about PyTorch's own use of its own functions
        written = torch.onnx.export(program, input_names=["image"], output_names=outputs, dynamo=True, verbose=False)
    assert written is not None
    written.model.metadata_props["mass"] = about
    written.save(place)


def _about(model: Model, part: Part) -> dict[str, Any]:
    """Metadata of an exported network."""
    labels = [] if model.task is None or part == "encoder" else model.task.labels
    return {
        "part": part,
        "stride": model.config.stride,
        "channels": list(model.config.channels),
        "labels": [{"value": label.value, "name": label.name, "spacing_zyx": label.spacing_zyx} for label in labels],
        "preprocess": to_dict(model.recipe),
        "licence": model.licence,
        "fingerprint": model.fingerprint,
    }
