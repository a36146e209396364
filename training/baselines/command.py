"""Other ways to pretrain the same encoder, beside MASS: the rows of the paper's table 1.

    python -m training.baselines --method mae --steps 1500 --data DATASET[=WEIGHT]... --output MAE.safetensors
    torchrun --nproc-per-node 2 -m training.baselines ...     two processes, each computing half of every batch

The result is weights of the recipe's network. `mass` is `training.pretrain` itself. `mae` and `s3d` hide most blocks of a view and
reconstruct them, `mg` changes a view and reconstructs it as it was, `simclr` distinguishes views of one scan from those of other scans
(`learners`), `none` draws random weights; of these only the encoder has learned, everything else is the recipe's random start. All see the
same scans in the same order, in the same poses and intensities, with the same optimiser, rates and average. A run that was stopped, by
SIGTERM or Ctrl-C after the step it was in, continues from its last state, in OUTPUT's name with `.run`, when called again.
"""

import argparse
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch

from mass_core.augmentation.batch import Batch
from mass_core.command_help import examples, seed_number
from mass_core.devices import DEVICES
from mass_core.errors import InputError, OutputError
from mass_core.option_files import add_config
from mass_core.schema import changed

from ..failures import answered
from ..pretrain import recipes
from ..pretrain.config import RunConfig
from ..pretrain.loader import episodes_of
from ..pretrain.loop import Losses, augmented_views, run_steps, train
from ..pretrain.schedule import window_at
from ..pretrain.start import optimiser_of, start
from ..pretrain.state import State, publish
from ..runs.distributed import ProcessGroup
from ..runs.options import parsed, printed, recipe_changes
from ..runs.precision import autocast, scaler
from ..runs.run_folder import copy, enter
from ..runs.sources import Source, open_sources
from ..runs.stopping import report_saved
from .learners import LEARNERS


def configured(method: str, recipe: str, settings: Sequence[str]) -> RunConfig:
    """The recipe with views of one size throughout, those it begins with, and a state every 200 steps.

    A view anywhere in the scan, a negative example for MASS, shows nothing the reference shows: the contrast has none.
    """
    config = changed(recipes.named(recipe), ["early_share=1", "save_every=200", "validate_every=0", *settings])
    if method == "simclr":
        config = changed(config, ["episodes.far_share=0"])
    return replace(config, name=f"{config.name} {method}")


def pretrain(method: str, config: RunConfig, sources: Sequence[Source], output: Path, group: ProcessGroup) -> None:
    """Run to the end, or on from the last state, and write the weights; of a run that is stopped before, only its state.

    Raises:
        OutputError: if other weights have the name.
    """
    folder = output.with_suffix(".run")
    if output.exists() and not folder.is_dir():
        raise OutputError(f"{output} already exists and was not made by this command.", "Choose another name.")
    if method == "mass":
        if train(config, sources, folder, group, resume="auto", minutes=0).step == config.steps and group.leads:
            copy(folder / "last.safetensors", output)
        return
    whole = start(config, group.device, None)
    if method != "none":
        learned = learned_by(method, config, sources, folder, group)
        if learned.step < config.steps:
            if group.leads:
                report_saved(learned.step, config.steps, "auto")
            return
        whole.average.encoder.load_state_dict(learned.average.encoder.state_dict())
        whole.step = learned.step
    if group.leads:
        folder.mkdir(parents=True, exist_ok=True)  # tells a later call that the weights are of this one
        publish(config, sources, output, whole)


def learned_by(method: str, config: RunConfig, sources: Sequence[Source], folder: Path, group: ProcessGroup) -> State:
    """State after a run of a method: the loop of `training.pretrain`, with another loss of both views."""
    group.share(config.batch_size, config.accumulate)
    episodes = episodes_of(config, sources)
    network = LEARNERS[method](start(config, group.device, None).network.encoder, config.model.channels).to(group.device).train()
    average = deepcopy(network).requires_grad_(False).eval()
    optimiser, scaling = optimiser_of(network, config.optim), scaler(config.precision, group.device)
    state = State(network, average, optimiser, scaler=scaling)  # type: ignore[arg-type]  # the learner stands for the whole network
    state.origin = {"datasets": list(map(str, sources))}
    enter(config, folder, state, group, "auto")
    wrapped = group.wrap(network)

    def loss_of(batch: Batch, seed: int) -> Losses:
        generator = torch.Generator(group.device).manual_seed(seed)
        views, _ = augmented_views(batch, window_at(state.step, config), config, generator)
        with autocast(config.precision, group.device):
            loss = wrapped(views, generator)
        return loss, {"loss": loss.detach()}

    run_steps(config, state, episodes, folder, group, network=wrapped, loss_of=loss_of)
    return state


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 done, 2 bad input, 130 interrupted before the first step."""
    return answered(lambda: _command(argv))


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="training.baselines",
        description="Pretrain the encoder with other methods, to compare with MASS.",
        **examples(
            "python -m training.baselines --method mae --steps 1500 --data DATASET --output MAE.safetensors",
            "torchrun --nproc-per-node 8 -m training.baselines --method s3d --recipe paper --data CT=0.6 MR=0.4 --output S3D.safetensors",
        ),
    )
    start = parser.add_argument_group("start")
    start.add_argument("--method", choices=("mass", "none", *LEARNERS), required=True, help="pretraining method")
    start.add_argument("--recipe", default="small", help=f"one of {', '.join(recipes.RECIPES)} (default: %(default)s)")
    start.add_argument(
        "--data", nargs="+", default=[], metavar="DATASET[=WEIGHT]", help="as for training.pretrain; not needed for the method none"
    )
    run = parser.add_argument_group("run")
    run.add_argument(
        "--output", type=Path, required=True, metavar="WEIGHTS.safetensors", help="file to write; the run's files are beside it"
    )
    run.add_argument("--steps", type=int, metavar="N", help="number of training steps (default: the recipe's)")
    run.add_argument("--set", nargs="*", default=[], action="extend", metavar="section.field=value", help="change settings of the recipe")
    run.add_argument("--seed", type=seed_number, metavar="N", help="seed of the run, the same as --set seed=N (default: the recipe's)")
    run.add_argument("--device", default="auto", metavar="D", help=f"{DEVICES} (default: auto; under torchrun one for each rank)")
    add_config(parser)
    return parser


def _command(argv: Sequence[str] | None) -> None:
    parser = build_parser()
    args = parsed(parser, argv)
    config = configured(args.method, args.recipe, [*recipe_changes(args), *([] if args.steps is None else [f"steps={args.steps}"])])
    if args.print_config:
        sys.stdout.write(f"{printed(parser, args, replace(config, name=recipes.named(args.recipe).name))}\n")
        return
    if not args.data and args.method != "none":
        raise InputError(f"--data is missing: {args.method} learns from scans.", "Give datasets of mass prepare with masks.")
    if args.output.suffix != ".safetensors":
        raise OutputError(f"{args.output} is not a valid file name for weights.", "End it with .safetensors.")
    group = ProcessGroup.join(args.device)
    pretrain(args.method, config, open_sources(args.data), args.output, group)
    group.leave()
