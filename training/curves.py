"""Curves of a run: `python -m training.curves RUN` draws `RUN/log.jsonl` into `RUN/curves.png`, as a run does at its end."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mass_core.errors import InputError, MassError
from mass_core.files import write_by

_PANELS = (("loss",), ("dice", "val_dice"), ("norm",), ("lost", "empty"), ("samples_per_s",), ("data_wait",))


def read_log(path: Path) -> dict[str, dict[int, float]]:
    """Values by name and step; of a step that was run again the last one.

    Raises:
        InputError: if there is no log.
    """
    if not path.exists():
        raise InputError(f"There is no {path}.", "Give the folder of a run.")
    values: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # the line a killed run was writing
            continue
        for name, value in record.items():
            if name != "step":
                values.setdefault(name, {})[record["step"]] = value
    return values


def draw(run: Path) -> Path:
    """Draw the curves of a run folder; returns the picture's path.

    Raises:
        InputError: if there is no log.
        OutputError: if the picture cannot be written.
    """
    values = read_log(run / "log.jsonl")
    figure = Figure(figsize=(12, 6), layout="constrained")
    for axes, names in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
        for name in names:
            points = sorted(values.get(name, {}).items())
            axes.plot([step for step, _ in points], [value for _, value in points], marker="." if len(points) < 30 else "", label=name)
        axes.set_xlabel("step")
        axes.legend(frameon=False)
    path = run / "curves.png"
    write_by(path, lambda file: figure.savefig(file, format="png", dpi=100))
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 done, 2 bad input."""
    parser = argparse.ArgumentParser(prog="training.curves", description="Draw a run's log into curves.png.")
    parser.add_argument("run", type=Path, help="run folder")
    try:
        sys.stdout.write(f"{draw(parser.parse_args(argv).run)}\n")
    except MassError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
