"""In-context tuning: the tokens of a task are fitted to the references they came from; the network stays as it is.

A task begins as the mean of what the task encoder saw. Here the network searches windows of the references for their own structures. The
windows are turned and changed at random, and the tokens follow the gradient: a few thousand numbers, so a few seconds suffice and little
can be unlearned.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import Triple
from ..encoding.placed_masks import masks_on
from ..encoding.reference_encoder import content_key
from ..encoding.task import Task, Tokens
from ..errors import InputError, known_failures
from ..model.losses import mask_loss
from ..progress import Report, Steps
from ..volumes.volume import Volume
from ..weights.other_encoders import refuse_unlearned
from .adapt_views import Augmentation, Views, Window, windows
from .segmenter import Segmenter
from .sliding_window import split_passes

RATE = 0.05
"""Step of Adam, in units of the tokens' own size (root mean square of a stage)."""
_STEP_VOXELS = 1 << 18
"""Of the windows of one step at most, if more than one."""
_WINDOWS = 2
"""Of a step: more steps of two did better in the same time than fewer of four; one small window takes PyTorch longer than two."""
_AVERAGED = 0.5
"""The tokens kept are the mean over this last share of the time: a single step depends on the windows it happened to see."""
_BALANCE = 0.5
"""See `mask_loss`; as in pretraining."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapted:
    """A task fitted to its references."""

    task: Task
    """Differs from the one it came from in tokens only."""
    steps: int
    """Steps of the optimiser, for all labels together."""
    seconds: float
    """Duration of the fit."""
    dice_before: float
    """Mean over labels, in windows of the references that were turned and changed, but not trained on in that way."""
    dice_after: float
    """The same with the fitted tokens; never less."""

    def facts(self) -> dict[str, Any]:
        """Facts about the fit, as JSON values."""
        dice = [round(value, 4) for value in (self.dice_before, self.dice_after)]
        return {"steps": self.steps, "seconds": round(self.seconds, 3), "dice": dice}


def adapt(
    segmenter: Segmenter,
    references: Sequence[tuple[Volume, Volume]],
    task: Task,
    *,
    seconds: float = 30.0,
    seed: int = 0,
    progress: Report | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Adapted:
    """Fit the tokens of a task to labelled scans.

    Args:
        segmenter: with the weights and the preprocessing of the task.
        references: images with their label maps, usually those the task was encoded from.
        task: from `Segmenter.encode`.
        seconds: time to spend, shared by the working spacings of the task; each gets at least one step.
        seed: of windows and changes; the same steps follow from it, how many of them depends on the machine.
        progress: called at every step.
        cancelled: called before every step; true stops the run.

    Raises:
        MassError: if the time is not above 0, a reference or the task cannot be used, or memory does not suffice.
        Cancelled: if `cancelled` said so.
    """
    if not 0 < seconds < float("inf"):
        raise InputError(f"The time to adapt is {seconds} seconds.", "Give more than 0.")
    if not references:
        raise InputError("No reference is given.", "Give at least one image with its mask.")
    refuse_unlearned(segmenter.model.provenance, segmenter.model.name)
    segmenter.model.network.check_takes_references()
    segmenter.check(task)
    clock = _Clock(seconds, Steps(progress, cancelled))
    fits: list[_Fitted] = []
    with known_failures():
        for number, (spacing, indices) in enumerate(task.groups().items()):
            part, rng = clock.part(len(task.groups()) - number), np.random.default_rng((seed, number))
            group = _Group(segmenter, task, spacing, indices)
            fits.append(group.fitted(group.pool(references, part, rng), part, rng))
    return _together(task, fits, clock.spent(), seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fitted:
    """Fitted tokens of the labels of one working spacing."""

    indices: Sequence[int]
    tokens: Tokens
    """[1,K,queries+1,C] on the CPU."""
    steps: int
    before: Tensor
    """Dice [K]; not a number where the windows show nothing of a label."""
    after: Tensor


class _Clock:
    """Measures and reports the elapsed share of the time limit."""

    def __init__(self, seconds: float, steps: Steps) -> None:
        self._began = time.monotonic()
        self._seconds = seconds
        self._steps = steps
        self._until = self._from = 0.0

    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began

    def part(self, left: int) -> "_Clock":
        """Begin the next part: the first of `left` equal parts of the remaining time."""
        self._from = self.spent()
        self._until = self._from + max(0.0, self._seconds - self._from) / left
        return self

    def share(self, reserve: float = 0.0) -> float:
        """Elapsed share of the part, 1 when it is over; stops here if cancelled.

        Raises:
            Cancelled: if the user stopped the run.
        """
        self._steps.at("adapt", min(self.spent(), self._seconds), self._seconds)
        length = self._until - self._from - reserve
        return min(1.0, (self.spent() - self._from) / length) if length > 0 else 1.0


class _Group:
    """The labels of a task with one working spacing: decoded together in every window, as when segmenting."""

    def __init__(self, segmenter: Segmenter, task: Task, spacing: Triple, indices: Sequence[int]) -> None:
        self._segmenter = segmenter
        self._labels = [task.labels[index] for index in indices]
        self._spacing = spacing
        self._indices = indices
        self._start = tuple(stage.to(segmenter.model.device) for stage in task.tokens(indices))
        compute = segmenter.compute(len(indices))
        # float16 has no room for the gradients of a mean over many voxels.
        self._compute = replace(compute, dtype=torch.float32) if compute.dtype == torch.float16 else compute
        self.windows = int(np.clip(_STEP_VOXELS // int(np.prod(segmenter.recipe.window_zyx)), 1, _WINDOWS))
        """Of a step."""

    def pool(self, references: Sequence[tuple[Volume, Volume]], clock: _Clock, rng: np.random.Generator) -> list[Window]:
        """Windows of all references; only those are kept, not the scans.

        Raises:
            InputError: if none of them shows one of the labels at this spacing.
        """
        values = [label.value for label in self._labels]
        found: list[Window] = []
        for image, labels in references:
            clock.share()  # the place to stop
            prepared = self._segmenter.prepared(image, content_key(image), self._spacing)
            masks = masks_on(image, labels, values, prepared.record.working, self._segmenter.recipe)
            found += windows(prepared.array, masks, values, self._segmenter.recipe.window_zyx, rng)
        shown = np.sum([one.shown for one in found], axis=0)
        lost = [f"{label.value} ({label.name})" for label, voxels in zip(self._labels, shown, strict=True) if not voxels]
        if lost:
            raise InputError(
                f"Nothing is left of label {', '.join(lost)} in the references at {self._spacing[0]:.2g} mm.",
                "Give a reference that shows it, or leave it out.",
            )
        return found

    def fitted(self, pool: Sequence[Window], clock: _Clock, rng: np.random.Generator) -> _Fitted:
        """Fit until the clock's part is over; tokens that do worse than the initial ones on held-out windows are discarded."""
        showing = [one for one in pool if one.bits.any()]
        change = Augmentation(self._segmenter.recipe.window_zyx, self._spacing, rng, self._compute.device)
        checks = [next(_feed(some, change, self.windows, rng)) for some in (showing, pool)]
        began = clock.spent()
        before = self._dice(checks, self._start)
        reserve = clock.spent() - began
        tokens, steps = self._descended(_feed(pool, change, self.windows, rng), clock, reserve)
        after = self._dice(checks, tokens)
        if not after.nanmean() >= before.nanmean():
            tokens, after = self._start, before
        return _Fitted(indices=self._indices, tokens=tuple(stage.cpu() for stage in tokens), steps=steps, before=before, after=after)

    def _descended(self, feed: Iterator[Views], clock: _Clock, reserve: float) -> tuple[Tokens, int]:
        """Tokens after at least one step, the mean over the last share of the time, and the number of steps."""
        sizes = [stage.square().mean().sqrt() for stage in self._start]
        changes = [torch.zeros_like(stage, requires_grad=True) for stage in self._start]
        means = [torch.zeros_like(stage) for stage in self._start]
        optimiser = torch.optim.Adam(changes, lr=RATE)
        steps, averaged = 0, 1
        while not steps or clock.share(reserve) < 1:
            batch = next(feed)
            tokens = tuple(start + size * change for start, size, change in zip(self._start, sizes, changes, strict=True))
            loss, _ = mask_loss(self._logits(batch, tokens), batch.masks, batch.shown, _BALANCE)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            steps += 1
            averaged = averaged + 1 if clock.share(reserve) > 1 - _AVERAGED else 1
            for mean, change in zip(means, changes, strict=True):
                mean.lerp_(change.detach(), 1 / averaged)
        return tuple(start + size * mean for start, size, mean in zip(self._start, sizes, means, strict=True)), steps

    def _logits(self, batch: Views, tokens: Tokens) -> Tensor:
        """[B,K,D,H,W]; gradients go through the decoder only."""
        network = self._segmenter.model.network
        with self._compute.autocast():
            with torch.no_grad():
                features = network.encode_image(batch.images)
            everywhere = tuple(stage.expand(len(batch.images), -1, -1, -1) for stage in tokens)
            passes = split_passes(everywhere, self._segmenter.recipe.classes_per_pass)
            return torch.cat([network.decode(features, some) for some in passes], dim=1)

    def _dice(self, batches: Sequence[Views], tokens: Tokens) -> Tensor:
        """Dice [K] over all voxels of some windows; not a number for a label they do not show."""
        common, sizes, present = torch.zeros(3, len(self._indices), device=self._compute.device)
        for batch in batches:
            with torch.no_grad():
                found = self._logits(batch, tokens).float().sigmoid() > self._segmenter.recipe.threshold
            valid = (batch.shown > 0)[:, :, None, None, None]
            truth = batch.masks > 0
            common += (found & truth).sum(dim=(0, 2, 3, 4))
            sizes += (found & valid).sum(dim=(0, 2, 3, 4))
            present += truth.sum(dim=(0, 2, 3, 4))
        return torch.where(present > 0, 2 * common / (sizes + present), torch.nan).cpu()


def _feed(pool: Sequence[Window], change: Augmentation, count: int, rng: np.random.Generator) -> Iterator[Views]:
    """Views of `count` windows without end: all windows in one random order after the other."""
    order: list[int] = []
    while True:
        while len(order) < count:
            order += rng.permutation(len(pool)).tolist()
        yield change.views([pool[index] for index in order[:count]])
        order = order[count:]


def _together(task: Task, fits: Sequence[_Fitted], seconds: float, seed: int) -> Adapted:
    """The task with the fitted tokens."""
    labels = list(task.labels)
    for fit in fits:
        for row, index in enumerate(fit.indices):
            labels[index] = replace(labels[index], tokens=tuple(stage[0, row].contiguous() for stage in fit.tokens))
    before, after = (float(torch.cat([getattr(fit, name) for fit in fits]).nanmean().nan_to_num()) for name in ("before", "after"))
    steps = sum(fit.steps for fit in fits)
    return Adapted(
        task=replace(task, labels=tuple(labels), adapted={"seed": seed, "steps": steps}),
        steps=steps,
        seconds=seconds,
        dice_before=before,
        dice_after=after,
    )
