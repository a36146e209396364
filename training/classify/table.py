"""Labels of scans in a CSV file, checked completely before anything is computed; all faults are reported at once."""

import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mass_core.data.splits import SPLITS
from mass_core.errors import InputError, listing
from mass_core.outputs import IMAGE_ENDINGS

_PREFIX = "label_"
_AS_CSV = "Save it as CSV, separated by commas."
_SHOWN = 8
"""Names a fault lists."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A scan and its labels."""

    name: str
    """As in the file."""
    path: Path
    patient: str
    target: tuple[float, ...]
    """1 for the classes it has, else 0."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """All labelled scans."""

    file: Path
    sha256: str
    classes: tuple[str, ...]
    multi_label: bool
    splits: dict[str, tuple[Row, ...]]

    @property
    def rows(self) -> tuple[Row, ...]:
        """All scans, those for training first."""
        return tuple(row for split in SPLITS for row in self.splits[split])

    def targets(self, split: str) -> Tensor:
        """[scans, classes], 1 for the classes a scan has."""
        return torch.tensor([row.target for row in self.splits[split]]).reshape(-1, len(self.classes))

    def with_share(self, share: float, seed: int) -> "Table":
        """The table with a share of the training scans, of whole patients in a random order; a larger share holds a smaller one.

        Raises:
            InputError: if nothing can be learned from so few.
        """
        rows = self.splits["train"]
        patients = np.random.default_rng(seed).permutation(sorted({row.patient for row in rows})).tolist()
        place = {patient: number for number, patient in enumerate(patients)}
        last = sorted(place[row.patient] for row in rows)[max(1, round(share * len(rows))) - 1]
        kept = tuple(row for row in rows if place[row.patient] <= last)
        table = replace(self, splits={**self.splits, "train": kept})
        if faults := list(_class_faults(table)):
            raise InputError(f"Of {len(rows)} training scans {len(kept)} were drawn. {' '.join(faults)}", "Choose a larger train_share.")
        return table

    def without_auc(self, split: str) -> list[str]:
        """Classes that all scans of a split have, or none: no AUC can be computed for them."""
        share = self.targets(split).mean(dim=0).tolist()
        return [name for name, value in zip(self.classes, share, strict=True) if value in (0.0, 1.0)]


def read_table(file: Path, images: Path) -> Table:
    """Read the labels, find the scans.

    Args:
        file: CSV with the columns `filename`, `split` (train, val, test), `label` or one `label_<class>` (0 or 1) for each class, and,
            where a patient has several scans, `patient`.
        images: folder of the scans; endings of file names may be left out.

    Raises:
        InputError: telling everything that is wrong.
    """
    data = _bytes(file)
    header, lines = _lines(file, data)
    columns = [name for name in header if name.startswith(_PREFIX)]
    _refuse(file, list(_column_faults(header, columns)))
    classes = tuple(name.removeprefix(_PREFIX) for name in columns) or _classes(lines)
    rows, faults = _rows(lines, columns, classes, images)
    splits = {split: tuple(row for side, row in rows if side == split) for split in SPLITS}
    table = Table(file=file, sha256=hashlib.sha256(data).hexdigest(), classes=classes, multi_label=bool(columns), splits=splits)
    _refuse(file, [*faults, *_split_faults(rows), *([] if faults else _class_faults(table))])
    return table


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.", "Give the CSV file with the labels.") from error


def _lines(file: Path, data: bytes) -> tuple[list[str], list[dict[str, str]]]:
    """Names of the columns, and a dictionary for each line that is not empty."""
    try:
        text = data.decode("utf-8-sig")
        table = [[value.strip() for value in line] for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is not a CSV file in UTF-8: {error}.", _AS_CSV) from error
    header, *lines = table or [[]]
    uneven = [", ".join(line)[:40] for line in lines if len(line) != len(header)]
    if uneven:
        raise InputError(
            f"{len(uneven)} lines of {file} do not have the {len(header)} fields of the header: {listing(uneven, _SHOWN)}.", _AS_CSV
        )
    return header, [dict(zip(header, line, strict=True)) for line in lines]


def _column_faults(header: Sequence[str], columns: Sequence[str]) -> Iterator[str]:
    yield from (f"There is no column {name!r} among {listing(header, _SHOWN)!r}." for name in ("filename", "split") if name not in header)
    if "label" not in header and not columns:
        yield f"There is neither a column 'label' nor one '{_PREFIX}<class>' for each class."
    if "label" in header and columns:
        yield f"There is a column 'label' and one {columns[0]!r} as well: either a scan has one class, or any number."
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        yield f"Several columns are called {listing(twice, _SHOWN)}."


def _classes(lines: Sequence[dict[str, str]]) -> tuple[str, ...]:
    """Names of the classes in the column `label`, numbers in their order."""
    names = {line["label"] for line in lines} - {""}
    return tuple(sorted(names, key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name)))


def _rows(
    lines: Sequence[dict[str, str]], columns: Sequence[str], classes: Sequence[str], images: Path
) -> tuple[list[tuple[str, Row]], list[str]]:
    """Split and row of every line that is complete, and what is wrong with the others."""
    rows, missing, unlabelled, strange = [], [], [], []
    seen: Counter[str] = Counter()
    for number, line in enumerate(lines, 2):
        name = line["filename"] or f"line {number}"
        path = _scan(images, line["filename"])
        target = _target(line, columns, classes)
        if path is None:
            missing.append(name)
        else:
            seen[path.name] += 1
        if target is None:
            unlabelled.append(name)
        if line["split"] not in SPLITS:
            strange.append(f"{line['split']!r} ({name})")
        if path is not None and target is not None and line["split"] in SPLITS:
            patient = line.get("patient") or line["filename"]
            rows.append((line["split"], Row(name=line["filename"], path=path, patient=patient, target=target)))
    wanted = "0 or 1 in every column label_<class>" if columns else "an entry in the column label"
    kinds = [
        (missing, f"{{}} scans are not in {images}"),
        (unlabelled, f"{{}} scans lack {wanted}"),
        (strange, f"{{}} scans are in splits other than {', '.join(SPLITS)}"),
        ([name for name, count in seen.items() if count > 1], "{} scans are listed more than once"),
    ]
    return rows, [f"{text.format(len(names))}: {listing(names, _SHOWN)}." for names, text in kinds if names]


def _scan(images: Path, name: str) -> Path | None:
    """The file or DICOM folder a name stands for."""
    candidates = [images / f"{name}{ending}" for ending in ("", *IMAGE_ENDINGS)] if name else []
    return next((path for path in candidates if path.exists()), None)


def _target(line: dict[str, str], columns: Sequence[str], classes: Sequence[str]) -> tuple[float, ...] | None:
    """1 for the classes a scan has; None: it does not say."""
    if columns:
        values = [line.get(column, "") for column in columns]
        return tuple(map(float, values)) if set(values) <= {"0", "1"} else None
    return tuple(float(line["label"] == name) for name in classes) if line["label"] else None


def _split_faults(rows: Sequence[tuple[str, Row]]) -> Iterator[str]:
    sides = defaultdict(set)
    for split, row in rows:
        sides[row.patient].add(split)
    both = [f"{patient} ({' and '.join(sorted(found))})" for patient, found in sides.items() if len(found) > 1]
    if both:
        yield f"{len(both)} patients are in several splits, which makes results too optimistic: {listing(both, _SHOWN)}."


def _class_faults(table: Table) -> Iterator[str]:
    for split in ("train", "val"):
        if not table.splits[split]:
            yield f"No scan is in the split {split}."
    if not table.splits["train"]:
        return
    unlearnable = table.without_auc("train")
    if len(table.classes) == 1 and not table.multi_label:
        yield f"All scans have the label {table.classes[0]!r}: there is nothing to distinguish."
    elif table.multi_label and unlearnable:
        yield f"All scans of the split train, or none, have {listing(unlearnable, _SHOWN)}: nothing can be learned about it."
    elif unlearnable:
        share = table.targets("train").mean(dim=0)
        absent = [name for name, value in zip(table.classes, share, strict=True) if not value]
        yield f"No scan of the split train has {listing(absent, _SHOWN)}."


def _refuse(file: Path, faults: Sequence[str]) -> None:
    if faults:
        raise InputError(f"{file} cannot be trained on:\n" + "\n".join(f"- {fault}" for fault in faults), "Correct the file or the scans.")
