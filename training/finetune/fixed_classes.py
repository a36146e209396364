"""The network that finetuning trains: encoder, decoder and the class tokens as parameters, without task encoders."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from mass_core.encoding.task import Task
from mass_core.model import MASS
from mass_core.weights.checkpoint import Model

from ..runs.state import Averaged
from .config import FinetuneConfig


class FixedClasses(nn.Module):
    """A network of fixed classes whose stored tokens are trained as well; `network` is what is saved and used.

    Args:
        network: without task encoding; its buffers of class tokens become parameters of the same names.
    """

    def __init__(self, network: MASS) -> None:
        super().__init__()
        for stage in range(network.config.stages):
            name = f"class_tokens{stage}"
            tokens = getattr(network, name)
            delattr(network, name)
            network.register_parameter(name, nn.Parameter(tokens.clone()))
        self.network = network

    def forward(self, images_B1DHW: Tensor, rows: Sequence[int]) -> Tensor:
        """Logits [B,len(rows),D,H,W] of some of the classes."""
        tokens = tuple(stage.expand(len(images_B1DHW), -1, -1, -1) for stage in self.network.class_tokens(rows))
        return self.network.segment(images_B1DHW, tokens)

    @property
    def tokens(self) -> list[Tensor]:
        """The class tokens [classes,queries+1,C], deepest stage first."""
        return [getattr(self.network, f"class_tokens{stage}") for stage in range(self.network.config.stages)]

    @property
    def weights(self) -> list[Tensor]:
        """All other parameters."""
        return [value for name, value in self.network.named_parameters() if not name.startswith("class_tokens")]

    def learned(self, task: Task) -> Task:
        """The task with the tokens as they are now."""
        stages = [stage.detach().to("cpu", torch.float32, copy=True) for stage in self.tokens]
        labels = tuple(replace(label, tokens=own) for label, own in zip(task.labels, zip(*stages, strict=True), strict=True))
        return replace(task, labels=labels)


@dataclass
class Tuning(Averaged[FixedClasses]):
    """State of finetuning."""

    STATES = {"network": "network", "average": "average", "optimiser": "optimiser"}
    VALUES = ("bad_steps", "scores", "best_epoch", "judged")
    MISFIT = ("another network or other classes", "the weights, scans and classes")
    scores: dict[str, float] = field(default_factory=dict)
    """Of the best validation so far: `val_dice`, and `dice_<value>` of each class it covers; empty: there was none."""
    best_epoch: int = 0
    judged: int = -1
    """The step of the latest validation."""
    parts: int = 1
    """In which a process computes its share of a batch; not saved, because memory may differ when the run is resumed."""

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.network.tokens[0].device


def start(model: Model, task: Task, config: FinetuneConfig, *, scratch: bool) -> Tuning:
    """Initial state: encoder and decoder of the weights and the tokens of a task, or random ones.

    Args:
        model: with task encoding.
        task: the classes, encoded with it.
        config: of the run; its seed decides what chance is.
        scratch: see above.
    """
    torch.manual_seed(config.seed)
    if scratch:
        plain = MASS(replace(model.config, task_encoding=False, task_rows=len(task.labels)))
    else:
        plain = model.network.with_fixed_classes(task.tokens(range(len(task.labels))))
    network = FixedClasses(plain).to(model.device).train()
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # the stubs know 4D formats only
    average = copy.deepcopy(network).requires_grad_(False).eval()
    optim = config.optim
    parameters = [{"params": network.weights, "lr": optim.learning_rate}, {"params": network.tokens, "lr": optim.token_rate}]
    return Tuning(network, average, AdamW(parameters, weight_decay=optim.weight_decay), parts=config.accumulate)


def rates(step: int, config: FinetuneConfig) -> tuple[float, float]:
    """Learning rates of network and tokens in a step, the same ones in all steps of an epoch."""
    optim, epoch = config.optim, step // config.steps_per_epoch
    both = (optim.learning_rate, optim.token_rate)
    if optim.schedule == "constant":
        return both
    share = (1 + math.cos(math.pi * min(epoch / config.epochs, 1.0))) / 2
    network, tokens = (optim.last_rate + (rate - optim.last_rate) * share for rate in both)
    return network, tokens
