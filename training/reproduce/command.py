"""The paper's tables and figures, each by one command that goes on where it stopped.

    python -m training.reproduce table1 --data DIR --output DIR
    python -m training.reproduce table1 --data DIR --output DIR --dry-run             commands, GPU hours, and what is missing
    python -m training.reproduce table2 --data DIR --output DIR --datasets bcv --rows "MASS (FT)" OM-MAE --weights mass_base
    python -m training.reproduce table1 --data DIR --output DIR --shard 3/8           the third of eight parts of the runs

DIR of --data holds the datasets of docs/reproduce.md, as published or prepared. Every run has a folder below --output, finished ones are
skipped, and what is missing is named with its source while the rest goes on. At the end the table is printed in the paper's layout with
the paper's numbers beside, and written as TABLE.md and TABLE.csv.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mass_core.cli.shards import Shard, add_shard, shard_of, write_table
from mass_core.console import Terminal
from mass_core.errors import InputError, MassError, OutputError
from mass_core.files import write_bytes
from mass_core.option_files import add_config, as_file
from mass_core.schema import suggestion

from ..runs.options import parsed
from . import work
from .inputs import DATA, UPSTREAM
from .plan import Cell, Planner, Run
from .report import Found, as_rows, found, markdown, paper
from .running import Desk, Execute, Machine, execute, ordered, terminated_as_interrupted
from .tables import SHOWN, TABLES

_KINDS = ("masks", "datasets", "pretrain", "evaluate", "classify", "pictures", "speed")
_OWN = ("1", "5", "10")
"""Numbers of labelled scans for datasets the paper does not have."""
_COLUMNS = ("row", "column", "ours", "sd", "draws", "paper")


def main(argv: Sequence[str] | None = None, carry_out: Execute = execute) -> int:
    """The command; 0 done, 2 bad input, 3 something is missing, failed or left to other shards, 130 interrupted."""
    parser, terminal = _parser(), Terminal()
    try:
        args = parsed(parser, argv)
        if args.print_config:
            sys.stdout.write(f"{as_file(parser, args)}\n")
            return 0
        with terminated_as_interrupted():
            return _reproduce(args, terminal, carry_out)
    except MassError as error:
        terminal.failed(error)
        return 2
    except KeyboardInterrupt:
        terminal.tell("Stopped; the same command goes on from here.")
        return 130


def _reproduce(args: argparse.Namespace, terminal: Terminal, carry_out: Execute) -> int:
    planner, names, shard = _planner(args), _tables(args.tables), shard_of(args)
    cells = {name: _cells(name, planner, args) for name in names}
    runs = ordered(run for some in cells.values() for cell in some for run in cell.runs)
    desk, machine = Desk(args.output, terminal), Machine(device=args.device, processes=args.processes)
    desk.check(runs)
    if args.dry_run:
        _list(runs, desk, machine)
        return 3 * any(need.missing() for run in runs for need in run.needs)
    desk.work(_share(runs, shard), machine, carry_out)
    for name, some in cells.items():
        _write(name, some, desk, terminal)
    return _tell_left(runs, desk, terminal)


def _tables(words: Sequence[str]) -> list[str]:
    """Names of tables; `table4` stands for its parts, `all` for everything.

    Raises:
        InputError: for a name there is not.
    """
    names: dict[str, None] = {}
    for word in words:
        some = [name for name in TABLES if word == "all" or name == word or name[:-1] == word]
        if not some:
            raise InputError(f"There is no {word!r}.", f"{suggestion(word, [*TABLES, 'all'])}")
        names |= dict.fromkeys(some)
    return list(names)


def _planner(args: argparse.Namespace) -> Planner:
    """The planner that the options describe.

    Raises:
        InputError: for a folder, a dataset or a kind of run there is not.
    """
    if not args.data.is_dir():
        raise InputError(f"There is no folder {args.data}.", "It holds a folder for each dataset: see docs/reproduce.md.")
    if args.draws < 1 or args.processes < 1:
        raise InputError(f"--draws {args.draws}, --processes {args.processes}.", "Both must be at least 1.")
    if unknown := [name for name in args.upstream if name not in DATA and not (args.data / name).exists()]:
        raise InputError(f"--upstream names {unknown[0]!r}.", f"Choose among {', '.join(UPSTREAM)} and the folders of --data.")
    more: dict[str, tuple[str, ...]] = {}
    for word in args.add:
        kind, sign, options = word.partition("=")
        if kind not in _KINDS or not sign:
            raise InputError(f"--add has {word!r}.", f"Give KIND=OPTIONS with a kind among {', '.join(_KINDS)}.")
        more[kind] = (*more.get(kind, ()), *shlex.split(options))
    return Planner(
        data=args.data,
        output=args.output,
        recipe=args.recipe,
        masks=args.masks,
        mass=args.weights,
        upstream=tuple(args.upstream),
        draws=args.draws,
        more=more,
    )


def _cells(name: str, planner: Planner, args: argparse.Namespace) -> list[Cell]:
    """The cells of a table that the options select.

    Raises:
        InputError: if there are none.
    """
    table = TABLES[name]
    theirs = paper(table.paper)
    columns = [*theirs.columns]
    if name in ("table1", "table2", "table6"):
        own = [one for one in args.datasets or () if one not in SHOWN]
        columns += [f"{one}:{count}" for one in own for count in args.shots or _OWN]
    rows = [row for row in theirs.rows if not args.rows or row.lower() in {one.lower() for one in args.rows}]
    cells = [
        table.cell(planner, row, column)
        for row in rows
        for column in columns
        if (not args.datasets or ":" not in column or column.partition(":")[0] in args.datasets)
        and (not args.shots or ":" not in column or column.partition(":")[2] in args.shots)
        and ((row, column) in theirs.cells or name.startswith("fig") or (column not in theirs.columns and row != "Full supervision"))
    ]
    if not cells:
        told = f"rows: {', '.join(theirs.rows)}; columns: {', '.join(theirs.columns)}"
        raise InputError(f"Nothing of {name} is left by --rows, --datasets and --shots.", f"It has {told}.")
    return cells


def _share(runs: Sequence[Run], shard: Shard) -> list[Run]:
    """The runs of a shard: of each kind every N-th."""
    own = {run.name for kind in dict.fromkeys(run.kind for run in runs) for run in shard.of([one for one in runs if one.kind == kind])}
    return [run for run in runs if run.name in own]


def _list(runs: Sequence[Run], desk: Desk, machine: Machine) -> None:
    """Print what would be done."""
    lacking: set[str] = set()
    for run in runs:
        state = "done" if desk.finished(run) else "to do"
        if state != "done" and (any(need.missing() for need in run.needs) or any(other.name in lacking for other in run.after)):
            lacking.add(run.name)
            state = "missing"
        sys.stdout.write(f"{state:8}{work.hours(run.tflop):9.2f} h  {run.name}\n{'':21}{shlex.join(machine.command(run))}\n")
    left = [run for run in runs if not desk.finished(run)]
    total = sum(work.hours(run.tflop) for run in left)
    sys.stdout.write(
        f"{len(left)} of {len(runs)} runs are to be done: {total:,.0f} GPU hours with the recipe paper, counted (docs/reproduce.md).\n"
    )
    for text in dict.fromkeys(text for run in left for need in run.needs if (text := need.missing())):
        sys.stdout.write(f"missing: {text}\n")


def _write(name: str, cells: Sequence[Cell], desk: Desk, terminal: Terminal) -> None:
    """Write and print a table."""
    theirs = paper(TABLES[name].paper)
    ours: Mapping[tuple[str, str], Found] = {(cell.row, cell.column): found(cell, desk.output, desk.finished) for cell in cells}
    text = markdown(TABLES[name].title, theirs, ours, SHOWN)
    try:
        desk.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the folder {desk.output}: {error.strerror}.", "Choose another --output.") from error
    write_bytes(desk.output / f"{name}.md", text.encode())
    write_table(desk.output / f"{name}.csv", _COLUMNS, as_rows(theirs, ours))
    terminal.result(text)


def _tell_left(runs: Sequence[Run], desk: Desk, terminal: Terminal) -> int:
    """Say what is left and why, each reason once; the exit status."""
    left = [run for run in runs if not desk.finished(run)]
    reasons: dict[str, list[str]] = {}
    for run in left:
        if run.name not in desk.failed:
            reasons.setdefault(desk.obstacle(run) or "Other shards do the rest.", []).append(run.name)
    for reason, names in reasons.items():
        terminal.warn(f"{reason} Left out: {names[0]}" + (f" and {len(names) - 1} more runs." if len(names) > 1 else "."))
    if left:
        terminal.tell(f"{len(runs) - len(left)} of {len(runs)} runs are finished; the same command goes on with the others.")
    return 3 * bool(left)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="training.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("tables", nargs="+", metavar="TABLE", help=f"{', '.join(TABLES)}, or all")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the datasets, as published or prepared")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of all runs, the same for all tables")
    parser.add_argument("--dry-run", action="store_true", help="list commands, counted GPU hours and what is missing; do nothing")
    choice = parser.add_argument_group("parts of a table")
    choice.add_argument("--rows", nargs="+", metavar="ROW", help="only these, called as in the paper")
    choice.add_argument("--datasets", nargs="+", metavar="NAME", help="only these, called as their folders; in tables 1 and 2 your own too")
    choice.add_argument("--shots", nargs="+", metavar="K", help="only these numbers of labelled scans (of table 3 shares in %%)")
    choice.add_argument("--draws", type=int, default=3, metavar="N", help="repetitions with other labelled scans (default: %(default)s)")
    add_shard(parser, "of the runs of each kind every N-th")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--recipe", default="paper", metavar="NAME", help="of all trainings: paper, released, small, smoke (default: %(default)s)"
    )
    how.add_argument("--masks", default="sam2", choices=("sam2", "slic"), help="method that makes masks (default: %(default)s)")
    how.add_argument("--weights", metavar="W", help="for MASS instead of large-scale pretraining, such as mass_base")
    how.add_argument("--upstream", nargs="+", default=list(UPSTREAM), metavar="NAME", help="datasets of that pretraining (default: all)")
    how.add_argument("--processes", type=int, default=1, metavar="N", help="GPUs that share a training (default: %(default)s)")
    how.add_argument("--device", default="auto", metavar="D")
    how.add_argument(
        "--add",
        nargs="+",
        action="extend",
        default=[],
        metavar="KIND=OPTIONS",
        help=f"options for all commands of a kind ({', '.join(_KINDS)}), such as pretrain='--set steps=1000'",
    )
    add_config(parser)
    return parser
