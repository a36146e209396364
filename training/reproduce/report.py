"""The paper's layout with our numbers and the paper's in every cell."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mass_core.errors import InputError

from .plan import Cell, Run

_PAPER = Path(__file__).parent / "paper"
_VARIANT = "ours channels-last"
"""Of the speed benchmark: what inference does on a GPU by default."""


@dataclass(frozen=True)
class Paper:
    """A table of the paper: text of its cells by row and column."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    """Dataset and number of labelled scans, such as `bcv:10`, or what is measured."""
    cells: Mapping[tuple[str, str], str]


def paper(name: str) -> Paper:
    """The numbers of a table; standard deviations in parentheses, numbers of labelled scans in brackets, as printed."""
    with (_PAPER / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        (_, *columns), *lines = csv.reader(file)
    cells = {(row, column): text for row, *texts in lines for column, text in zip(columns, texts, strict=True) if text}
    return Paper(tuple(line[0] for line in lines), tuple(columns), cells)


def outcome(run: Run, output: Path) -> dict[str, Any]:
    """Outcome of a finished run: Dice and AUC in %, names of pictures below the output, or whatever was measured.

    Raises:
        InputError: if its files are not there or damaged.
    """
    try:
        return _READ[run.kind](output / run.name, output)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"The results in {output / run.name} are missing or damaged: {error}.", "Delete that folder to make them again."
        ) from error


def _speeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Times and memory of table 8."""
    own = {row["what"]: row for row in rows if row["code"] == _VARIANT}
    times = {f"{what}_ms": 1000 * row["wall_s"] for what, row in own.items()}
    return {**times, "query_fps": 1 / own["query"]["wall_s"], "peak_gb": own["full"]["peak_gb"]}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _picture(folder: Path, output: Path) -> dict[str, Any]:
    return {"picture": sorted(folder.glob("*.png"))[0].relative_to(output).as_posix()}


_READ: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "evaluate": lambda folder, _: {"dice": 100 * _read(folder / "summary.json")["means"][0]["dice"]},
    "classify": lambda folder, _: {"auc": 100 * _read(folder / "metrics.json")["test"]["auc"]},
    "statistics": lambda folder, _: _read(folder / "numbers.json"),
    "speed": lambda folder, _: _speeds(_read(folder / "rows.json")),
    "masks": _picture,
    "pictures": _picture,
}


@dataclass(frozen=True)
class Found:
    """Our side of a cell."""

    text: str = ""
    """Empty: nothing yet."""
    value: float | None = None
    sd: float | None = None
    """Over draws; None: there is one."""
    draws: int = 0


def found(cell: Cell, output: Path, finished: Callable[[Run], bool]) -> Found:
    """Our side of a cell, from its finished draws."""
    draws = [draw for draw in cell.draws if draw and all(map(finished, draw))]
    values = [[outcome(run, output).get(cell.field) for run in draw] for draw in draws]
    known = [one for one in values if None not in one]
    if not known:
        return Found()
    if isinstance(known[0][0], str):
        return Found(text=known[0][0], draws=1)
    numbers = [mean(float(value) for value in one if value is not None) for one in known]
    sd = stdev(numbers) if len(numbers) > 1 else None
    whole = isinstance(known[0][0], int)
    text = f"{numbers[0]:.0f}" if whole else f"{mean(numbers):.1f}" + (f"({sd:.1f})" if sd is not None else "")
    return Found(text, mean(numbers), sd, len(numbers))


def markdown(title: str, theirs: Paper, ours: Mapping[tuple[str, str], Found], headings: Mapping[str, str]) -> str:
    """The table, ours / the paper's in every cell, a dash where there is no number; of a figure without numbers ours alone."""
    rows, columns = _selected(theirs.rows, (row for row, _ in ours)), _selected(theirs.columns, (column for _, column in ours))
    both = bool(theirs.cells)
    lines = [f"{title}{': ours / paper' if both else ''}", "", f"| | {' | '.join(_heading(column, headings) for column in columns)} |"]
    lines.append("|---|" + "--:|" * len(columns))
    for row in rows:
        cells = []
        for column in columns:
            own, other = ours.get((row, column), Found()).text, theirs.cells.get((row, column), "")
            cells.append(f"{own or '–'} / {other or '–'}" if both and (own or other) else own)
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def as_rows(theirs: Paper, ours: Mapping[tuple[str, str], Found]) -> list[dict[str, Any]]:
    """A line for each cell, for programs."""
    return [
        {"row": row, "column": column, "ours": one.text if one.value is None else one.value, "sd": one.sd, "draws": one.draws}
        | {"paper": theirs.cells.get((row, column), "")}
        for (row, column), one in ours.items()
    ]


def _selected(order: Sequence[str], used: Iterable[str]) -> list[str]:
    """The names that are used, in the paper's order; names the paper does not have come last."""
    names = dict.fromkeys(used)
    return [name for name in order if name in names] + [name for name in names if name not in order]


def _heading(column: str, headings: Mapping[str, str]) -> str:
    """Heading of a column in words."""
    name, colon, setting = column.partition(":")
    if not colon:
        return name.replace("_", " ")
    unit = f"{setting} %" if name in ("rsna_ich", "liver", "kidney", "spleen") else f"{setting}-shot" if setting != "all" else "all"
    return f"{headings.get(name, name)} {unit}"
