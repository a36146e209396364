"""Times the released code itself. Run by `Testing.benchmarks.training` in a process of its own, whose packages are those of the released
tree: several of them are called as ours are.

The names of its classes are not known here, so a file says how to build them: `dataset`, to be indexed by number, and if its training step
shall be timed, `step`, a function of a batch, and `batch_size`. Prints one JSON line.
"""

import json
import runpy
import sys
import time

import torch
from torch.utils.data import default_collate


def main() -> None:
    """Time what the file of the second argument builds, for as many samples as the third says."""
    setup, samples = runpy.run_path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    dataset, step, size = setup["dataset"], setup.get("step"), setup.get("batch_size", 1)
    began = time.process_time()
    for number in range(samples):
        dataset[number]
    found = {"samples_per_cpu_s": samples / (time.process_time() - began)}
    if step is not None:
        batch = default_collate([dataset[number] for number in range(size)])
        step(batch)  # the first one prepares
        began = time.process_time()
        step(batch)
        found["step_cpu_s"] = time.process_time() - began
    print(json.dumps(found | _memory()))


def _memory() -> dict[str, float]:
    """Peak of this process, in GiB; Windows does not tell."""
    try:
        import resource
    except ImportError:
        return {}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}


if __name__ == "__main__":
    main()
