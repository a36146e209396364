"""--shard I/N: the share of a run's scans that one of several processes works on, and one table of all of them."""

import argparse
import csv
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from ...console import Output
from ...errors import InputError, MassError, known_failures
from ...files import write_bytes
from ...jobs.checks import inputs
from ...outputs import Job, check_free, folders_ready
from ...worker.requests import Load
from .batch import Batch

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several equal shares of a run, counted from 1; the same in every run."""

    number: int = 1
    count: int = 1
    requested: bool = False
    """True if shards were requested."""

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every N-th, from the I-th on: shares are disjoint, together complete, and of like size."""
        return items[self.number - 1 :: self.count]

    def block(self, items: Sequence[Item]) -> Sequence[Item]:
        """The I-th of N blocks of consecutive items."""
        return items[len(items) * (self.number - 1) // self.count : len(items) * self.number // self.count]

    @property
    def suffix(self) -> str:
        """Suffix of files of which every share writes its own."""
        return f"_{self.number}of{self.count}" if self.count > 1 else ""


def add_shard(parser: argparse._ActionsContainer, what: str = "every N-th scan, from the I-th on") -> None:
    """--shard: one of several processes that share the work."""
    parser.add_argument("--shard", metavar="I/N", help=f"do only the I-th of N shares: {what} (default: by rank under torchrun)")


def shard_of(arguments: argparse.Namespace) -> Shard:
    """The share of this process: as the command line says, else by its rank under torchrun.

    Raises:
        InputError: if there is no such share.
    """
    text: str | None = arguments.shard
    if text is None:
        number, count = int(os.environ.get("RANK", 0)) + 1, int(os.environ.get("WORLD_SIZE", 1))
        return Shard(number=number, count=count, requested=count > 1)
    first, slash, count_text = text.partition("/")
    if not (slash and first.isdecimal() and count_text.isdecimal() and 1 <= int(first) <= int(count_text)):
        raise InputError(f"The shard is {text!r}.", "Give I/N with I from 1 to N, such as 1/8 to 8/8.")
    return Shard(number=int(first), count=int(count_text), requested=True)


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV file; fields missing in a row stay empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items() if value is not None})
    write_bytes(path, text.getvalue().encode("utf-8", "backslashreplace"))


def merge_tables(folder: Path, name: str, shard: Shard) -> Path | None:
    """One table of those of all shares, sorted by its first column, once all are there.

    Args:
        folder: of the tables `<name>_<I>of<N>.csv`.
        name: of the table of all.
        shard: any of the shares.

    Returns:
        The table `<name>.csv`; None: some are missing yet, or there is only one share, whose table it is.
    """
    parts = [folder / f"{name}_{number}of{shard.count}.csv" for number in range(1, shard.count + 1)]
    if shard.count == 1 or not all(part.is_file() for part in parts):
        return None
    columns: dict[str, None] = {}
    rows: list[dict[str, str]] = []
    for part in parts:
        with part.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            columns |= dict.fromkeys(reader.fieldnames or ())
            rows += reader
    first = next(iter(columns), "")
    write_table(folder / f"{name}.csv", list(columns), sorted(rows, key=lambda row: row.get(first) or ""))
    return folder / f"{name}.csv"


class Outcomes:
    """Table of the scans of one process, `summary_<I>of<N>.csv`, and `summary.csv` of all once the last one has ended; only with shares.

    Args:
        folder: of the tables.
        shard: of the scans.
    """

    columns: tuple[str, ...] = ("case", "target", "status", "reason", "seconds")

    def __init__(self, folder: Path, shard: Shard) -> None:
        self._folder, self._shard = folder, shard
        self.rows: dict[str, list[dict[str, Any]]] = {}
        """By case; several where each of its labels has one."""

    @property
    def table(self) -> Path:
        """Path of the table of this process."""
        return self._folder / f"summary{self._shard.suffix}.csv"

    @contextmanager
    def recorded(self, row: Mapping[str, Any]) -> Iterator[list[Mapping[str, Any]]]:
        """Context of the work on a scan, which records the outcome; the yielded list takes the columns of its labels.

        Args:
            row: case, target and what else is known before.
        """
        began = time.monotonic()
        labels: list[Mapping[str, Any]] = []
        try:
            with known_failures():
                yield labels
        except (MassError, RuntimeError, OSError) as error:
            self.rows[row["case"]] = [{**row, "status": "failed", "reason": getattr(error, "message", str(error))}]
            raise
        done = {**row, "status": "done", "seconds": round(time.monotonic() - began, 2)}
        self.rows[row["case"]] = [{**done, **label} for label in labels] or [done]

    def write(self) -> None:
        """Write the table of this process, if a share was requested."""
        if self._shard.requested:
            write_table(self.table, self.columns, [row for case in sorted(self.rows) for row in self.rows[case]])

    def merge(self) -> Path:
        """Write the table of this process, and that of all if it is the last one; returns the latter, else the former."""
        self.write()
        return merge_tables(self._folder, "summary", self._shard) or self.table


class Share(Outcomes):
    """The targets of one process, and a table of their outcomes. If a share was requested, existing results are kept.

    Args:
        shard: which.
        jobs: all targets of the run.
        overwrite: make results anew.
    """

    columns = ("case", "target", "output", "status", "reason", "seconds", "label", "name", "ml")

    def __init__(self, shard: Shard, jobs: Sequence[Job], *, overwrite: bool) -> None:
        super().__init__(jobs[0].output.parent, shard)
        self.requested = shard.requested
        """True if shards were requested."""
        self._own = shard.of(jobs)
        kept = shard.requested and not overwrite
        self.left = [job for job in self._own if not (kept and job.output.exists())]
        """The targets to work on."""
        before = self._earlier() if kept else {}
        for job in self._own:
            if job not in self.left:
                self.rows[job.stem] = before.get(job.stem) or [{**_facts(job), "status": "present"}]

    @contextmanager
    def noting(self, job: Job) -> Iterator[Callable[[Sequence[Mapping[str, Any]]], None]]:
        """Context of the work on a target, which records the outcome; the yielded function takes its labels (`value`, `name`, `ml`)."""
        try:
            with self.recorded(_facts(job)) as rows:
                yield lambda labels: rows.extend({"label": x["value"], "name": x["name"], "ml": x["ml"]} for x in labels)
        finally:
            self.write()  # now, for the process may be stopped

    def close(self, terminal: Output) -> None:
        """Write the table, that of all shares if this was the last one, and print how many targets ended how."""
        if not self.requested:
            return
        table = self.merge()
        count = {status: sum(rows[0]["status"] == status for rows in self.rows.values()) for status in ("done", "failed")}
        count["present"] = len(self._own) - len(self.left)
        text = f"{self._folder}: {count['done']} made, {count['present']} already present, {count['failed']} failed"
        terminal.result(f"{text}; {table}", output=str(self._folder), table=str(table), **count)

    def _earlier(self) -> dict[str, list[dict[str, Any]]]:
        """Rows of results that an earlier run made, by case; those of a case stand together in a table."""
        found: dict[str, list[dict[str, Any]]] = {}
        for table in (self._folder / "summary.csv", self.table):
            if table.is_file():
                with table.open(encoding="utf-8", newline="") as file:
                    rows = [{**row, "status": "present"} for row in csv.DictReader(file) if row.get("status") in ("done", "present")]
                found |= {case: list(group) for case, group in groupby(rows, key=itemgetter("case"))}
        return found


@contextmanager
def shared(arguments: argparse.Namespace, jobs: Sequence[Job], request: Load, more: Sequence[Path] = ()) -> Iterator[tuple[Share, Batch]]:
    """Context of a run over targets: no file it would write is in the way, and the folders of its results are there.

    Args:
        arguments: of the command.
        jobs: all targets of the run.
        request: of the first target.
        more: further files that are written.

    Returns:
        The targets of this process, and their failures.

    Raises:
        MassError: if a file may not be written.
    """
    share = Share(shard_of(arguments), jobs, overwrite=arguments.overwrite)
    files = [*(path for job in share.left for path in job.files), *more]
    check_free(files, overwrite=arguments.overwrite, inputs=[*inputs(request), *arguments.target])
    with folders_ready([*files, share.table]):
        yield share, Batch(arguments.terminal, len(jobs), len(share.left))


def _facts(job: Job) -> dict[str, str]:
    return {"case": job.stem, "target": str(job.target), "output": str(job.output)}
