"""Curves of a run: `python -m training.curves RUN` draws `RUN/log.jsonl` into `RUN/curves.png`, as a run does at its end."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mass_core.command_help import examples
from mass_core.files import write_by

from .failures import answered
from .run_log import read_log

_PANELS = (
    *(("loss", "val_loss"), ("dice", "val_dice"), ("val_auc",), ("rate",), ("norm",), ("lost", "empty")),
    *(("samples_per_s",), ("data_wait",), ("minutes",)),
)
"""Values drawn together, each panel where the log has some of them."""
_COLUMNS = 4


def draw(run: Path) -> Path:
    """Draw the curves of a run folder; returns the picture's path.

    Raises:
        InputError: if there is no log.
        OutputError: if the picture cannot be written.
    """
    values = read_log(run / "log.jsonl")
    panels = [known for names in _PANELS if (known := [name for name in names if values.get(name)])]
    rows = max(1, -(-len(panels) // _COLUMNS))
    figure = Figure(figsize=(3.5 * _COLUMNS, 3 * rows), layout="constrained")
    for place, names in enumerate(panels, 1):
        axes = figure.add_subplot(rows, _COLUMNS, place)
        for name in names:
            points = sorted(values[name].items())
            axes.plot([step for step, _ in points], [value for _, value in points], marker="." if len(points) < 30 else "", label=name)
        axes.set_xlabel("step")
        axes.legend(frameon=False)
    path = run / "curves.png"
    write_by(path, lambda file: figure.savefig(file, format="png", dpi=100))
    return path


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="training.curves", description="Plot a run's log as curves.png.", **examples("python -m training.curves RUN")
    )
    parser.add_argument("run", type=Path, help="run folder")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 done, 2 bad input."""
    return answered(lambda: _command(argv))


def _command(argv: Sequence[str] | None) -> None:
    run = build_parser().parse_args(argv).run
    sys.stdout.write(f"{draw(run)}\n")


if __name__ == "__main__":
    sys.exit(main())
