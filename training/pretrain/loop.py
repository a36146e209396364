"""Mask-guided self-supervised pretraining (paper, algorithm 1).

    python -m training.pretrain --recipe small --data DATASET[=WEIGHT]... --output RUN [--set section.field=value]...
    torchrun --nproc-per-node 2 -m training.pretrain ...     two processes, each computing half of every batch
    torchrun --max-restarts 3 ... --resume auto      start, or go on from the last state; a process that dies takes the run back to it
    python -m training.pretrain ... --resume            go on where the run in --output stopped
    python -m training.pretrain ... --minutes 10        stop, saved, after that time
    python -m training.pretrain ... --print-config > run.json       all of it in a file, for --config run.json

Each step draws tasks (a scan, some of its masks, two views), encodes the reference view's masks into task embeddings and computes the
loss of the masks the network predicts in the target view. RUN receives config.json, log.jsonl, state/,
last.safetensors, best.safetensors (by validation) and curves.png.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mass_core.augmentation.appearance import appearance
from mass_core.augmentation.batch import Batch
from mass_core.augmentation.views import cut_views
from mass_core.command_help import examples
from mass_core.model.losses import mask_loss, tversky_loss
from mass_core.schema import changed

from ..curves import draw
from ..failures import answered
from ..runs.distributed import ProcessGroup
from ..runs.logbook import Logbook
from ..runs.options import add_run, parsed, printed, recipe_changes
from ..runs.precision import autocast
from ..runs.run_folder import check_enter, enter, nothing_left_behind
from ..runs.sources import Source, open_sources
from ..runs.stopping import Signals, report_saved
from . import recipes
from .config import RunConfig
from .deep_supervision import FusionWatch, deep_loss
from .episodes import Episodes
from .loader import batches, episodes_of
from .released_views import WEAK
from .schedule import first_beta, learning_rate, window_at
from .start import start
from .state import State, publish
from .validation import labelled, validate

Losses = tuple[Tensor, dict[str, Tensor]]
"""Loss of a batch, and values for the log."""
LossOf = Callable[[Batch, int], Losses]
"""Computes them, with the seed of its draws."""


def train(
    config: RunConfig, sources: Sequence[Source], output: Path, group: ProcessGroup, *, resume: str, minutes: float, init: str | None = None
) -> State:
    """Run the recipe from its start (random weights, or those of `init`) or from the last state, until its end, the time's or a signal."""
    check_enter(output, resume, [init] if init else [])
    group.share(config.batch_size, config.accumulate)
    episodes = episodes_of(config, sources)
    labelled_sets, notes = labelled(config, sources) if config.validate_every else ([], [])
    state = start(config, group.device, init)
    state.origin = {"datasets": list(map(str, sources))}
    enter(config, output, state, group, resume)
    if group.leads:
        sys.stderr.write("".join(f"{line}\n" for line in notes))
    network = group.wrap(state.network)
    if config.compile:
        network = torch.compile(network)
    watch = FusionWatch(state.network.decoder.fusions)

    def run_validation(log: Logbook) -> None:
        values = validate(config, labelled_sets, state, group)
        log.note(state.step, **values)
        if values["val_dice"] > state.best:
            state.best = values["val_dice"]
            if group.leads:
                publish(config, sources, output / "best.safetensors", state)

    def loss_of(batch: Batch, seed: int) -> Losses:
        return compute_loss(config, state.step, network, watch, batch, seed)

    validation = run_validation if labelled_sets else None
    run_steps(config, state, episodes, output, group, network=network, loss_of=loss_of, validation=validation, minutes=minutes)
    if group.leads:
        publish(config, sources, output / "last.safetensors", state)
        draw(output)
        report_saved(state.step, config.steps, resume)
    return state


def run_steps(
    config: RunConfig,
    state: State,
    episodes: Episodes,
    output: Path,
    group: ProcessGroup,
    *,
    network: Callable[..., Tensor],
    loss_of: LossOf,
    validation: Callable[[Logbook], None] | None = None,
    minutes: float = 0,
) -> None:
    """Take the steps that are left, until their end, the time's or a signal; log them and save the state.

    Args:
        config: of the run.
        state: moved on.
        episodes: what is learned from.
        output: folder of the run.
        group: processes that share each step.
        network: of `state`, as the group has wrapped it.
        loss_of: what is minimised.
        validation: called every `config.validate_every` steps and after the last one.
        minutes: time of the run; 0: as long as it takes.
    """
    until = time.monotonic() + 60 * minutes if minutes else float("inf")
    book = Logbook(config, output, group, start=state.step, steps=config.steps, minutes=minutes, tensorboard=config.tensorboard)
    with Signals() as signals, book as log:
        mark = time.monotonic()
        for parts in batches(config, episodes, state.step, group):
            arrived = time.monotonic()
            values = step(config, state, network, loss_of, parts, group)
            now = time.monotonic()
            values["rate"] = state.optimiser.param_groups[0]["lr"]
            log.add(state.step, **values, samples_per_s=config.batch_size / (now - mark), data_wait=(arrived - mark) / (now - mark))
            mark = now
            ending = state.step == config.steps
            if validation and (ending or state.step % config.validate_every == 0):
                validation(log)
                mark = time.monotonic()
            stopping = group.any(signals.stop_requested or now > until) or ending
            if group.leads and (stopping or state.step % config.save_every == 0):
                state.save(output / "state", config, group)
            if stopping:
                break


def step(
    config: RunConfig, state: State, network: Callable[..., Tensor], loss_of: LossOf, parts: Sequence[Batch], group: ProcessGroup
) -> dict[str, Any]:
    """One step, on this process's share of the batch; returns what the log shows."""
    state.optimiser.zero_grad(set_to_none=True)
    shown = []
    for number, batch in enumerate(parts):
        seed = ((config.seed * 1_000_003 + state.step) * group.size + group.rank) * len(parts) + number
        with group.alone(network, last=number == len(parts) - 1), _attention(batch.image.device):  # what is recomputed needs it, too
            loss, values = loss_of(batch, seed)
            state.scaler.scale(loss / len(parts)).backward()
        shown.append(values)
    return {"norm": advance(config, state)} | {name: torch.stack([values[name] for values in shown]).mean() for name in shown[0]}


def compute_loss(config: RunConfig, at: int, network: Callable[..., Tensor], watch: FusionWatch, batch: Batch, seed: int) -> Losses:
    """Loss of a batch in step `at` of algorithm 1, and values for the log."""
    device = batch.image.device
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    images, masks = augmented_views(batch, window_at(at, config), config, generator)
    shown = masks[:, 0].sum((2, 3, 4))
    shown = torch.where(shown < 8, 0, shown)
    reference, target = images[:, 0], images[:, 1]
    if config.channels_last:
        reference, target = (x.to(memory_format=torch.channels_last_3d) for x in (reference, target))
    with autocast(config.precision, device):
        logits = network(target, reference, masks[:, 0].float())
    if config.optim.loss == "tversky":
        loss, dice = tversky_loss(logits, masks[:, 1])
    else:
        loss, dice = mask_loss(logits, masks[:, 1], shown, config.optim.balance_power)
    fused = watch.take()
    if config.optim.deep_weight:
        loss = loss + config.optim.deep_weight * deep_loss(fused, masks[:, 1], shown, config.optim.balance_power)
    empty = (masks[:, 1].sum((2, 3, 4)) == 0).float().mean()
    return loss, {"loss": loss.detach(), "dice": dice, "lost": (shown == 0).float().mean(), "empty": empty}


def augmented_views(batch: Batch, window: int, config: RunConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Both views of every episode, their intensities changed: what `cut_views` returns, with other images."""
    images, masks = cut_views(batch, (window,) * 3, config.episodes, generator)
    if config.episodes.weak_reference:
        images = torch.stack([appearance(images[:, view], kind, generator) for view, kind in enumerate((WEAK, config.appearance))], 1)
    else:
        images = appearance(images.flatten(0, 1), config.appearance, generator).view(images.shape)
    return images, masks


def _attention(device: torch.device) -> AbstractContextManager[object]:
    """Plain products on CPUs: for many short sequences the fused kernel took 15 % longer for a step."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def advance(config: RunConfig, state: State) -> Tensor:
    """Apply the gradients of a step at its learning rate (`Averaged.advance`)."""
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(state.step, config.steps, config.optim)
        group["betas"] = (first_beta(state.step, config.steps, config.optim, group["betas"][0]), group["betas"][1])
    return state.advance(state.network.parameters(), config.optim)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 done, 2 bad input, 130 interrupted before the first step."""
    return answered(lambda: _command(argv))


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="training.pretrain",
        description="Mask-guided self-supervised pretraining.",
        **examples(
            "python -m training.pretrain --recipe small --data DATASET --output RUN",
            "python -m training.pretrain --data CT=0.6 MR=0.4 --output RUN --minutes 60 --set optim.learning_rate=5e-4",
            "torchrun --nproc-per-node 8 -m training.pretrain --recipe paper --data DATASET --output RUN --resume auto",
        ),
    )
    start = parser.add_argument_group("start")
    start.add_argument("--recipe", default="small", help=f"one of {', '.join(recipes.RECIPES)} (default: %(default)s)")
    start.add_argument("--init", metavar="W", help="start from these weights instead of random ones")
    start.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="DATASET[=WEIGHT]",
        help="dataset folders, of `mass prepare` or of the released code, with sampling weights (default: by number of scans)",
    )
    add_run(parser)
    return parser


def _command(argv: Sequence[str] | None) -> None:
    parser = build_parser()
    args = parsed(parser, argv)
    config = changed(recipes.named(args.recipe), recipe_changes(args))
    if args.print_config:
        sys.stdout.write(f"{printed(parser, args, config)}\n")
        return
    group = ProcessGroup.join(args.device)
    with nothing_left_behind(args.output):
        train(config, open_sources(args.data), args.output, group, resume=args.resume, minutes=args.minutes or 0, init=args.init)
    group.leave()
