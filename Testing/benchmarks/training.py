"""Speed of training: the loader alone, a step, the share of time spent waiting for data, and two processes beside one.

    python -m Testing.benchmarks.training --data DATASET [DATASET...] [--recipe small] [--steps 40] [--set section.field=value]...

Every number comes from this call, so their ratios bear a busy machine. Runs are real ones of `training.pretrain` on the CPU, one thread a
process; their first quarter is left out. Two processes share the same batches over gloo.
The released code is measured by `Testing.benchmarks.beside_released`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mass_core.schema import changed
from training.pretrain import recipes
from training.pretrain.config import RunConfig
from training.pretrain.episodes import Episodes, collate
from training.pretrain.loader import episodes_of
from training.runs.sources import open_sources

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--set", nargs="*", default=[], action="extend", metavar="section.field=value")
    arguments = parser.parse_args()
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


def opened(config: RunConfig, data: list[Path]) -> Episodes:
    """The episodes of a run."""
    return episodes_of(config, open_sources([str(path) for path in data]))


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
        return logged(output)


def logged(output: Path) -> dict[str, float]:
    """Medians of the speeds in the log of a run folder, without its first quarter."""
    records = [json.loads(line) for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [record for record in records if "samples_per_s" in record][len(records) // 4 :]
    return {name: float(np.median([record[name] for record in kept])) for name in ("samples_per_s", "data_wait")}


if __name__ == "__main__":
    raise SystemExit(main())
