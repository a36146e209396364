"""Finetuning to fixed classes (paper section 6.4): network and class tokens are trained on labelled scans, task encoders are dropped.

    python -m training.finetune --images SCANS --labels-dir LABELS --output RUN        scans and label maps of the same names
    python -m training.finetune --data DATASET --shots 5 --output RUN                  five scans of a dataset
    torchrun --nproc-per-node 2 -m training.finetune ...     two processes, each computing half of every batch
    python -m training.finetune ... --resume                  go on where the run in --output stopped

It starts where in-context segmentation ends: the class tokens are the mean task embeddings of the labelled scans. RUN receives
config.json, start.masstask, log.jsonl, state/, last.safetensors, best.safetensors (by validation) and curves.png;
`mass segment --weights RUN/best.safetensors --target SCAN ...` needs no reference.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mass_core.augmentation.appearance import appearance
from mass_core.augmentation.views import cut
from mass_core.errors import Cancelled, is_out_of_memory, out_of_memory
from mass_core.model.losses import mask_loss, tversky_loss

from ..runs.logbook import Logbook
from ..runs.precision import autocast, check_depth
from ..runs.run_folder import enter
from ..runs.sources import identity
from .config import FinetuneConfig
from .crops import Crop, Crops, collate, steps_of
from .fixed_classes import Tuning, rates, start
from .run import Run
from .validation import Validator


def finetune(run: Run, resume: str) -> tuple[Tuning, str]:
    """Train to the end, until early stopping, or until `run.report` says to stop; returns the state, and the reason of an early end."""
    config, group, report = run.config, run.group, run.report
    check_depth([run.window], run.model.config, config.precision, group.device)
    state = start(run.model, run.task, config, scratch=run.scratch)
    state.origin = {"scans": identity(run.cohort.dataset, run.cohort.planes), "labels": list(run.cohort.labels)}
    enter(config, run.output, state, group, resume)
    crops = Crops(run.cohort.dataset, run.cohort.planes, run.task, config, run.window)
    validator = Validator(run, state.average) if run.cohort.val else None
    network, stopped = group.wrap(state.network), ""
    with Logbook(config, run.output, group, start=state.step, steps=config.steps, bar=False) as log:
        try:
            if validator and config.validates(state.step) and state.judged != state.step:
                _validate(run, state, validator, log)
            for share in steps_of(crops, state.step, group):
                began = time.monotonic()
                values = step(run, state, network, crops, share)
                rate = state.optimiser.param_groups[0]["lr"]
                means = log.add(state.step, **values, rate=rate, samples_per_s=config.batch_size / (time.monotonic() - began))
                report.trained(state.step, config, means)
                if validator and config.validates(state.step):
                    _validate(run, state, validator, log)
                    stopped = "early" * config.gave_up(state.step, state.best_epoch)
                if stopped or group.any(report.stopping()):
                    stopped = stopped or report.reason * (state.step < config.steps)
                    break
                if state.step % (config.save_every * config.steps_per_epoch) == 0 and group.leads:
                    state.save(run.output / "state", config, group)
        except Cancelled:
            stopped = report.reason
    if group.leads:
        state.save(run.output / "state", config, group)
    run.publish("last.safetensors", state)
    return state, stopped


def _validate(run: Run, state: Tuning, validator: Validator, log: Logbook) -> None:
    """Validate the averaged network; keep it if it is the best so far."""
    # Processes must leave a validation together.
    scores = validator.scores(run.report.progress, run.report.cancelled if run.group.size == 1 else lambda: False)
    state.judged = state.step
    log.note(state.step, **scores)
    run.report.validated(state.step, run.config, scores, {label.value: label.name for label in run.task.labels})
    if not state.scores or scores["val_dice"] > state.scores["val_dice"]:
        state.scores, state.best_epoch = scores, state.step // run.config.steps_per_epoch
        run.publish("best.safetensors", state)


def step(run: Run, state: Tuning, network: Callable[..., Tensor], crops: Crops, share: Sequence[Crop]) -> dict[str, Tensor]:
    """One step on this process's share of the batch, in as many parts as memory needs; returns what the log shows.

    Raises:
        MemoryShort: if memory does not suffice for a single crop.
    """
    while True:
        try:
            values = _gradients(run, state, network, crops, share)
            return values | {"norm": _apply(run.config, state)}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if state.parts >= len(share) or run.group.size > 1:  # several processes would no longer be at the same place
                raise out_of_memory(error) from error
        state.parts = min(2 * state.parts, len(share))
        run.report.warn(f"There is not enough memory for {len(share)} crops at once; each step is computed in {state.parts} parts.")
        if state.device.type == "cuda":
            torch.cuda.empty_cache()


def _gradients(run: Run, state: Tuning, network: Callable[..., Tensor], crops: Crops, share: Sequence[Crop]) -> dict[str, Tensor]:
    """Gradients of the mean loss of some crops."""
    state.optimiser.zero_grad(set_to_none=True)
    shown, size = [], -(-len(share) // state.parts)
    for number, first in enumerate(range(0, len(share), size)):
        part = share[first : first + size]
        seed = ((run.config.seed * 1_000_003 + state.step) * run.group.size + run.group.rank) * len(share) + number
        with run.group.alone(network, last=first + size >= len(share)):
            loss, dice = compute_loss(run.config, network, part, crops, device=state.device, seed=seed)
            (loss * len(part) / len(share)).backward()
        shown.append(torch.stack([loss.detach(), dice]) * len(part) / len(share))
    loss, dice = torch.stack(shown).sum(0)
    return {"loss": loss, "dice": dice}


def compute_loss(
    config: FinetuneConfig, network: Callable[..., Tensor], part: Sequence[Crop], crops: Crops, *, device: torch.device, seed: int
) -> tuple[Tensor, Tensor]:
    """Loss of some of the crops, and the soft Dice of the classes they show."""
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    window, classes = crops.window, crops.groups[part[0].group]
    images, numbers = cut(collate(part).to(device), (window,) * 3, config.crops, generator)
    images = appearance(images[:, 0], config.appearance, generator).to(memory_format=torch.channels_last_3d)
    masks = numbers[:, 0] == torch.arange(1, len(classes.rows) + 1, device=device)[:, None, None, None]
    with autocast(config.precision, device):
        logits = network(images, classes.rows)
    if config.optim.loss == "tversky":
        return tversky_loss(logits, masks)
    # False positives of a class the crop does not show count by their size relative to the usual one.
    usual = torch.tensor(classes.voxels, device=device).clamp(1, window**3 / 2).expand(len(images), -1)
    return mask_loss(logits, masks, usual, config.optim.balance_power)


def _apply(config: FinetuneConfig, state: Tuning) -> Tensor:
    """Apply the gradients of a step at its learning rates (`Averaged.advance`)."""
    for group, rate in zip(state.optimiser.param_groups, rates(state.step, config), strict=True):
        group["lr"] = rate
    return state.advance(state.network.weights, config.optim)
