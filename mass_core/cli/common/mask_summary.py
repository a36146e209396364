"""Report of `mass masks`: a table of the scans, on request pictures and a comparison with label maps."""

import argparse
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.scan_files import Scan
from ...errors import MassError, OutputError, known_failures, listing
from .batch import terminated_as_interrupted
from .shards import Shard, merge_tables, write_table

if TYPE_CHECKING:
    from ...masks.mask_set import MaskSet
    from ...masks.statistics import LabelScore

_SCORES = ("best", "mean", "above_40")
NAMED = 3
"""Scans without masks or label map that are named."""


def add_summary(group: Any) -> None:
    """--picture, --compare."""
    group.add_argument("--picture", action="store_true", help="draw DIR/<case>.png, also for existing mask sets")
    group.add_argument(
        "--compare",
        type=Path,
        metavar="DIR",
        help="label maps named like the scans: Dice between masks and labels (the paper's Table 4a), also written to labels.csv",
    )


class Summary:
    """The tables of a run: rows are added while it goes, files are written when it ends or is stopped.

    Args:
        arguments: of `mass masks`.
        shard: of the scans; its tables have names of their own, and once all are there those of all are written.
    """

    def __init__(self, arguments: argparse.Namespace, shard: Shard) -> None:
        self._output = Path(arguments.output)
        self._same_grid: bool = arguments.same_grid
        self._shard = shard
        self._picture, self._compare = arguments.picture, arguments.compare
        self._terminal = arguments.terminal
        self._rows: dict[str, dict[str, Any]] = {}
        self._scores: dict[str, list[LabelScore]] = {}

    def has(self, scan: Scan) -> bool:
        """True if the scan has a row."""
        return scan.name in self._rows

    def mask_file(self, scan: Scan) -> Path:
        """Path of the mask set of a scan."""
        from ...masks.mask_set import SUFFIX

        return self._output / f"{scan.name}{SUFFIX}"

    def add_existing(self, scan: Scan) -> None:
        """Add a scan whose mask set an earlier run made."""
        from ...masks.mask_set import MaskSet

        with self.noting(scan):
            self.add(scan, MaskSet.read(self.mask_file(scan)), "present")

    def add(self, scan: Scan, masks: "MaskSet", status: str, notes: Sequence[str] = ()) -> None:
        """Add a mask set with its notes: draw it if there is no picture of it, compare it."""
        self._rows[scan.name] = _row(scan, masks, status) | ({"reason": " ".join(notes)} if notes else {})
        picture = self._picture_file(scan)
        # A picture older than the masks is drawn anew: these may have been made since.
        if self._picture and not (picture.exists() and picture.stat().st_mtime_ns >= self.mask_file(scan).stat().st_mtime_ns):
            from ...pictures import mask_sheet, panels

            panels.write_png(picture, mask_sheet.sheet(scan.read(), masks, scan.name))
        if self._compare is not None:
            self._add_scores(scan, masks)

    @contextlib.contextmanager
    def noting(self, scan: Scan) -> Iterator[None]:
        """Context of the work on a scan, whose failures get a row, too."""
        try:
            with known_failures():
                yield
        except (MassError, RuntimeError, OSError) as error:
            row = self._rows.setdefault(scan.name, {"case": scan.name, "file": str(scan.path)})
            row |= {"status": "failed", "reason": getattr(error, "message", str(error))}
            raise

    def files(self, scans: Sequence[Scan]) -> list[Path]:
        """The files a run may write: mask sets, pictures, tables."""
        tables = [self._table("summary"), self._table("labels")]
        return [*tables, *(file for scan in scans for file in (self.mask_file(scan), self._picture_file(scan)))]

    @contextlib.contextmanager
    def kept(self, scans: Sequence[Scan]) -> Iterator[None]:
        """Write the tables at the end, and when the run is stopped before, by Ctrl-C or SIGTERM.

        A run that fails before there is any mask leaves none, nor does one that cannot write.
        """
        try:
            with terminated_as_interrupted():
                yield
        except OutputError:
            raise
        except BaseException:  # a signal as well: the rows there are must not be lost
            self._add_unseen(scans)
            if any("masks" in row for row in self._rows.values()):
                self._write()
            raise
        self._write()
        for table in ("summary", *(["labels"] if self._compare is not None else [])):
            merge_tables(self._output, table, self._shard)

    @property
    def empty(self) -> list[str]:
        """Scans in which no mask was found."""
        return [name for name, row in sorted(self._rows.items()) if row.get("masks") == 0]

    def report(self) -> None:
        """Averages of the tables."""
        rows = [row for row in self._rows.values() if "masks" in row]
        if len(rows) > 1:
            counts = [row["masks"] for row in rows]
            mean = sum(counts) / len(counts)
            text = f"{mean:.0f} masks per scan, {min(counts)} to {max(counts)}"
            self._terminal.result(text, table="scans", scans=len(rows), mean=mean, least=min(counts), most=max(counts))
        if self._compare is not None:
            self._report_scores(rows)

    def _report_scores(self, rows: Sequence[Mapping[str, Any]]) -> None:
        missing = [row["case"] for row in rows if row["case"] not in self._scores and row["status"] != "failed"]
        if missing:
            self._terminal.warn(f"There is no label map in {self._compare} for {listing(missing, NAMED)}.")
        by_label: dict[int, list[LabelScore]] = {}
        for score in (score for scores in self._scores.values() for score in scores):
            by_label.setdefault(score.label, []).append(score)
        for label, scores in sorted(by_label.items()):
            self._report_means(f"label {label}", [vars(score) for score in scores], table="label", label=label)
        compared = [row for row in rows if row["case"] in self._scores]
        if compared:
            self._report_means("all labels", compared, table="labels")

    def _report_means(self, name: str, rows: Sequence[Mapping[str, Any]], **values: Any) -> None:
        from ...masks.statistics import mean_known

        means = {column: mean_known([row[column] for row in rows]) for column in _SCORES}
        best, mean, above = ("-" if value is None else f"{100 * value:.1f} %" for value in means.values())
        text = f"{name}: best Dice {best}, mean of overlapping masks {mean}, above 40 %: {above} ({len(rows)} scans)"
        self._terminal.result(text, **values, scans=len(rows), **means)

    def _add_scores(self, scan: Scan, masks: "MaskSet") -> None:
        from ...masks.statistics import averages, label_scores
        from ...volumes.label_maps import check_belongs

        labels = scan.read_labels(self._compare)
        if labels is None:
            self._rows[scan.name]["reason"] = "no label map"
            return
        image = scan.read()
        labels = labels.on_grid_of(image) if self._same_grid else labels
        check_belongs(image.geometry, labels, image_is="scan", labels_are="label map")
        scores = label_scores(masks, labels)
        self._scores[scan.name] = scores
        self._rows[scan.name] |= {"labels": len(scores), **dict(zip(_SCORES, averages(scores), strict=True))}

    def _add_unseen(self, scans: Sequence[Scan]) -> None:
        """Add rows of existing mask sets that a stopped run did not reach, without comparison."""
        from ...masks.mask_set import MaskSet

        for scan in scans:
            if not self.has(scan) and self.mask_file(scan).exists():
                with contextlib.suppress(MassError):
                    self._rows[scan.name] = _row(scan, MaskSet.read(self.mask_file(scan)), "present")

    def _write(self) -> None:
        columns = ["case", "file", "status", "reason", "masks", "seconds", *_quantile_columns()]
        columns += ["labels", *_SCORES] if self._compare is not None else []
        write_table(self._table("summary"), columns, [self._rows[name] for name in sorted(self._rows)])
        if self._compare is not None:
            rows = [{"case": name, **vars(score)} for name in sorted(self._scores) for score in self._scores[name]]
            write_table(self._table("labels"), ["case", "label", "ml", "overlapping", *_SCORES], rows)

    def _table(self, name: str) -> Path:
        return self._output / f"{name}{self._shard.suffix}.csv"

    def _picture_file(self, scan: Scan) -> Path:
        return self._output / f"{scan.name}.png"


def _row(scan: Scan, masks: "MaskSet", status: str) -> dict[str, Any]:
    """Row of a mask set, computed from the set alone."""
    from ...masks.statistics import sizes

    found = sizes(masks)
    row = {"case": scan.name, "file": str(scan.path), "status": status, "masks": found.masks, "seconds": masks.meta.get("seconds")}
    return row | dict(zip(_quantile_columns(), found.ml, strict=False))


def _quantile_columns() -> list[str]:
    from ...masks.statistics import QUANTILES

    return [f"ml_p{100 * share:.0f}" for share in QUANTILES]
