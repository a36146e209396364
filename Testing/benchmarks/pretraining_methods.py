"""Other ways to pretrain the same encoder, beside MASS: the paper's table 1 at a size two cores can do.

    python -m Testing.benchmarks.pretraining_methods pretrain --method mae --steps 1500 --data DATASET[=WEIGHT]... --output MAE.safetensors
    python -m Testing.benchmarks.pretraining_methods compare --dataset LABELLED --weights NONE.safetensors MAE.safetensors ... --output DIR

`pretrain` writes weights of the recipe's network. `mass` is `training.pretrain` itself. `mae` and `s3d` hide most blocks of a view and
have them drawn again, `mg` changes it and has it drawn as it was, `simclr` tells views of one scan from views of other scans (`learners`),
`none` draws random weights; of these only the encoder has learned, everything else is the recipe's random start. All see the same scans in
the same order, in the same poses and intensities, with the same optimiser, rates and average. A run that was stopped goes on from its last
state, in OUTPUT's name with `.run`, when called again.

`compare` runs `mass evaluate --methods finetuned` for every weights file, hands it what stands behind `--`, other methods for instance, and
prints all tables as one.
"""

import argparse
import copy
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from mass_core.errors import MassError
from mass_core.schema import changed
from training.pretrain import recipes
from training.pretrain.config import RunConfig
from training.pretrain.loader import batches, episodes_of
from training.pretrain.loop import advance, augmented_views, train
from training.pretrain.schedule import window_at
from training.pretrain.start import optimiser_of, start
from training.pretrain.state import publish
from training.runs.distributed import ProcessGroup
from training.runs.logbook import Logbook
from training.runs.precision import autocast, scaler
from training.runs.run_folder import enter
from training.runs.sources import Source, open_sources
from training.runs.state import State

from .learners import LEARNERS


def configured(method: str, steps: int, settings: Sequence[str]) -> RunConfig:
    """The recipe `small` with views of 24 voxels throughout and a state every 200 steps.

    A view anywhere else in the scan, which teaches MASS silence, shows nothing the reference shows: the contrast goes without.
    """
    config = changed(recipes.small(), [f"steps={steps}", "early_share=1", "save_every=200", "validate_every=0", *settings])
    if method == "simclr":
        config = changed(config, ["episodes.far_share=0"])
    return replace(config, name=f"{config.name} {method}")


def pretrain(method: str, config: RunConfig, sources: Sequence[Source], output: Path) -> None:
    """Run to the end, or on from the last state, and write the weights."""
    group, folder = ProcessGroup(0, 1, torch.device("cpu")), output.with_suffix(".run")
    if method == "mass":
        train(config, sources, folder, group, resume="auto", minutes=0)
        shutil.copyfile(folder / "last.safetensors", output)
        return
    whole = start(config, group.device, None)
    if method != "none":
        learned = learn(LEARNERS[method], config, sources, folder, group)
        whole.average.encoder.load_state_dict(learned.average.encoder.state_dict())
        whole.step = learned.step
    publish(config, sources, output, whole)


def learn(
    learner: Callable[[nn.Module, Sequence[int]], nn.Module],
    config: RunConfig,
    sources: Sequence[Source],
    folder: Path,
    group: ProcessGroup,
) -> State:
    """The loop of `training.pretrain`, for a learner that is given both views and returns its loss."""
    episodes = episodes_of(config, sources)
    network = learner(start(config, group.device, None).network.encoder, config.model.channels).train()
    average = copy.deepcopy(network).requires_grad_(False).eval()
    state = State(network, average, optimiser_of(network, config.optim), scaler=scaler(config.precision, group.device))
    state.origin = {"datasets": list(map(str, sources))}
    enter(config, folder, state, group, "auto")
    with Logbook(folder / "log.jsonl", start=state.step, steps=config.steps, every=config.log_every) as log:
        mark = time.monotonic()
        for (batch,) in batches(config, episodes, state.step, group):
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.step)
            views, _ = augmented_views(batch, window_at(state.step, config), config, generator)
            state.optimiser.zero_grad(set_to_none=True)
            with autocast(config.precision, group.device):
                loss = network(views, generator)
            state.scaler.scale(loss).backward()
            norm = advance(config, state)
            now = time.monotonic()
            log.add(state.step, loss=loss.detach(), norm=norm, samples_per_s=config.batch_size / (now - mark))
            mark = now
            if state.step % config.save_every == 0 or state.step == config.steps:
                state.save(folder / "state", config, group)
    return state


def compare(weights: Sequence[Path], dataset: Path, output: Path, more: Sequence[str]) -> str:
    """Evaluate every weights file and return one table in Markdown: a row for each; mean Dice and its standard deviation over draws.

    Networks are finetuned unless `more` names other `--methods`: of most ways to pretrain only the encoder has learned.
    """
    more = more if "--methods" in more else ["--methods", "finetuned", *more]
    found: dict[str, dict[tuple[int, str], str]] = {}
    for path in weights:
        folder = output / path.stem
        words = ["evaluate", "--weights", str(path), "--dataset", str(dataset), "--output", str(folder)]
        subprocess.run([sys.executable, "-m", "mass_core", *words, *more], check=True)
        means = json.loads((folder / "summary.json").read_text())["means"]
        found[path.stem] = {(cell["shots"], cell["method"]): f"{cell['dice']:.3f} ({cell['dice_sd']:.3f})" for cell in means}
    columns = sorted({column for cells in found.values() for column in cells})
    lines = [f"| pretraining | {' | '.join(f'{method}, {shots}-shot' for shots, method in columns)} |", "|---|" + "--:|" * len(columns)]
    for name, cells in found.items():
        lines.append(f"| {name} | {' | '.join(cells.get(column, '') for column in columns)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("pretrain")
    one.add_argument("--method", choices=("mass", "none", *LEARNERS), required=True)
    one.add_argument("--steps", type=int, default=1500)
    one.add_argument("--data", nargs="+", required=True, metavar="DATASET[=WEIGHT]")
    one.add_argument("--output", type=Path, required=True)
    one.add_argument("--set", nargs="*", default=[], action="extend", metavar="section.field=value")
    all_of_them = commands.add_parser("compare")
    all_of_them.add_argument("--weights", nargs="+", type=Path, required=True)
    all_of_them.add_argument("--dataset", type=Path, required=True)
    all_of_them.add_argument("--output", type=Path, required=True)
    words = sys.argv[1:] if argv is None else list(argv)
    words, more = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    args = parser.parse_args(words)
    try:
        if args.command == "pretrain":
            pretrain(args.method, configured(args.method, args.steps, args.set), open_sources(args.data), args.output)
        else:
            print(compare(args.weights, args.dataset, args.output, more))
    except MassError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
