"""Pretraining beside the released code (https://github.com/Stanford-AIMI/MASS): samples of the loader and a step of training.

    mass dataset export DATASET --output FOLDER
    python -m Testing.benchmarks.beside_released --data DATASET --exported FOLDER --released-tree DIR [--samples 12] [--edge 128] [--step]

Prints CPU seconds of one thread, so that a busy machine does no harm, the share of task slots that stayed empty and, with `--step`, the
seconds and the peak memory of a training step: recipe `released` and the released configuration, one sample of 13 masks, the 120 M
network, float32, the same LAMB and moving average. Both run in processes of their own; --released-tree is a checkout whose requirements
are installed here. The loaders differ in what they hand on: the released one finished views, ours what the device cuts them from.
`--edge 64` lets a step fit into the memory of a small machine.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mass_core.augmentation.batch import Batch
from mass_core.schema import changed
from training.pretrain import loop as pretrain
from training.pretrain import recipes
from training.pretrain.config import RunConfig
from training.pretrain.deep_supervision import FusionWatch
from training.pretrain.episodes import collate
from training.pretrain.loop import augmented_views
from training.pretrain.schedule import window_at
from training.pretrain.start import start
from training.runs.distributed import ProcessGroup

from .released_tree import peak, second
from .training import opened

Found = dict[str, float]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DATASET")
    parser.add_argument("--exported", type=Path, metavar="FOLDER")
    parser.add_argument("--released-tree", type=Path, metavar="DIR")
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--edge", type=int, default=128, help="of a view in voxels")
    parser.add_argument("--step", action="store_true", help="a step of training as well")
    parser.add_argument("--set", nargs="*", default=[], action="extend", metavar="section.field=value", help="of our recipe")
    parser.add_argument("--ours-alone", action="store_true", help="print ours as JSON: how it is run in a process of its own")
    arguments = parser.parse_args()
    if arguments.ours_alone:
        print(json.dumps(ours(arguments)))
        return 0
    if not (arguments.exported and arguments.released_tree):
        parser.error("give --exported and --released-tree")
    mine = alone([sys.executable, "-m", "Testing.benchmarks.beside_released", "--ours-alone", *sys.argv[1:]], Path.cwd(), [])
    theirs = released(arguments)
    print(table(mine, theirs))
    return 0


def ours(arguments: argparse.Namespace) -> Found:
    """CPU seconds of a sample in the loader and of its views, shares of empty slots; of a step, and the memory it took."""
    torch.set_num_threads(1)
    edge = f"preprocess.window_zyx={','.join([str(arguments.edge)] * 3)}"
    settings = ["batch_size=1", f"steps={arguments.samples}", "precision=float32", edge, *arguments.set]
    config = changed(recipes.released(), settings)
    found, batch = samples_of(config, arguments.data)
    if arguments.step:
        found["step"] = second(step_of(config), [batch])
    return found | {"peak_gib": peak()}


def samples_of(config: RunConfig, data: Path) -> tuple[Found, Batch]:
    """Means over the samples of a run, and the last of them."""
    episodes = opened(config, [data])
    generator = torch.Generator().manual_seed(0)
    loader, views, lost, empty = [], [], [], []
    for number in range(config.steps):
        began = time.process_time()
        batch = collate([episodes[number]])
        loader.append(time.process_time() - began)
        _, masks = augmented_views(batch, window_at(number, config), config, generator)
        views.append(time.process_time() - began)
        shares = (masks[0].flatten(2).sum(2) == 0).float().mean(1).tolist()
        lost.append(shares[0])
        empty.append(shares[1])
    means = {"loader": loader, "views": views, "lost": lost, "empty": empty}
    return {name: float(np.mean(some)) for name, some in means.items()}, batch


def step_of(config: RunConfig) -> Callable[[Any], object]:
    """The step of `training.pretrain`, which cuts and changes its views itself."""
    group = ProcessGroup(0, 1, torch.device("cpu"))
    state = start(config, group.device, None)
    watch = FusionWatch(state.network.decoder.fusions)

    def loss_of(batch: Batch, seed: int) -> pretrain.Losses:
        return pretrain.compute_loss(config, state.step, state.network, watch, batch, seed)

    return lambda batch: pretrain.step(config, state, state.network, loss_of, batch, group)


def released(arguments: argparse.Namespace) -> Found:
    """Output of `Testing.benchmarks.released_tree`, run where the tree's packages come before ours."""
    tree = arguments.released_tree.resolve()
    order = {"tree": str(tree), "folder": str(arguments.exported.resolve())}
    order |= {"samples": arguments.samples, "edge": arguments.edge, "step": arguments.step}
    runner = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    script = Path(__file__).with_name("released_tree.py")
    return alone([sys.executable, "-c", runner, str(script), json.dumps(order)], tree, [str(tree)])


def alone(command: list[str], folder: Path, packages: list[str]) -> Found:
    """The JSON a process prints last, on one thread."""
    path = os.pathsep.join([*packages, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def table(mine: Found, theirs: Found) -> str:
    """Both, and their ratios, in Markdown."""
    rows = [
        ("loader, CPU s a sample", mine["loader"], theirs["loader"]),
        ("the same with both views cut and changed", mine["views"], theirs["loader"]),
        ("slots empty in the reference", mine["lost"], theirs["lost"]),
        ("slots empty in the target", mine["empty"], theirs["empty"]),
    ]
    if "step" in mine:
        # Ours cuts the views within its step.
        rows += [
            ("step, CPU s", mine["step"], theirs["step"]),
            ("sample and step, CPU s", mine["loader"] + mine["step"], theirs["loader"] + theirs["step"]),
            ("peak memory, GiB", mine["peak_gib"], theirs["peak_gib"]),
        ]
    lines = ["| | ours | released | released / ours |", "|---|--:|--:|--:|"]
    return "\n".join([*lines, *(f"| {name} | {a:.3f} | {b:.3f} | {b / a if a else float('nan'):.2f} |" for name, a, b in rows)])


if __name__ == "__main__":
    raise SystemExit(main())
