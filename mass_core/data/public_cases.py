"""The cases of a public dataset: found by the layout of its kind, read with its known faults mended. No file of it is ever changed."""

import csv
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Modality, Triple
from ..errors import GeometryError, InputError
from ..files import read_json
from ..volumes.label_maps import voxels_of
from ..volumes.volume import Volume
from . import bids_layout
from .decathlon_layout import read_fold
from .label_names import label_names
from .public_layouts import Kind
from .splits import SPLITS, split_by_patient

_NO_NAME = re.compile(r"[^A-Za-z0-9._+-]+")
"""Characters a file's name should not hold on any system."""


@dataclass(frozen=True, kw_only=True)
class DatasetCase:
    """One scan of a public dataset with its metadata."""

    kind: Kind
    name: str
    patient: str
    split: str
    modality: Modality
    image: Path
    frame: int | None
    labels: tuple[Path, ...]
    """Its label map, or a file for each class; empty: none."""
    label_names: Mapping[int, str]
    """Of the whole dataset."""

    def read(self) -> Volume:
        """The scan with corrected geometry and its modality set.

        Raises:
            MassError: as `Volume.read`.
        """
        return replace(self.mended(self.image, self.frame), modality=self.modality)

    def read_labels(self) -> Volume | None:
        """Its label map; None: it has none. Where classes of different files overlap, the later in the alphabet stands.

        Raises:
            GeometryError: if the files of the classes have different grids.
            MassError: as `Volume.read`.
        """
        if not self.labels:
            return None
        if not self.kind.merged:
            return self.mended(self.labels[0], self.frame if self.kind.table_frames else None)
        numbers = {name: value for value, name in self.label_names.items()}
        first = self.mended(self.labels[0])
        merged = np.zeros(first.array.shape, np.uint16)
        for path in self.labels:
            part = self.mended(path)
            if not part.geometry.matches(first.geometry):
                raise GeometryError(f"{path} has another grid than {self.labels[0]}.", "Download the label maps of this scan again.")
            merged[part.array > 0] = numbers[_bare(path.name)]
        return Volume(merged, first.geometry)

    def unnamed(self, labels: Volume) -> tuple[str, ...]:
        """Notes for the user about the values of its label map that have no name in the dataset.

        Args:
            labels: the label map, of whole numbers.
        """
        counts = {value: count for value, count in voxels_of(labels.array).items() if value not in self.label_names}
        if not counts or not self.label_names:
            return ()
        values = ", ".join(f"{value} ({count:,} voxels)" for value, count in counts.items())
        source = self.kind.description or f"the list of labels of {self.kind.title}"
        return (f"{self.labels[0].name} holds values that {source} does not name: {values}. They are kept as labels without a name.",)

    @property
    def fingerprint(self) -> list[Any]:
        """Changes when reading gives something else though the files are the same."""
        numbers = sorted(self.label_names.items()) if self.kind.merged else []
        return [self.modality, self.frame, self.kind.direction, self._spacing_xyz, self.kind.straighten, numbers]

    def mended(self, path: Path, frame: int | None = None) -> Volume:
        """Read a file of this scan, or one derived from it, with the known faults of its dataset corrected."""
        with _straightened() if self.kind.straighten else nullcontext():
            volume = Volume.read(path, frame)
        found = volume.geometry
        geometry = replace(found, direction=self.kind.direction or found.direction, spacing_xyz=self._spacing_xyz or found.spacing_xyz)
        return replace(volume, geometry=geometry)

    @property
    def _spacing_xyz(self) -> Triple | None:
        return next((mm for pattern, mm in self.kind.spacings.items() if re.fullmatch(pattern, self.name)), None)


@contextmanager
def _straightened() -> Iterator[None]:
    """Context in which ITK takes the nearest right angles instead of refusing a NIfTI file (it reads a variable as it opens one)."""
    before = os.environ.get("ITK_NIFTI_SFORM_PERMISSIVE")
    os.environ["ITK_NIFTI_SFORM_PERMISSIVE"] = "ON"
    try:
        yield
    finally:
        os.environ.pop("ITK_NIFTI_SFORM_PERMISSIVE")
        if before is not None:
            os.environ["ITK_NIFTI_SFORM_PERMISSIVE"] = before


def find_cases(folders: Sequence[Path], kind: Kind, *, fold: int = 0, derivative: str = "") -> tuple[list[DatasetCase], list[str]]:
    """Find the cases of a dataset; returns them with notes for the user.

    Args:
        folders: the dataset's folder, or one above it; several if it lies in parts.
        kind: its layout.
        fold: which split into train and val counts, of a dataset that has several.
        derivative: of BIDS, part of the path of the label maps to take; empty: all.

    Raises:
        InputError: if a folder does not look like this kind, or what describes the dataset is missing or damaged.
    """
    cases: list[DatasetCase] = []
    alone: list[str] = []
    notes: list[str] = []
    for folder in folders:
        files = _files(folder)
        images = _images(folder, files, kind)
        maps = bids_layout.label_maps(images, files, derivative) if kind.derivatives else _label_maps(files, kind)
        for root in dict.fromkeys(image["root"] for image in images):
            about = _about(folder, root, files, kind, fold)
            notes += about.notes
            _check_channels([image for image in images if image["root"] == root], kind, about)
            cases += [case for image in images if image["root"] == root for case in _cases(folder, image, kind, about, maps)]
        alone += sorted(set(maps) - {_label_place(image, kind) for image in images})
        if kind.derivatives:
            names = bids_layout.label_names(folder, files, [file for found in maps.values() for file in found])
            cases = [replace(case, label_names=names) for case in cases]
    warnings = [f"{len(alone)} label maps of {kind.title} have no image and are left out, such as {alone[0]}."] if alone else []
    return _with_names(cases, kind), [*notes, *warnings]


def official_splits(
    cases: Sequence[DatasetCase], patients: Mapping[str, str], shares: Sequence[float], seed: int
) -> dict[str, tuple[str, ...]]:
    """Splits as the dataset has them; val or test, where no case of it has labels, is dealt out of the train patients.

    Args:
        cases: of one dataset.
        patients: patient of each case.
        shares: of train, val and test, sum 1.
        seed: another one deals differently.
    """
    official = {case.name: case.split for case in cases}
    dealt = split_by_patient({case.name: patients[case.name] for case in cases if case.split == "train"}, shares, seed)
    for split in {"val", "test"} - {case.split for case in cases if case.labels}:
        official.update(dict.fromkeys(dealt[split], split))
    return {split: tuple(sorted(name for name, side in official.items() if side == split)) for split in SPLITS}


def _files(folder: Path) -> list[str]:
    """Paths of all files in a folder as seen from it; hidden ones, of which macOS leaves copies in archives, are not counted."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Give the dataset's folder.")
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        within = Path(place).relative_to(folder)
        found += [(within / name).as_posix() for name in names if not name.startswith(".")]
    return sorted(found)


def _images(folder: Path, files: Sequence[str], kind: Kind) -> list[re.Match[str]]:
    layout = re.compile(f"(?P<root>(?:.*/)?){kind.image}{kind.endings}")
    images = [match for file in files if (match := layout.fullmatch(file))]
    if kind.derivatives:  # copies that pipelines made of the images are none
        images = [image for image in images if "derivatives/" not in image["root"]]
    if not images:
        found = f"it holds {len(files)} files such as {', '.join(files[:3])}" if files else "it is empty"
        raise InputError(
            f"{folder} does not look like {kind.title}: no file in it is named like {kind.example}; {found}.",
            "Give the dataset's folder as it was unpacked, or another --dataset-kind.",
        )
    return images


def _label_place(image: re.Match[str], kind: Kind) -> str:
    """Path of an image's label map without ending, or of the folder with its classes."""
    if kind.derivatives:
        return image.string
    place = kind.label.format(**image.groupdict(""))
    if kind.label_anywhere:
        return posixpath.basename(place)
    return posixpath.normpath(posixpath.join(posixpath.dirname(image.string), place))


def _label_maps(files: Sequence[str], kind: Kind) -> dict[str, list[str]]:
    """Files of every label map, by its place."""
    place = re.sub(r"\\\{\w+\\\}", "[^/]*", re.escape(kind.label.removeprefix("../")))
    before = "(?:.*/)?(?P<place>" if kind.label_anywhere else "(?P<place>(?:.*/)?"
    layout = re.compile(f"{before}{place}){'/[^/]+' if kind.merged else ''}{kind.endings}")
    maps: dict[str, list[str]] = {}
    for file in files:
        if match := layout.fullmatch(file):
            maps.setdefault(match["place"], []).append(file)
    return maps


@dataclass(frozen=True, kw_only=True)
class _About:
    """Contents of the tables and descriptions at a dataset's root."""

    rows: Mapping[str, Mapping[str, str]]
    """Of its table, by patient."""
    channels: tuple[str, ...]
    """Names of the volumes of 4D images, or of the files of a case."""
    label_names: Mapping[int, str]
    splits: Mapping[str, str]
    """Split of a case, of the fold that counts."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""


def _about(folder: Path, root: str, files: Sequence[str], kind: Kind, fold: int) -> _About:
    beside = [file for file in files if file.startswith(root) and "/" not in file[len(root) :]]
    if fold and f"{root}{kind.folds}" not in beside:
        raise InputError(f"--fold is {fold}, but {folder / root} contains no list of folds.", "Give it with --split, or leave --fold out.")
    tables = [file for file in beside if kind.table and re.fullmatch(kind.table, file[len(root) :])]
    rows = _rows(folder / tables[0], kind) if tables else {}
    if kind.table_frames and not rows:
        raise InputError(
            f"{folder / root} lacks the table of {kind.title} with the columns {', '.join(kind.table_frames)} that list "
            "the labelled frames.",
            "It is a CSV file that comes with the scans.",
        )
    if not kind.description:
        return _About(rows=rows, channels=(), label_names=kind.labels, splits={})
    cure = f"Give the folder of a task of {kind.title}, as it was unpacked, with its {kind.description}."
    values = read_json(folder / root / kind.description, cure)
    try:
        names = label_names(values["labels"])
        called = values["channel_names"] if "channel_names" in values else values["modality"]
        channels = tuple(str(called[str(number)]) for number in range(max(1, len(called))))
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{folder / root / kind.description} lacks labels or modality: {error}.", cure) from error
    regions = [name for name, value in values["labels"].items() if isinstance(value, list) and len(value) > 1]
    note = (
        f"{', '.join(regions)} are regions of several values; each value becomes a structure named after the smallest region that "
        "contains it."
    )
    sides = read_fold(folder / root / kind.folds, fold) if kind.folds and f"{root}{kind.folds}" in beside else {}
    splits = {name: split for split, members in sides.items() for name in members}
    return _About(rows=rows, channels=channels, label_names=names, splits=splits, notes=(note,) * bool(regions))


def _check_channels(images: Sequence[re.Match[str]], kind: Kind, about: _About) -> None:
    """Refuse cases that lack the file of a channel, or have one that the description does not name.

    Raises:
        InputError: naming the first of them.
    """
    if not kind.description or "channel" not in images[0].groupdict():
        return
    found: dict[str, set[int]] = {}
    for image in images:
        found.setdefault(f"{image['root']}images{image['part']}/{image['case']}", set()).add(int(image["channel"]))
    wanted = set(range(len(about.channels)))
    for case, channels in found.items():
        if channels != wanted:
            missing = wanted - channels
            raise InputError(
                f"{case} has the channels {_numbers(channels)}, but {kind.description} names {_numbers(wanted)}.",
                f"Add {case}_{min(missing):04d}, or remove the case." if missing else f"Name all channels in {kind.description}.",
            )


def _numbers(channels: set[int]) -> str:
    return ", ".join(f"{channel:04d}" for channel in sorted(channels))


def _rows(path: Path, kind: Kind) -> dict[str, dict[str, str]]:
    """Rows of a table by patient; fields are parted by commas or semicolons."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = file.readline()
        file.seek(0)
        rows = list(csv.DictReader(file, delimiter=";" if header.count(";") > header.count(",") else ","))
    missing = {kind.table_id, *kind.table_frames} - set(rows[0] if rows else ())
    if missing and kind.table_frames:
        raise InputError(f"{path} lacks the columns {', '.join(sorted(missing))}.", "Download the table of the dataset again.")
    return {row.get(kind.table_id, ""): row for row in rows}


def _cases(folder: Path, image: re.Match[str], kind: Kind, about: _About, maps: Mapping[str, Sequence[str]]) -> Iterator[DatasetCase]:
    """The cases an image file holds."""
    fields = image.groupdict("")
    name = kind.name.format(**fields)
    patient = fields.get("patient") or name
    row = about.rows.get(patient, {})
    labels = tuple(folder / file for file in maps.get(_label_place(image, kind), ()))
    official = row.get(kind.table_split)
    for suffix, frame, modality in _volumes(image, kind, about, row):
        yield DatasetCase(
            kind=kind,
            name=_NO_NAME.sub("_", name + suffix),
            patient=patient,
            split=about.splits.get(name) or (official if official in SPLITS else _split(image, kind, bool(labels) or not maps)),
            modality=modality,
            image=folder / image.string,
            frame=frame,
            labels=labels,
            label_names=about.label_names,
        )


def _volumes(image: re.Match[str], kind: Kind, about: _About, row: Mapping[str, str]) -> list[tuple[str, int | None, Modality]]:
    """Name suffix, frame and modality of each volume of an image file."""
    several = len(about.channels) > 1
    if about.channels and "channel" in image.groupdict():
        channel = about.channels[int(image["channel"])]
        return [(f"_{channel}" * several, None, _modality_called(channel))]
    if about.channels:
        return [(f"_{c}" * several, i if several else None, _modality_called(c)) for i, c in enumerate(about.channels)]
    modality = next(modality for pattern, modality in kind.modalities.items() if re.search(pattern, _bare(image.string)))
    frames = sorted({int(row[column]) for column in kind.table_frames if row.get(column, "").strip().isdigit()})
    return [(f"_frame{frame:02d}", frame, modality) for frame in frames] or [("", None, modality)]


def _modality_called(text: str) -> Modality:
    """Of the name of a channel in a description."""
    if text.upper() in ("PET", "PT"):
        return "pet"
    return "ct" if text.upper() == "CT" else "mr"


def _split(image: re.Match[str], kind: Kind, labelled: bool) -> str:
    return next((split for pattern, split in kind.splits.items() if re.search(pattern, image.string)), "train" if labelled else "test")


def _bare(path: str) -> str:
    """Without the ending of an image."""
    return re.sub(r"\.(?:nii(?:\.gz)?|nrrd|mha)$", "", path)


def _with_names(cases: list[DatasetCase], kind: Kind) -> list[DatasetCase]:
    """The same label names for all: those of merged files are numbered by the alphabet, over the whole dataset."""
    if kind.merged:
        classes = sorted({_bare(path.name) for case in cases for path in case.labels})
        names: Mapping[int, str] = dict(enumerate(classes, start=1))
        return [replace(case, label_names=names) for case in cases]
    for case in cases:
        if case.label_names != cases[0].label_names:
            raise InputError(
                f"{cases[0].image} and {case.image} belong to datasets with different labels.", "Give the folder of one of them."
            )
    return cases
