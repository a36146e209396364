"""How fast training goes: the loader alone, a step, the share of time spent waiting for data, and two processes beside one.

    python -m Testing.benchmarks.training --data DATASET [DATASET...] [--recipe small] [--steps 40] [--set section.field=value]...

Every number comes from this call, so their ratios bear a busy machine. Runs are real ones of `training.pretrain` on the CPU, one thread a
process; their first quarter is left out. Two processes share the same batches over gloo.

    python -m Testing.benchmarks.training --data DATASET --exported FOLDER [--released-tree DIR --released-setup FILE] [--samples 24]

compares with the released code instead: CPU seconds of a sample and the share of empty task slots, by the recipe `paper` from DATASET and
by a stand-in (`Testing.benchmarks.released_way`) from FOLDER, which `mass dataset export` made of it. Where the released source is at hand,
DIR, its own classes are timed too, as FILE builds them (`Testing.benchmarks.released_tree`).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mass_core.dataset import Dataset
from training import recipes
from training.config import RunConfig, changed
from training.data.episodes import Episodes, collate
from training.schedule import window_at
from training.views import cut_views

if TYPE_CHECKING:
    from .released_way import ReleasedWay

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--set", nargs="*", default=[], action="extend", metavar="section.field=value")
    parser.add_argument("--exported", type=Path, metavar="FOLDER")
    parser.add_argument("--released-tree", type=Path, metavar="DIR")
    parser.add_argument("--released-setup", type=Path, metavar="FILE")
    parser.add_argument("--samples", type=int, default=24)
    arguments = parser.parse_args()
    if arguments.exported:
        return beside_released(arguments)
    settings = [f"steps={arguments.steps}", "log_every=1", "workers=0", "validate_every=0", *arguments.set]
    config = changed(recipes.named(arguments.recipe), settings)

    alone = loader(config, arguments.data)
    print(f"loader alone             {alone:8.1f} samples/s on one thread")
    one = run(arguments, settings, processes=1)
    print(f"one process              {one['samples_per_s']:8.1f} samples/s, {one['data_wait']:.2%} of it waiting for data")
    print(f"                         the loader alone gives {alone / one['samples_per_s']:.0f} times as many")
    two = run(arguments, settings, processes=2)
    ratio = two["samples_per_s"] / one["samples_per_s"]
    print(f"two processes            {two['samples_per_s']:8.1f} samples/s, {ratio:.2f} times one; {two['data_wait']:.2%} waiting")
    return 0


def beside_released(arguments: argparse.Namespace) -> int:
    """Print CPU seconds of a sample and shares of empty slots, ours and the released way's."""
    from .released_way import ReleasedWay

    torch.set_num_threads(1)
    config = changed(recipes.paper(), ["batch_size=1", f"steps={arguments.samples}", *arguments.set])
    ours = our_way(config, arguments.data, arguments.samples)
    print(f"ours                      {ours['loader']:7.3f} CPU s a sample, {ours['views']:.3f} with both views cut; {_empty(ours)}")
    for one_by_one, name in ((False, "the released way"), (True, "  masks one by one")):
        theirs = released_way(ReleasedWay(arguments.exported, one_by_one=one_by_one), arguments.samples)
        ratios = f"{theirs['loader'] / ours['loader']:.0f} and {theirs['loader'] / ours['views']:.1f} times ours"
        print(f"{name:<26}{theirs['loader']:7.3f} CPU s a sample, {ratios}; {_empty(theirs)}")
    if not (arguments.released_tree and arguments.released_setup):
        print("the released code itself  not compared: give --released-tree and --released-setup")
        return 0
    found = released_tree(arguments.released_tree, arguments.released_setup, arguments.samples)
    print("the released code itself  " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return 0


def _empty(found: dict[str, float]) -> str:
    return f"{found['lost']:.0%} of the slots empty in the reference, {found['empty']:.0%} in the target"


def our_way(config: RunConfig, data: list[Path], samples: int) -> dict[str, float]:
    """CPU seconds of a sample in the loader, and with its views cut on the CPU; shares of empty slots."""
    episodes = opened(config, data)
    generator = torch.Generator().manual_seed(0)
    cuts, times, lost, empty = [], [], [], []
    for number in range(samples):
        began = time.process_time()
        batch = collate([episodes[number]])
        times.append(time.process_time() - began)
        _, masks = cut_views(batch, window_at(number, config), config.episodes, generator)
        cuts.append(time.process_time() - began)
        shares = (masks[0].flatten(2).sum(2) == 0).float().mean(1).tolist()
        lost.append(shares[0])
        empty.append(shares[1])
    return _means(loader=times, views=cuts, lost=lost, empty=empty)


def released_way(samples: "ReleasedWay", count: int) -> dict[str, float]:
    """CPU seconds of a sample of the stand-in, and shares of empty slots."""
    times, lost, empty = [], [], []
    for number in range(count):
        began = time.process_time()
        _, reference, _, target = samples[number]
        times.append(time.process_time() - began)
        lost.append(float((reference.flatten(1).sum(1) == 0).float().mean()))
        empty.append(float((target.flatten(1).sum(1) == 0).float().mean()))
    return _means(loader=times, lost=lost, empty=empty)


def _means(**values: list[float]) -> dict[str, float]:
    return {name: float(np.mean(some)) for name, some in values.items()}


def released_tree(tree: Path, setup: Path, samples: int) -> dict[str, float]:
    """What `Testing.benchmarks.released_tree` says, run where only the released tree's packages are found."""
    runner = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    script = Path(__file__).with_name("released_tree.py")
    command = [sys.executable, "-c", runner, str(script), str(setup.resolve()), str(samples)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree.resolve())}
    done = subprocess.run(command, check=True, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def opened(config: RunConfig, data: list[Path]) -> Episodes:
    """The episodes of a run."""
    return Episodes(
        [Dataset.read(path) for path in data],
        config.episodes,
        window=lambda step: window_at(step, config),
        batch_size=config.batch_size,
        seed=config.seed,
        steps=config.steps,
        weights=config.dataset_weights,
    )


def loader(config: RunConfig, data: list[Path]) -> float:
    """Samples a second of the loader, nothing else running in this process."""
    episodes = opened(config, data)
    times = []
    for step in range(config.steps):
        began = time.perf_counter()
        collate([episodes[step * config.batch_size + place] for place in range(config.batch_size)])
        times.append(time.perf_counter() - began)
    return config.batch_size / float(np.median(times[len(times) // 4 :]))


def run(arguments: argparse.Namespace, settings: list[str], processes: int) -> dict[str, float]:
    """Medians of what a run logs."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"] if processes > 1 else []
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "run"
        command = [sys.executable, *launch, "-m", "training.pretrain", "--recipe", arguments.recipe, "--output", str(output)]
        command += ["--data", *map(str, (path.resolve() for path in arguments.data)), "--device", "cpu", "--set", *settings]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        records = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    kept = [record for record in records if "samples_per_s" in record][len(records) // 4 :]
    return {name: float(np.median([record[name] for record in kept])) for name in ("samples_per_s", "data_wait")}


if __name__ == "__main__":
    raise SystemExit(main())
