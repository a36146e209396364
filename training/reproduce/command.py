"""The paper's tables and figures, each by one command that resumes where it stopped.

    python -m training.reproduce table1 --data DIR --output DIR
    python -m training.reproduce table1 --data DIR --output DIR --dry-run             commands, GPU hours, and what is missing
    python -m training.reproduce table2 --data DIR --output DIR --datasets bcv --rows "MASS (FT)" OM-MAE --weights mass_base
    python -m training.reproduce table1 --data DIR --output DIR --shard 3/8           the third of eight parts of the runs

DIR of --data holds the datasets of docs/reproduce.md, as published or prepared. Every run has a folder below --output, finished ones are
skipped, and what is missing is named with its source while the rest is done. At the end the table is printed in the paper's layout with
the paper's numbers beside, and written as TABLE.md and TABLE.csv.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mass_core.cli.common.batch import terminated_as_interrupted
from mass_core.cli.common.shards import Shard, add_shard, shard_of, write_table
from mass_core.command_help import examples, seed_number
from mass_core.console import Terminal
from mass_core.devices import DEVICES
from mass_core.errors import InputError
from mass_core.files import write_bytes
from mass_core.option_files import add_config, as_file
from mass_core.outputs import folders_ready
from mass_core.schema import suggestion

from ..failures import answered
from ..runs.options import parsed
from . import work
from .inputs import DATA, UPSTREAM
from .plan import Cell, Planner, Run
from .report import Found, as_rows, found, markdown, paper
from .running import Execute, Machine, Workspace, execute, ordered
from .tables import SHOWN, TABLES

_KINDS = ("masks", "datasets", "pretrain", "evaluate", "classify", "pictures", "speed")
_OPEN = ("table1", "table2", "table6")
"""Tables that take datasets the paper does not have."""
_OWN = ("1", "5", "10")
"""Numbers of labelled scans for these."""
_COLUMNS = ("row", "column", "ours", "sd", "draws", "seed", "paper")


def main(argv: Sequence[str] | None = None, carry_out: Execute = execute) -> int:
    """The command; 0 done, 2 bad input, 3 something is missing, failed or left to other shards, 130 interrupted."""
    return answered(lambda: _command(argv, carry_out))


def _command(argv: Sequence[str] | None, carry_out: Execute) -> int:
    parser, terminal = build_parser(), Terminal()
    args = parsed(parser, argv)
    if args.print_config:
        sys.stdout.write(f"{as_file(parser, args)}\n")
        return 0
    try:
        with terminated_as_interrupted():
            return _reproduce(args, terminal, carry_out)
    except KeyboardInterrupt:
        terminal.log("Stopped; the same command continues from here.")
        return 130


def _reproduce(args: argparse.Namespace, terminal: Terminal, carry_out: Execute) -> int:
    planner, names, shard = _planner(args), _tables(args.tables), shard_of(args)
    cells = _selected(names, planner, args)
    runs = ordered(run for some in cells.values() for cell in some for run in cell.runs)
    workspace, machine = Workspace(args.output, terminal), Machine(device=args.device, processes=args.processes)
    workspace.check(runs)
    if args.dry_run:
        _list(runs, workspace, machine)
        return 3 * any(need.missing() for run in runs for need in run.needs)
    with folders_ready([args.output / f"{name}.md" for name in cells]):
        workspace.work(_share(runs, shard), machine, carry_out)
        for name, some in cells.items():
            _write(name, some, workspace, args.seed, terminal)
    return _report_left(runs, workspace, terminal)


def _tables(words: Sequence[str]) -> list[str]:
    """Names of tables; `table4` stands for its parts, `all` for everything.

    Raises:
        InputError: for a name there is not.
    """
    names: dict[str, None] = {}
    for word in words:
        some = [name for name in TABLES if word in ("all", name, name.rstrip("abc"))]
        if not some:
            raise InputError(f"There is no {word!r}.", suggestion(word, [*TABLES, "all"]))
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
    if bad := [count for count in args.shots or () if count != "all" and not count.isdecimal()]:
        raise InputError(f"--shots has {bad[0]!r}.", "Give numbers, or all.")
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
        seed=args.seed,
        more=more,
    )


def _selected(names: Sequence[str], planner: Planner, args: argparse.Namespace) -> dict[str, list[Cell]]:
    """The cells of each table that the options select.

    Raises:
        InputError: if there are none, or a row is in no table.
    """
    rows = {row.lower(): row for name in names for row in paper(TABLES[name].paper).rows}
    if unknown := [row for row in args.rows or () if row.lower() not in rows]:
        raise InputError(f"There is no row {unknown[0]!r}.", suggestion(unknown[0], rows.values()))
    cells = {name: _cells(name, planner, args) for name in names}
    if not any(cells.values()):
        columns = ", ".join(column for name in names for column in paper(TABLES[name].paper).columns)
        raise InputError("No run is selected by --rows, --datasets and --shots.", f"The columns are {columns}.")
    return {name: some for name, some in cells.items() if some}


def _cells(name: str, planner: Planner, args: argparse.Namespace) -> list[Cell]:
    """The cells of a table that the options select."""
    table = TABLES[name]
    theirs = paper(table.paper)
    own = [one for one in args.datasets or () if one not in SHOWN] if name in _OPEN else []
    more = [f"{one}:{count}" for one in own for count in args.shots or _OWN]
    rows = [row for row in theirs.rows if not args.rows or row.lower() in map(str.lower, args.rows)]
    wanted = [
        (row, column) for row in rows for column in theirs.columns if (row, column) in theirs.cells or not theirs.cells or name == "fig2"
    ]
    wanted += [(row, column) for row in rows for column in more if row != "Full supervision"]
    return [table.cell(planner, row, column) for row, column in wanted if _is_selected(column, args)]


def _is_selected(column: str, args: argparse.Namespace) -> bool:
    """True if --datasets and --shots leave a column."""
    name, colon, setting = column.partition(":")
    return not colon or ((not args.datasets or name in args.datasets) and (not args.shots or setting in args.shots))


def _share(runs: Sequence[Run], shard: Shard) -> list[Run]:
    """The runs of a shard: of each kind every N-th."""
    own = {run.name for kind in dict.fromkeys(run.kind for run in runs) for run in shard.of([one for one in runs if one.kind == kind])}
    return [run for run in runs if run.name in own]


def _list(runs: Sequence[Run], workspace: Workspace, machine: Machine) -> None:
    """Print what would be done."""
    lacking: set[str] = set()
    for run in runs:
        state = "done" if workspace.finished(run) else "to do"
        if state != "done" and (any(need.missing() for need in run.needs) or any(other.name in lacking for other in run.after)):
            lacking.add(run.name)
            state = "missing"
        sys.stdout.write(f"{state:8}{work.hours(run.tflop):9.2f} h  {run.name}\n{'':21}{shlex.join(machine.command(run))}\n")
    left = [run for run in runs if not workspace.finished(run)]
    total = sum(work.hours(run.tflop) for run in left)
    sys.stdout.write(
        f"{len(left)} of {len(runs)} runs are to be done: {total:,.0f} GPU hours with the recipe paper, counted (docs/reproduce.md).\n"
    )
    for text in dict.fromkeys(text for run in left for need in run.needs if (text := need.missing())):
        sys.stdout.write(f"missing: {text}\n")


def _write(name: str, cells: Sequence[Cell], workspace: Workspace, seed: int | None, terminal: Terminal) -> None:
    """Write and print a table."""
    theirs = paper(TABLES[name].paper)
    ours: Mapping[tuple[str, str], Found] = {(cell.row, cell.column): found(cell, workspace.output, workspace.finished) for cell in cells}
    text = f"{markdown(TABLES[name].title, theirs, ours, SHOWN)}\nSeed: {'the default of each run' if seed is None else seed}\n"
    write_bytes(workspace.output / f"{name}.md", text.encode())
    write_table(workspace.output / f"{name}.csv", _COLUMNS, [{**row, "seed": seed} for row in as_rows(theirs, ours)])
    terminal.result(text)


def _report_left(runs: Sequence[Run], workspace: Workspace, terminal: Terminal) -> int:
    """Say what is left and why, each reason once; the exit status."""
    left = [run for run in runs if not workspace.finished(run)]
    reasons: dict[str, list[str]] = {}
    for run in left:
        if run.name not in workspace.failed:
            reasons.setdefault(workspace.obstacle(run) or "Other shards do the rest.", []).append(run.name)
    for reason, names in reasons.items():
        terminal.warn(f"{reason} Left out: {names[0]}" + (f" and {len(names) - 1} more runs." if len(names) > 1 else "."))
    if left:
        terminal.log(f"{len(runs) - len(left)} of {len(runs)} runs are finished; the same command continues with the others.")
    return 3 * bool(left)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="training.reproduce",
        description="Reproduce the paper's tables and figures, with the paper's numbers beside ours. Every run has a folder below "
        "--output. The same command resumes where it stopped, lists missing inputs, runs what it can, and writes TABLE.md and TABLE.csv.",
        allow_abbrev=False,
        **examples(
            "python -m training.reproduce table1 --data DIR --output DIR --dry-run",
            "python -m training.reproduce table1 --data DIR --output DIR",
            "python -m training.reproduce table2 --data DIR --output DIR --datasets bcv --rows 'MASS (FT)' OM-MAE --weights mass_base",
            "python -m training.reproduce all --data DIR --output DIR --shard 3/8",
        ),
    )
    parser.add_argument("tables", nargs="+", metavar="TABLE", help=f"{', '.join(TABLES)}, or all")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the datasets, as published or prepared")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for all runs, the same for all tables")
    parser.add_argument("--dry-run", action="store_true", help="only list the commands, their GPU hours as counted, and what is missing")
    choice = parser.add_argument_group("parts of a table")
    choice.add_argument("--rows", nargs="+", metavar="ROW", help="only these rows, named as in the paper")
    choice.add_argument(
        "--datasets", nargs="+", metavar="NAME", help="only these datasets, named by their folders; tables 1 and 2 also accept your own"
    )
    choice.add_argument("--shots", nargs="+", metavar="K", help="only these numbers of labelled scans (table 3: percentages)")
    choice.add_argument(
        "--draws", type=int, default=3, metavar="N", help="number of random draws of the labelled scans (default: %(default)s)"
    )
    add_shard(parser, "every N-th run of each kind")
    how = parser.add_argument_group("settings")
    how.add_argument(
        "--recipe",
        default="paper",
        metavar="NAME",
        help="recipe of all training runs: paper, released, small, smoke (default: %(default)s)",
    )
    how.add_argument("--masks", default="sam2", choices=("sam2", "slic"), help="method for making masks (default: %(default)s)")
    how.add_argument("--weights", metavar="W", help="weights to use for MASS instead of pretraining at large scale, such as mass_base")
    how.add_argument(
        "--upstream", nargs="+", default=list(UPSTREAM), metavar="NAME", help="datasets of the large-scale pretraining (default: all)"
    )
    how.add_argument(
        "--seed",
        type=seed_number,
        metavar="N",
        help="seed of all draws and training runs (default: 0 for draws, the recipe's for training)",
    )
    how.add_argument("--processes", type=int, default=1, metavar="N", help="number of GPUs per training run (default: %(default)s)")
    how.add_argument("--device", default="auto", metavar="D", help=f"{DEVICES} (default: %(default)s)")
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
