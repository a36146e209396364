"""CSV table of mass segment: a line for each label of each target, with its warnings."""

from pathlib import Path
from typing import Any

from ..errors import MassError, OutputError, concerning
from .common.shards import write_table

_COLUMNS = ("target", "output", "label", "name", "ml", "decided_by", "quality", "expected_dice", "warnings", "error")


class ResultTable:
    """Results of a run as CSV, written anew after every target.

    Args:
        path: of the file; None: no table is wanted.

    Raises:
        OutputError: if its name does not end in .csv.
    """

    def __init__(self, path: Path | None) -> None:
        if path is not None and path.suffix.lower() != ".csv":
            raise OutputError(f"{path} is not a valid file name for a table.", "End it with .csv.")
        self._path = path
        self._rows: list[dict[str, Any]] = []

    def add(self, values: dict[str, Any]) -> None:
        """Add the labels of a target, given as the JSON values of mass segment."""
        names = {label["value"]: label["name"] for label in values["labels"]}
        for label in values["labels"]:
            quality = label.get("quality", {})
            nothing = [] if label["ml"] else ["Nothing was found."]
            sentences = dict.fromkeys([*nothing, *concerning(label["value"], names, values["warnings"]), *quality.get("reasons", ())])
            row = {"label": label["value"], "name": label["name"], "ml": str(round(label["ml"], 4)), "decided_by": label["decision"]["by"]}
            row |= {"quality": quality.get("flag"), "expected_dice": quality.get("expected_dice"), "warnings": " ".join(sentences)}
            self._rows.append({name: values[name] for name in ("target", "output")} | row)
        self._write()

    def add_failure(self, target: Path, error: MassError) -> None:
        """Add a target without a result."""
        self._rows.append({"target": str(target), "error": " ".join([error.message, error.cure]).strip()})
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            write_table(self._path, _COLUMNS, self._rows)
