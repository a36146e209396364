"""Results of an evaluation so far, in a folder: the same command resumes where it stopped."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import differences
from ..errors import InputError, OutputError
from ..files import read_json, write_bytes, write_json
from .scoring import Score, Trial
from .tables import as_csv, scores_of

RESULTS = ("scores.csv", "summary.csv", "summary.json", "summary.md")
SETTINGS = "settings.json"
_PARTS = "scores_*of*.csv"
"""Tables of processes that share the work."""
_MADE = (_PARTS, "models/*draw*.json", "models/*draw*.masstask", "models/*draw*.safetensors", "worst*.png")


class EvaluationFolder:
    """The scores of an evaluation, written anew after every scan.

    Args:
        folder: exists.
        settings: what the results depend on, by name; a repetition may name others besides.
        overwrite: begin anew where there are results of other settings.
        part: behind the name of the table of scores, where several processes share the work; each reads what the others have written.

    Raises:
        OutputError: if there are, and `overwrite` is off.
        InputError: if what is there is damaged.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, overwrite: bool, part: str = "") -> None:
        self._folder, self._table = folder, folder / f"scores{part}.csv"
        wanted = json.loads(json.dumps(settings))
        known = self._settings()
        changed = [name for name in wanted if name in known and known[name] != wanted[name]]
        foreign = not known and any((folder / name).exists() for name in RESULTS)
        if (changed or foreign) and not overwrite:
            raise OutputError(_conflict(folder, changed, known, wanted), "Choose another --output, or start again with --overwrite.")
        if changed or foreign:
            self._clear()
            known = {}
        self.scores: list[Score] = []
        self.refresh()
        self._own = self._read(self._table)
        write_json(folder / SETTINGS, {**known, **wanted})

    def has(self, trial: Trial, case: str) -> bool:
        """True if a scan was scored in a trial."""
        return (trial, case) in self._done

    def add(self, scores: Sequence[Score]) -> None:
        """Keep the scores of a scan in a trial."""
        self.scores += scores
        self._own += scores
        self._done |= {(score.trial, score.case) for score in scores}
        write_bytes(self._table, as_csv(self._own, Score).encode())

    def refresh(self) -> None:
        """Read what all processes that share the work have written so far."""
        tables = [self._folder / "scores.csv", *sorted(self._folder.glob(_PARTS))]
        found = {(score.trial, score.case, score.label): score for table in tables for score in self._read(table)}
        self.scores = list(found.values())
        self._done = {(score.trial, score.case) for score in self.scores}

    def write_whole(self) -> None:
        """Write one table of the scores of all."""
        write_bytes(self._folder / "scores.csv", as_csv(self.scores, Score).encode())

    def _settings(self) -> dict[str, Any]:
        path = self._folder / SETTINGS
        return read_json(path, "Delete it, and start again with --overwrite.") if path.is_file() else {}

    def _read(self, path: Path) -> list[Score]:
        if not path.is_file():
            return []
        try:
            return scores_of(path.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged: {error}.", f"Delete it and {SETTINGS} beside it.") from error

    def _clear(self) -> None:
        """Take away what an evaluation left; nothing else that lies there."""
        for path in (found for pattern in (*RESULTS, *_MADE) for found in self._folder.glob(pattern)):
            path.unlink()


def _conflict(folder: Path, changed: Sequence[str], known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    if not changed:
        return f"Results exist in {folder} already, made with unknown settings."
    found = differences({name: known[name] for name in changed}, dict(wanted))
    return f"Results exist in {folder} already, with other settings: {'; '.join(found.values()) or ', '.join(changed)}."
