"""Scores as tables: for each structure, and in the layout of the paper's tables 1 and 2."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from .scoring import METHODS, Score, Trial


@dataclass(frozen=True, kw_only=True)
class Row:
    """Row of a table: one structure, method and number of references."""

    method: str
    shots: int
    label: int
    name: str
    scans: int
    """That show it."""
    dice: float
    """Mean over scans, then over draws, as all of these."""
    dice_sd: float
    """Standard deviation over draws; 0 for a single one."""
    asd_mm: float | None
    hd95_mm: float | None
    missed: float
    """Share of the scans that show it in which nothing was found; those have no distances."""
    misplaced: float
    """Wrong-place rate: share of the finds whose centre is further from the truth's than the structure is long."""
    false_ml: float | None
    """Mean volume found in scans that do not show it; None: all do."""


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Cell of the paper's tables: one method and number of references, all structures."""

    method: str
    shots: int
    draws: int
    dice: float
    """Mean over structures of a draw, then over draws."""
    dice_sd: float
    """Standard deviation over draws; 0 for a single one."""
    seconds: float | None
    """To make a task or a model ready, mean over draws; None: not known."""


def table(scores: Sequence[Score], names: Mapping[int, str]) -> list[Row]:
    """A row for each method, number of references and structure, in this order."""
    keys = sorted({(_place(score.method), score.shots, score.label) for score in scores})
    sorted_out: dict[tuple[int, int, int], list[Score]] = {key: [] for key in keys}
    for score in scores:
        sorted_out[_place(score.method), score.shots, score.label].append(score)
    return [_row(some, names.get(key[2], f"label {key[2]}")) for key, some in sorted_out.items()]


def means(scores: Sequence[Score], seconds: Mapping[Trial, float]) -> list[Mean]:
    """A cell for each method and number of references, in this order.

    Args:
        scores: of all trials.
        seconds: how long it took to make a trial ready, where known.
    """
    found = []
    for place, shots in sorted({(_place(score.method), score.shots) for score in scores}):
        method = METHODS[place]
        some = [score for score in scores if (score.method, score.shots) == (method, shots)]
        draws = sorted({score.draw for score in some})
        dice = [float(np.nanmean([row.dice for row in table([s for s in some if s.draw == draw], {})])) for draw in draws]
        spent = [seconds[trial] for draw in draws if (trial := Trial(method=method, shots=shots, draw=draw)) in seconds]
        mean, spread = float(np.mean(dice)), float(np.std(dice, ddof=1)) if len(dice) > 1 else 0.0
        found.append(
            Mean(method=method, shots=shots, draws=len(draws), dice=mean, dice_sd=spread, seconds=float(np.mean(spent)) if spent else None)
        )
    return found


def markdown(rows: Sequence[Row]) -> str:
    """The table for people: structures down, their mean last, for each method and number of references."""
    titles = ("method", "references", "structure", "scans", "Dice (sd over draws)", "ASD mm", "HD95 mm", "missed", "wrong place")
    lines = [f"| {' | '.join(titles)} | found where absent, ml |", "|---|--:|---|" + "--:|" * 7]
    for method, shots in dict.fromkeys((row.method, row.shots) for row in rows):
        some = [row for row in rows if (row.method, row.shots) == (method, shots)]
        for row in some:
            cells = [row.name, str(row.scans), f"{row.dice:.3f} ({row.dice_sd:.3f})", _cell(row.asd_mm), _cell(row.hd95_mm)]
            cells += [f"{row.missed:.0%}", f"{row.misplaced:.0%}", _cell(row.false_ml)]
            lines.append(f"| {method} | {shots} | {' | '.join(cells)} |")
        dice, missed, misplaced = (np.nanmean([getattr(row, name) for row in some]) for name in ("dice", "missed", "misplaced"))
        lines.append(f"| {method} | {shots} | **mean** | | **{dice:.3f}** | | | {missed:.0%} | {misplaced:.0%} | |")
    return "\n".join(lines) + "\n"


def layout(cells: Sequence[Mean], dataset: str) -> str:
    """The layout of the paper's tables: methods down, numbers of references across; Dice in % as mean (sd over draws)."""
    counts = sorted({cell.shots for cell in cells})
    lines = [f"| {dataset}: Dice, % | " + " | ".join(f"{count}-shot" for count in counts) + " | seconds to make ready |"]
    lines.append("|---|" + "--:|" * (len(counts) + 1))
    for method in dict.fromkeys(cell.method for cell in cells):
        own = {cell.shots: cell for cell in cells if cell.method == method}
        dice = [f"{100 * own[count].dice:.1f} ({100 * own[count].dice_sd:.1f})" if count in own else "" for count in counts]
        seconds = [f"{own[count].seconds:.1f}" for count in counts if count in own and own[count].seconds is not None]
        lines.append(f"| {method} | {' | '.join(dice)} | {', '.join(seconds)} |")
    return "\n".join(lines) + "\n"


def as_csv(records: Sequence[Any], kind: type, **constants: object) -> str:
    """A CSV table of dataclasses, a column a field, behind columns that hold the same in every row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*constants, *(field.name for field in fields(kind))], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**constants, **asdict(record)} for record in records)
    return text.getvalue()


def scores_of(text: str) -> list[Score]:
    """The scores of a table `as_csv` wrote.

    Raises:
        ValueError: if it is another table, or damaged.
    """
    rows = csv.DictReader(io.StringIO(text))
    columns = [field.name for field in fields(Score)]
    if rows.fieldnames not in (columns, columns[:-1]):  # tables of earlier versions end before the warnings
        raise ValueError(f"the columns are {rows.fieldnames}")
    return [_score(row) for row in rows]


def _score(row: Mapping[str, Any]) -> Score:
    known = {
        name: None if value == "" else float(value)
        for name, value in row.items()
        if name.endswith(("_ml", "_mm")) or name in ("dice", "away")
    }
    whole = {name: int(row[name]) for name in ("shots", "draw", "label")}
    return Score(method=row["method"], case=row["case"], warnings=row.get("warnings", ""), **whole, **known)  # type: ignore[arg-type]


def _row(scores: Sequence[Score], name: str) -> Row:
    shown, absent = [s for s in scores if s.truth_ml], [s for s in scores if not s.truth_ml]
    draws = [[s for s in shown if s.draw == draw] for draw in sorted({s.draw for s in shown})]
    dice = [float(np.mean([s.dice for s in draw])) for draw in draws]
    placed = [s.away for s in shown if s.away is not None]
    return Row(
        method=scores[0].method,
        shots=scores[0].shots,
        label=scores[0].label,
        name=name,
        scans=len({s.case for s in shown}),
        dice=float(np.mean(dice)) if dice else float("nan"),
        dice_sd=float(np.std(dice, ddof=1)) if len(dice) > 1 else 0.0,
        asd_mm=_mean_over_draws(draws, "asd_mm"),
        hd95_mm=_mean_over_draws(draws, "hd95_mm"),
        missed=float(np.mean([not s.found_ml for s in shown])) if shown else 0.0,
        misplaced=float(np.mean([away > 1 for away in placed])) if placed else 0.0,
        false_ml=float(np.mean([s.found_ml for s in absent])) if absent else None,
    )


def _mean_over_draws(draws: Sequence[Sequence[Score]], field: str) -> float | None:
    known = [np.mean(values) for draw in draws if (values := [v for s in draw if (v := getattr(s, field)) is not None])]
    return float(np.mean(known)) if known else None


def _place(method: str) -> int:
    return METHODS.index(method)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
