"""The folder of a run, entered anew or again."""

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mass_core.errors import InputError, MassError
from mass_core.files import write_by, write_json
from mass_core.outputs import check_no_input

from .distributed import ProcessGroup
from .settings import RunSettings
from .state import Resumable, saved

START = "start.masstask"
"""The initial task of finetuning."""
_MADE = (START, "config.json", "best.safetensors", "last.safetensors", "curves.png")
"""Files of runs."""


def enter(config: RunSettings, output: Path, state: Resumable, group: ProcessGroup, resume: str) -> None:
    """Make the run's folder, or take on the last state in it.

    Args:
        config: written to `config.json`.
        output: the folder; all machines of a run must see the same.
        state: as the run starts; overwritten with the last one.
        group: its leading process writes and prints.
        resume: last: there must be a state; auto: go on if there is one; empty: there must be none.

    Raises:
        InputError: if the folder is not as `resume` requires, or the state does not fit.
    """
    states = output / "state"
    check_enter(output, resume)
    if saved(states) or resume == "last":
        notes = state.resume(states, config, group)
        if group.leads:
            sys.stderr.write("".join(f"{line}\n" for line in notes))
    if group.leads:
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "config.json", config.as_json())


def check_enter(output: Path, resume: str, inputs: Iterable[str | Path] = ()) -> None:
    """Refuse a folder that holds a run, unless it is resumed, and one whose files the run reads and would replace.

    Raises:
        InputError: saying so.
        OutputError: naming the input.
    """
    check_no_input([output / name for name in _MADE], inputs)
    if saved(output / "state") and not resume:
        raise InputError(f"{output} already contains a run.", "Add --resume to continue it, or choose another --output.")


@contextmanager
def nothing_left_behind(output: Path) -> Iterator[None]:
    """A folder made for a run that fails before its first line of the log is taken away again."""
    fresh = not output.exists()
    try:
        yield
    except MassError:
        log = output / "log.jsonl"
        if fresh and not saved(output / "state") and not (log.exists() and log.stat().st_size):
            shutil.rmtree(output, ignore_errors=True)
        raise


def copy(source: Path, target: Path) -> None:
    """A file under another name, complete or not at all."""
    with source.open("rb") as file:
        write_by(target, lambda made: shutil.copyfileobj(file, made, 1 << 20))


def provenance(config: RunSettings, steps: int, **more: Any) -> dict[str, Any]:
    """The origin of weights, as recorded in them: recipe, steps, code, whatever else, and the whole configuration."""
    return {"recipe": config.name, "steps": steps, "commit": commit(), **more, "config": config.as_json()}


def commit() -> str:
    """The commit the code is at, if it is a checkout."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
