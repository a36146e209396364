"""Classifiers of whole scans on the encoder of pretrained weights (paper, classification protocol).

    python -m training.classify --weights small --labels labels.csv --images SCANS --output RUN --recipe small
    torchrun --nproc-per-node 2 -m training.classify ...     two processes, each computing half of every batch
    python -m training.classify ... --full                   train the encoder as well
    python -m training.classify ... --resume                 go on where the run in --output stopped

With a frozen encoder every scan's features are computed once; the head then learns in seconds. RUN receives config.json, log.jsonl, state/,
features/ or inputs/, best.safetensors (by AUC on the split val, for `mass classify`) and metrics.json. The split test is looked at once,
at the end.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer

from mass_core.command_help import examples
from mass_core.data.splits import SPLITS
from mass_core.errors import MassError
from mass_core.files import write_json
from mass_core.inference.classifier import ClassifierConfig, ClassifierNetwork, load_classifier, probabilities, save_classifier
from mass_core.schema import changed
from mass_core.weights.checkpoint import Model, load_model

from ..failures import answered
from ..runs.distributed import ProcessGroup
from ..runs.loading import loaded
from ..runs.logbook import PATIENCE_S, Logbook, progress_bar
from ..runs.options import add_run, parsed, printed, recipe_changes
from ..runs.precision import autocast
from ..runs.run_folder import check_enter, enter, provenance
from ..runs.state import Resumable
from ..runs.stopping import Signals, report_saved
from . import config as classify_config
from .config import ClassifyConfig
from .inputs import Sample, Samples, draws, input_recipe, prepared, survey
from .scores import scores
from .table import Table, read_table

_LEAST_RATE = 1e-6
_WEIGHT_LIMITS = (0.1, 10.0)


@dataclass
class Learner(Resumable):
    """State of the training of a classifier."""

    STATES = {"network": "learning", "optimiser": "optimiser"}
    VALUES = ("best",)
    network: ClassifierNetwork
    frozen: bool
    optimiser: Optimizer
    origin: dict[str, Any]
    step: int = 0
    best: tuple[float, float] = (-1.0, 0.0)
    """AUC on val, 0 if there is none, and minus the loss there."""

    @property
    def learning(self) -> nn.Module:
        """The part whose weights move."""
        return self.network.head if self.frozen else self.network


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything constant over a run."""

    settings: ClassifyConfig
    made: ClassifierConfig
    table: Table
    samples: dict[str, Samples]
    """Of every split, as they are."""
    learning: Samples
    """Of the split train, changed from draw to draw."""
    model: Model
    """Source of the encoder."""
    output: Path
    group: ProcessGroup

    @property
    def epoch(self) -> int:
        """Steps of an epoch."""
        return math.ceil(len(self.table.splits["train"]) / self.settings.batch_size)


def train(
    settings: ClassifyConfig, table: Table, weights: str, output: Path, group: ProcessGroup, *, resume: str, minutes: float
) -> Learner:
    """Run the recipe from its start or from the last state, until its end or a signal."""
    check_enter(output, resume, [weights])
    model = load_model(weights, str(group.device))
    fitting = survey(table, model.recipe.changed(window_zyx=settings.size_zyx), output, group)
    recipe = input_recipe(settings, model.recipe, [fitting[row.name] for row in table.splits["train"]])
    made = ClassifierConfig(
        model=model.config, recipe=recipe, classes=table.classes, multi_label=table.multi_label, dropout=settings.dropout
    )
    learner = start(settings, made, model, table, group)
    enter(settings, output, learner, group, resume)
    if group.leads:
        sys.stderr.write("".join(f"{line}\n" for line in notes(table, recipe.spacing_zyx or (), fitting)))
    files = prepared(table, learner.network, settings, made, output, group)

    def samples(split: str, learning: bool) -> Samples:
        of_split = [files[row.name] for row in table.splits[split]]
        return Samples(of_split, table.targets(split), settings, made, learning=learning)

    run = Run(
        settings=settings,
        made=made,
        table=table,
        samples={split: samples(split, learning=False) for split in SPLITS},
        learning=samples("train", learning=True),
        model=model,
        output=output,
        group=group,
    )
    if run_steps(run, learner, resume, minutes):
        evaluate(run)
    return learner


def start(settings: ClassifyConfig, made: ClassifierConfig, model: Model, table: Table, group: ProcessGroup) -> Learner:
    """The encoder of the weights, or a random one, a random head, and their optimiser."""
    torch.manual_seed(settings.seed)
    network = ClassifierNetwork(made)
    if not settings.random_encoder:
        network.encoder.load_state_dict(model.network.encoder.state_dict())
    network.to(group.device).train()
    parts = [{"params": list(network.head.parameters()), "lr": settings.head_rate, "rate": settings.head_rate}]
    if settings.frozen:
        network.encoder.eval().requires_grad_(False)
    else:
        parts.append({"params": list(network.encoder.parameters()), "lr": settings.encoder_rate, "rate": settings.encoder_rate})
    origin = {"weights": model.fingerprint, "labels": table.sha256, "spacing": list(made.recipe.spacing_zyx or ())}
    return Learner(network, settings.frozen, AdamW(parts, weight_decay=settings.weight_decay), origin)


def notes(table: Table, spacing_zyx: Sequence[float], fitting: dict[str, float]) -> list[str]:
    """Warnings before anything is computed."""
    counts = ", ".join(f"{len(table.splits[split])} {split}" for split in SPLITS)
    lines = [f"{len(table.classes)} classes, {counts}; the input has voxels of {' x '.join(f'{mm:.3g}' for mm in spacing_zyx)} mm."]
    larger = sum(mm > max(spacing_zyx) * 1.01 for mm in fitting.values())
    if larger:
        lines.append(f"{larger} of {len(fitting)} scans are larger than the input; only their middle is used.")
    for split in ("val", "test"):
        if table.splits[split] and (undefined := table.without_auc(split)):
            lines.append(f"No AUC on {split} for {', '.join(undefined)}: all scans have it, or none.")
    if len(table.without_auc("val")) == len(table.classes):
        lines.append("Without any AUC on val, the lowest loss on val decides which weights are the best.")
    return lines


def run_steps(run: Run, learner: Learner, resume: str, minutes: float) -> bool:
    """Run the remaining steps, with validation after every epoch; returns true if the end was reached."""
    settings, group = run.settings, run.group
    steps = run.epoch * settings.epochs
    network = group.wrap(learner.learning)
    weights = class_weights(run.table, settings).to(group.device)
    until = time.monotonic() + 60 * minutes if minutes else float("inf")
    own = draws(len(run.learning.files), settings, range(learner.step, steps), group)
    with Signals() as signals, Logbook(settings, run.output, group, start=learner.step, steps=steps, minutes=minutes) as log:
        for batch in loaded(run.learning, own, settings.workers, group):
            set_rates(learner, settings, learner.step // run.epoch)
            loss = step(run, learner, network, batch, weights)
            log.add(learner.step, loss=loss, rate=learner.optimiser.param_groups[0]["lr"])
            if learner.step % run.epoch == 0:
                values = validate(run, learner, weights)
                log.note(learner.step, epoch=learner.step // run.epoch, **values)
                keep_best(run, learner, values)
            stopping = group.any(signals.stop_requested or time.monotonic() > until)
            if group.leads and (stopping or learner.step == steps or learner.step % settings.save_every == 0):
                learner.save(run.output / "state", settings, group)
            if stopping:
                break
    if group.leads:
        report_saved(learner.step, steps, resume)
    return learner.step == steps


def step(run: Run, learner: Learner, network: Callable[..., Tensor], batch: Sample, weights: Tensor) -> Tensor:
    """One step on this process's share of the batch; returns the loss."""
    settings, group = run.settings, run.group
    torch.manual_seed((settings.seed * 1_000_003 + learner.step) * group.size + group.rank)
    seen, inside, targets = (part.to(group.device, non_blocking=True) for part in batch)
    learner.optimiser.zero_grad(set_to_none=True)
    with autocast("float32" if settings.frozen else settings.precision, group.device):
        logits = network(seen, inside)
    loss = compute_loss(logits.float(), targets, weights, run.made)
    loss.backward()
    norm = clip_grad_norm_(learner.learning.parameters(), settings.clip_norm)
    if not norm.isfinite():
        raise MassError(f"The gradients of step {learner.step} are not finite.", "Lower head_rate and encoder_rate or use float32.")
    learner.optimiser.step()
    learner.step += 1
    return loss.detach()


def compute_loss(logits: Tensor, targets: Tensor, weights: Tensor, made: ClassifierConfig) -> Tensor:
    """Mean loss of scans: cross-entropy, or for several labels binary cross-entropy.

    Args:
        logits: [B,classes].
        targets: [B,classes], 1 for the classes a scan has.
        weights: [classes], of a scan of the class, or of the presence of the class.
        made: says which.
    """
    if made.multi_label:
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
    # Not divided by the weights of a batch: shares of a batch then add up whatever the number of processes.
    return F.cross_entropy(logits, targets, weight=weights, reduction="sum") / len(targets)


def class_weights(table: Table, settings: ClassifyConfig) -> Tensor:
    """[classes]: scans / (classes x scans of the class), or, for several labels, scans without it / scans with it; of the split train."""
    targets = table.targets("train")
    if not settings.class_weights:
        return torch.ones(targets.shape[1])
    having = targets.sum(dim=0)
    wanted = (len(targets) - having) / having if table.multi_label else len(targets) / (len(having) * having)
    return wanted.clamp(*_WEIGHT_LIMITS)


def set_rates(learner: Learner, settings: ClassifyConfig, epoch: int) -> None:
    """Learning rates of an epoch."""
    share = (1 + math.cos(math.pi * epoch / settings.epochs)) / 2 if settings.schedule == "cosine" else 1.0
    for part in learner.optimiser.param_groups:
        part["lr"] = _LEAST_RATE + (part["rate"] - _LEAST_RATE) * share


def validate(run: Run, learner: Learner, weights: Tensor) -> dict[str, Any]:
    """Scores on the split val, and its loss, the same in all processes."""
    logits = predict(learner.learning, run.samples["val"], run.group)
    targets = run.table.targets("val")
    values = scores(probabilities(logits, run.made), targets, run.made)
    loss = compute_loss(logits, targets, weights.cpu(), run.made)
    return {f"val_{name}": values[name] for name in ("auc", "accuracy", "balanced_accuracy", "f1")} | {"val_loss": float(loss)}


@torch.no_grad()
def predict(network: nn.Module, samples: Samples, group: ProcessGroup) -> Tensor:
    """Logits [scans, classes] of a split, in evaluation mode; processes share the scans, all get everything."""
    before = network.training
    network.eval()
    mine = range(len(samples.files))[group.rank :: group.size]
    size = samples.settings.batch_size
    own = [[(scan, 0) for scan in mine[start : start + size]] for start in range(0, len(mine), size)]
    bar = {"desc": "score", "unit": "batch", "leave": False, "delay": PATIENCE_S, "disable": not group.leads}
    rows = [
        row.tolist()
        for seen, inside, _ in progress_bar(loaded(samples, own, 0, group), total=len(own), **bar)
        for row in network(seen.to(group.device), inside.to(group.device)).float().cpu()
    ]
    network.train(before)
    found = dict(group.gather(list(zip(mine, rows, strict=True))))
    return torch.tensor([found[scan] for scan in range(len(samples.files))])


def keep_best(run: Run, learner: Learner, values: dict[str, Any]) -> None:
    """Write the classifier if it is the best so far: by AUC on val; the loss there decides between equal ones, or if there is no AUC."""
    score = (values["val_auc"] or 0.0, -values["val_loss"])
    if score <= learner.best:
        return
    learner.best = score
    if not run.group.leads:
        return
    origin = provenance(
        run.settings,
        learner.step,
        weights={"name": run.model.name, "fingerprint": run.model.fingerprint},
        labels={"file": run.table.file.name, "sha256": run.table.sha256},
        scans={split: len(run.table.splits[split]) for split in SPLITS},
        val=values,
    )
    licence = run.settings.licence or run.model.licence
    save_classifier(run.output / "best.safetensors", learner.network, run.made, origin, licence)


def evaluate(run: Run) -> None:
    """Score the written classifier on val and, for the only time, on test, into `metrics.json`."""
    run.group.any(False)  # until the file is there
    best = load_classifier(run.output / "best.safetensors", str(run.group.device))
    network = best.network.head if run.settings.frozen else best.network
    found: dict[str, Any] = {"steps": best.provenance["steps"], "seed": run.settings.seed}
    for split in ("val", "test"):
        if run.table.splits[split]:
            logits = predict(network, run.samples[split], run.group)
            found[split] = scores(probabilities(logits, best.config), run.table.targets(split), best.config)
    if run.group.leads:
        write_json(run.output / "metrics.json", found)
        sys.stderr.write("".join(f"{split}: AUC {_text(found[split]['auc'])}\n" for split in ("val", "test") if split in found))


def _text(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 done, 2 bad input, 130 interrupted before the first step."""
    return answered(lambda: _command(argv))


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="training.classify",
        description="Train a classifier of whole scans on a pretrained encoder.",
        **examples("python -m training.classify --weights small --labels labels.csv --images scans --output RUN --frozen"),
    )
    start = parser.add_argument_group("start")
    start.add_argument("--weights", default="small", metavar="W", help="weights whose encoder is used (default: %(default)s)")
    start.add_argument("--recipe", default="paper", help=f"one of {', '.join(classify_config.RECIPES)} (default: %(default)s)")
    mode = start.add_mutually_exclusive_group()
    mode.add_argument("--frozen", dest="frozen", action="store_true", default=None, help="train only the head")
    mode.add_argument("--full", dest="frozen", action="store_false", help="train the encoder and the head")
    scans = parser.add_argument_group("scans")
    scans.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="FILE.csv",
        help="table with the columns filename, split, patient, and label or label_<class>",
    )
    scans.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of the scans")
    add_run(parser)
    return parser


def _command(argv: Sequence[str] | None) -> None:
    parser = build_parser()
    args = parsed(parser, argv)
    changes = [*recipe_changes(args), *([] if args.frozen is None else [f"frozen={str(args.frozen).lower()}"])]
    config = changed(classify_config.named(args.recipe), changes)
    if args.print_config:
        sys.stdout.write(f"{printed(parser, args, config)}\n")
        return
    table = read_table(args.labels, args.images).with_share(config.train_share, config.seed)
    group = ProcessGroup.join(args.device)
    train(config, table, args.weights, args.output, group, resume=args.resume, minutes=args.minutes or 0)
    group.leave()
