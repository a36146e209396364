"""Report of `mass masks`: a table of the scans, on request pictures and a comparison with label maps."""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    group.add_argument("--picture", action="store_true", help="draw DIR/<case>.png, also of existing mask sets")
    group.add_argument(
        "--compare",
        type=Path,
        metavar="DIR",
        help="label maps named like the scans: Dice of masks and labels (the paper's Table 4a), also written to labels.csv",
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
        self._shard, self._part = shard, shard.suffix
        self._picture, self._compare = arguments.picture, arguments.compare
        self._terminal = arguments.terminal
        self._rows: dict[str, dict[str, Any]] = {}
        self._scores: dict[str, list[LabelScore]] = {}

    def has(self, scan: Scan) -> bool:
        """True if the scan has a row."""
        return scan.name in self._rows

    def look(self, scan: Scan) -> None:
        """Add a scan whose mask set an earlier run made."""
        from ...masks.mask_set import SUFFIX, MaskSet

        self.noting(lambda scan: self.add(scan, MaskSet.read(self._file(scan, SUFFIX)), "present"))(scan)

    def add(self, scan: Scan, masks: "MaskSet", status: str, notes: Sequence[str] = ()) -> None:
        """Add a mask set with its notes: draw it if there is no picture of it, compare it."""
        self._rows[scan.name] = _row(scan, masks, status) | ({"reason": " ".join(notes)} if notes else {})
        if self._picture and not self._is_drawn(scan):
            from ...pictures import mask_sheet, panels

            panels.write_png(self._file(scan, ".png"), mask_sheet.sheet(scan.read(), masks, scan.name))
        if self._compare is not None:
            self._add_scores(scan, masks)

    def _is_drawn(self, scan: Scan) -> bool:
        """True if there is a picture no older than the masks, which may have been made anew since."""
        from ...masks.mask_set import SUFFIX

        picture = self._file(scan, ".png")
        return picture.exists() and picture.stat().st_mtime_ns >= self._file(scan, SUFFIX).stat().st_mtime_ns

    def noting(self, work: Callable[[Scan], None]) -> Callable[[Scan], None]:
        """Wrap the work on a scan so that failures get a row, too."""

        def noted(scan: Scan) -> None:
            try:
                with known_failures():
                    work(scan)
            except (MassError, RuntimeError, OSError) as error:
                row = self._rows.setdefault(scan.name, {"case": scan.name, "file": str(scan.path)})
                row |= {"status": "failed", "reason": getattr(error, "message", str(error))}
                raise

        return noted

    def files(self, scans: Sequence[Scan]) -> list[str]:
        """Names of the files a run may write: mask sets, pictures, tables."""
        from ...masks.mask_set import SUFFIX

        tables = [f"summary{self._part}.csv", f"labels{self._part}.csv"]
        return [*tables, *(f"{scan.name}{ending}" for scan in scans for ending in (SUFFIX, ".png"))]

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
            text = f"{mean:.0f} masks a scan, {min(counts)} to {max(counts)}"
            self._terminal.result(text, table="scans", scans=len(rows), mean=mean, least=min(counts), most=max(counts))
        if self._compare is not None:
            self._report_scores(rows)

    def _report_scores(self, rows: Sequence[Mapping[str, Any]]) -> None:
        missing = [row["case"] for row in rows if row["case"] not in self._scores and row["status"] != "failed"]
        if missing:
            self._terminal.warn(f"There is no label map in {self._compare} of {listing(missing, NAMED)}.")
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
        from ...masks.mask_set import SUFFIX, MaskSet

        for scan in scans:
            path = self._file(scan, SUFFIX)
            if scan.name not in self._rows and path.exists():
                with contextlib.suppress(MassError):
                    self._rows[scan.name] = _row(scan, MaskSet.read(path), "present")

    def _write(self) -> None:
        columns = ["case", "file", "status", "reason", "masks", "seconds", *_quantile_columns()]
        columns += ["labels", *_SCORES] if self._compare is not None else []
        write_table(self._output / f"summary{self._part}.csv", columns, [self._rows[name] for name in sorted(self._rows)])
        if self._compare is not None:
            rows = [{"case": name, **vars(score)} for name in sorted(self._scores) for score in self._scores[name]]
            write_table(self._output / f"labels{self._part}.csv", ["case", "label", "ml", "overlapping", *_SCORES], rows)

    def _file(self, scan: Scan, ending: str) -> Path:
        return self._output / f"{scan.name}{ending}"


def _row(scan: Scan, masks: "MaskSet", status: str) -> dict[str, Any]:
    """Row of a mask set, computed from the set alone."""
    from ...masks.statistics import sizes

    found = sizes(masks)
    row = {"case": scan.name, "file": str(scan.path), "status": status, "masks": found.masks, "seconds": masks.meta.get("seconds")}
    return row | dict(zip(_quantile_columns(), found.ml, strict=False))


def _quantile_columns() -> list[str]:
    from ...masks.statistics import QUANTILES

    return [f"ml_p{100 * share:.0f}" for share in QUANTILES]
