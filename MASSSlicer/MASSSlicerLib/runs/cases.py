"""The targets of a run, their results, and the table of both."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mass_core.files import write_bytes

from .quality import Quality

WAITING, RUNNING, DONE, SKIPPED, FAILED, STOPPED = "waiting", "running", "done", "skipped", "failed", "stopped"
SUMMARY = "MASS_summary.csv"


@dataclass
class Case:
    """One target: a volume of the scene, a file or DICOM folder, or a series of the DICOM database."""

    name: str
    volume_id: str = ""
    path: Path | None = None
    series: str = ""
    """Unique identifier of a series in Slicer's DICOM database."""
    frame: int | None = None
    """Of a volume that shows a sequence; None: the volume as it is shown."""
    status: str = WAITING
    message: str = ""
    """Reason of a failure with its cure, or a note for the user."""
    seconds: float = 0.0
    volumes_ml: dict[str, float] = field(default_factory=dict)
    """By name of the structure."""
    quality: dict[str, Quality] = field(default_factory=dict)
    """By name of the structure; empty: not checked."""
    serious: tuple[str, ...] = ()
    """Warnings that the result may be wrong."""
    warnings: tuple[str, ...] = ()
    """All of them, the serious ones first."""
    segmentation_id: str = ""
    segment_ids: tuple[str, ...] = ()
    output: Path | None = None

    @property
    def over(self) -> bool:
        """True if a resumed run skips it."""
        return self.status in (DONE, SKIPPED)

    def reset(self) -> None:
        """Clear the result, for another try."""
        self.status, self.message, self.seconds, self.volumes_ml, self.quality = WAITING, "", 0.0, {}, {}
        self.serious, self.warnings = (), ()


def output_paths(cases: Sequence[Case], folder: Path, ending: str) -> list[Path]:
    """Files of the results of cases, with characters no file name may have replaced, numbered where names repeat."""
    taken: set[str] = set()
    paths = []
    for case in cases:
        plain = re.sub(r'[<>:"/\\|?*\x00-\x1f]+', "_", case.name).strip(" .") or "target"
        names = (plain, *(f"{plain}_{number}" for number in range(2, len(cases) + 2)))
        name = next(candidate for candidate in names if candidate.lower() not in taken)
        taken.add(name.lower())
        paths.append(folder / (f"{name}.seg.nrrd" if ending == ".seg.nrrd" else f"{name}_seg{ending}"))
    return paths


def write_summary(cases: Iterable[Case], path: Path) -> None:
    """Write the table of a run: a line for each structure of each target.

    Raises:
        OutputError: if it cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["target", "status", "structure", "volume_ml", "quality", "expected_dice", "seconds", "output", "message"])
    for case in cases:
        source = str(case.path or case.series or case.name)
        note = " ".join([case.message, *case.warnings]).strip().replace("\n", " ")
        for structure, volume in (case.volumes_ml or {"": None}).items():
            shown = "" if volume is None else f"{volume:.4g}"
            judged = case.quality.get(structure)
            flag = "" if judged is None else judged.flag
            dice = "" if judged is None or judged.expected_dice is None else f"{judged.expected_dice:.3f}"
            table.writerow([source, case.status, structure, shown, flag, dice, f"{case.seconds:.1f}", str(case.output or ""), note])
    # The byte order mark makes Excel read UTF-8.
    write_bytes(path, b"\xef\xbb\xbf" + text.getvalue().encode())
