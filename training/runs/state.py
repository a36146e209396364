"""Training state: everything a run needs to resume exactly where it stopped, in a few files of which the newest counts.

Random draws are functions of the seed and the step (`training.pretrain.step`, `training.pretrain.episodes`), PyTorch's own generators
included; the step restores them all, in every process.
"""

import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from mass_core.config import differences
from mass_core.errors import InputError, MassError, OutputError
from mass_core.files import write_by

from .distributed import ProcessGroup
from .settings import RunSettings, StepSettings

FORMAT = 1
_SHORT = "Free some space, then continue with --resume."
Network = TypeVar("Network", bound=nn.Module)


class Resumable:
    """State of a run that can be resumed. Has `step`, the number of steps done, and `origin`, what the run was started with beside its
    recipe: another one is refused."""

    STATES: ClassVar[Mapping[str, str]]
    """Attributes saved by their `state_dict`, by the name in the file."""
    VALUES: ClassVar[tuple[str, ...]]
    """Attributes saved as they are."""
    MISFIT: ClassVar[tuple[str, str]] = ("other code", "the code")
    """For messages: the source of a file that does not fit, and what to resume with."""
    step: int
    origin: dict[str, Any]

    def save(self, folder: Path, config: RunSettings, group: ProcessGroup) -> None:
        """Write a state file, then remove all but the last `config.keep_states`; a crash or a full disk leaves those there were.

        Raises:
            OutputError: if it cannot be written.
        """
        whole = {"format": FORMAT, "config": config.as_json(), "processes": group.size}
        whole |= {name: getattr(self, name) for name in ("step", *self.VALUES, "origin")}
        whole |= {name: getattr(self, own).state_dict() for name, own in self.STATES.items()}
        _write(folder / f"step_{self.step:08d}.pt", whole)
        for old in saved(folder)[config.keep_states :]:
            old.unlink(missing_ok=True)

    def resume(self, folder: Path, config: RunSettings, group: ProcessGroup) -> list[str]:
        """Load the newest complete state in `folder`.

        Returns:
            Notes for the user: damaged states passed over, another number of processes, another length of the run.

        Raises:
            InputError: if there is none, or it was made with another recipe or another `origin`.
        """
        values, notes = _newest(folder, group.device)
        notes += _check_same_run(values, folder, config, group, self.origin)
        try:
            for name, own in self.STATES.items():
                getattr(self, own).load_state_dict(values.get(name, {}))
            for name in (*self.VALUES, "step"):
                setattr(self, name, values[name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(
                f"The training state in {folder} is of {self.MISFIT[0]}: {error}", f"Resume with {self.MISFIT[1]} it was made with."
            ) from error
        return [*notes, f"Resuming from step {self.step}."]


@dataclass
class Averaged(Resumable, Generic[Network]):
    """Network, its moving average, optimiser and the number of steps done."""

    network: Network
    average: Network
    optimiser: Optimizer
    step: int = 0
    bad_steps: int = 0
    """Steps skipped because their gradients were not finite."""
    scaler: GradScaler = field(default_factory=partial(GradScaler, enabled=False))
    """Of the losses, for float16."""
    origin: dict[str, Any] = field(default_factory=dict)

    def advance(self, clipped: Iterable[Tensor], optim: StepSettings) -> Tensor:
        """Apply the gradients, or count the step as bad and skip it where they are not finite; returns the norm of the gradients.

        Args:
            clipped: parameters whose gradients are shortened to `clip_norm` together.
            optim: settings of the run.

        Raises:
            MassError: if there were too many bad steps.
        """
        self.scaler.unscale_(self.optimiser)
        norm = clip_grad_norm_(clipped, optim.clip_norm)
        if norm.isfinite():
            self.scaler.step(self.optimiser)
            update_average(self.average, self.network, ema_decay(self.step, optim.ema_decay))
        else:
            self.bad_steps += 1
            # Above 1, the scale of float16 is still looking for its place: it halves with every such step, and the next may be a good one.
            if self.bad_steps > optim.most_bad_steps and self.scaler.get_scale() <= 1:
                raise MassError(f"{self.bad_steps} steps had gradients that are not finite.", "Lower optim.learning_rate or use float32.")
        self.scaler.update()
        self.step += 1
        return norm.detach()


def _write(path: Path, values: Mapping[str, Any]) -> None:
    """Write a state file.

    Raises:
        OutputError: if it cannot be written.
    """

    def dump(file: IO[bytes]) -> None:
        torch.save(values, file)
        file.flush()
        os.fsync(file.fileno())

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_by(path, dump)
    except (OSError, RuntimeError) as error:  # PyTorch's own writer reports a full disk as a RuntimeError
        raise OutputError(f"Cannot write {path}: {error}.", _SHORT) from error


def _check_same_run(
    values: Mapping[str, Any], folder: Path, config: RunSettings, group: ProcessGroup, origin: Mapping[str, Any]
) -> list[str]:
    """Notes on what may differ in a resumed run.

    Raises:
        InputError: if the state was made with another recipe or another `origin`.
    """
    notes = []
    others = differences(values["config"], config.as_json())
    if refused := [text for name, text in others.items() if name not in config.FREE]:
        raise InputError(
            f"The run in {folder.parent} was made with another recipe: {', '.join(refused)}.",
            "Resume with the recipe and the settings it was made with, or choose another --output.",
        )
    if started := differences(values.get("origin", {}), dict(origin)):
        raise InputError(
            f"The run in {folder.parent} was started with other inputs: {'; '.join(started.values())}.",
            "Resume with the same inputs, or choose another --output.",
        )
    if "steps" in others:
        notes.append(f"The length of the run changes: {others['steps']}.")
    if values["processes"] != group.size:
        notes.append(
            f"The state was made by {values['processes']} processes and continues with {group.size}; sums are rounded differently."
        )
    return notes


def saved(folder: Path) -> list[Path]:
    """The state files in a folder, the newest first."""
    return sorted(folder.glob("step_*.pt"), reverse=True)


def _newest(folder: Path, device: torch.device) -> tuple[dict[str, Any], list[str]]:
    """The newest complete state, with notes on newer damaged ones."""
    notes: list[str] = []
    for path in saved(folder):
        try:
            return _read(path, device), notes
        except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
            notes.append(f"The training state {path.name} is damaged ({error}); the one before it is tried.")
    if notes:
        raise InputError(f"All {len(notes)} training states in {folder} are damaged.", "Start again with another --output.")
    raise InputError(f"There is no state to resume in {folder}.", "Start without --resume, or with --resume auto.")


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    """A state file's values; checksums are verified here, because PyTorch does not verify those it writes."""
    with zipfile.ZipFile(path) as archive:
        if (part := archive.testzip()) is not None:
            raise ValueError(f"wrong checksum of {part}")
    values: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    if values.get("format") != FORMAT:
        raise InputError(
            f"{path} has format version {values.get('format')}, this program reads {FORMAT}.", "Resume with the code it was made with."
        )
    return values


def ema_decay(step: int, decay: float) -> float:
    """Decay of the averaged weights: short memory at first, so that the random initial weights soon lose their influence."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move `average` towards `network`."""
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)
