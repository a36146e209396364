"""Times the released code (https://github.com/Stanford-AIMI/MASS, commit 156e866) itself.

Run by `Testing.benchmarks.beside_released` in a process of its own, whose packages are those of the released tree: several of them are
called as ours are. Its argument is JSON: `tree`, the `folder` of the released layout, `samples`, `edge` of a view in voxels, and whether to
time the `step` too. Prints one JSON line.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Sequence[Tensor]], object]


def main() -> None:
    """Time samples and a training step on one thread."""
    order = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    import_module("numpy").random.seed(0)
    config = import_module("yaml").safe_load((Path(order["tree"]) / "config/pretrain/mask_guided_self_supervised.yaml").read_text())
    samples = dataset(config, Path(order["folder"]), order["edge"])
    times, lost, empty = [], [], []
    for number in range(order["samples"]):
        began = time.process_time()
        _, target, _, reference = samples[number]
        times.append(time.process_time() - began)
        lost.append(float((reference.flatten(1).sum(1) == 0).float().mean()))
        empty.append(float((target.flatten(1).sum(1) == 0).float().mean()))
    found = {name: sum(some) / len(some) for name, some in {"loader": times, "lost": lost, "empty": empty}.items()}
    if order["step"]:
        batch = [part[None] for part in samples[0]]
        found["step"] = second(step_of(config), batch)
    print(json.dumps(found | {"peak_gib": peak()}))


def dataset(config: dict[str, Any], folder: Path, edge: int) -> Any:
    """Its pretraining samples of one folder, all cases of it, augmented on the processor as its configuration says."""
    build = import_module("data").MaskGuidedSelfSupervisedDataset
    own = {"datasets": [folder.name], "training_size": [edge] * 3, "augmentation_config": config["augmentation"]}
    return build(str(folder.parent), max_in_batch=config["data"]["train"]["max_in_batch"], aug_device="cpu", **own)


def step_of(config: dict[str, Any]) -> Step:
    """One step of its trainer on a batch, from its network, losses and optimiser; its autocast concerns CUDA alone."""
    for name in ("models", "metrics", "training"):  # each enters its classes into the registry
        import_module(name)
    found = import_module("utils.registry")
    network, average = _named(found.get_model, config["model"]), _named(found.get_model, config["model"])
    losses = [found.get_criterion(one["type"])() for one in config["loss"].values()]
    optimiser = _named(found.get_optimizer, config["optimizer"], network.parameters())
    decay = config["ema"]["decay"]

    def step(batch: Sequence[Tensor]) -> None:
        target, masks, reference, reference_masks = batch
        optimiser.zero_grad()
        logits = network(target, reference, reference_masks, update_buffer=False)
        sum(loss(logits, masks) for loss in losses).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), network.parameters(), strict=True):
                mine.mul_(decay).add_(theirs, alpha=1 - decay)

    return step


def _named(registry: Callable[[str], Any], settings: dict[str, Any], *before: Any) -> Any:
    """The object a section of the configuration describes."""
    return registry(settings["type"])(*before, **{name: value for name, value in settings.items() if name != "type"})


def second(step: Step, batch: Sequence[Tensor]) -> float:
    """CPU seconds of the second step; the first one prepares."""
    step(batch)
    began = time.process_time()
    step(batch)
    return time.process_time() - began


def peak() -> float:
    """Most memory this process ever held, in GiB; nan on Windows, which does not tell."""
    try:
        import resource
    except ImportError:
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30


if __name__ == "__main__":
    main()
