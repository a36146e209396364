"""Label maps of BIDS: `_dseg` files in derivatives, each found by the entities it shares with its image, with names from `dseg.tsv` tables.

What an image is called up to its suffix (`sub-01_ses-1_run-2`) begins the name of a label map of it; space, desc and others follow.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import InputError

_LABELS = re.compile(
    r"(?P<source>sub-[^_/]+(?:_[a-z]+-[^_/]+)*?)"
    r"(?P<more>(?:_(?:hemi|space|atlas|seg|res|den|label|desc)-[^_/]+)*)_dseg\.nii(?:\.gz)?"
)
"""Name of a label map: entities of its image, and those that derivatives add."""
_DRAWN_ON = ("T1w", "UNIT1", "T2w", "ct")
"""Suffixes of the images that label maps without a space are taken to lie on, the first that a subject has."""


def label_maps(images: Sequence[re.Match[str]], files: Sequence[str], wanted: str) -> dict[str, list[str]]:
    """The label map of each image, by the image's path; one that has no image is listed under its own path.

    Args:
        images: paths of images, with the groups `case` (entities) and `channel` (suffix).
        files: all files of the dataset.
        wanted: part of the path of the label maps to take; empty: all.

    Raises:
        InputError: if several label maps belong to one image.
    """
    drawn = {_key(image["case"], image["channel"]): image.string for image in images}
    maps: dict[str, list[str]] = {}
    for file in files:
        match = _LABELS.fullmatch(file.rpartition("/")[2])
        if match is None or wanted not in file:
            continue
        space = re.search(r"_space-([^_]+)", match["more"])
        suffixes = [space[1]] if space else []
        if space is None or space[1] in ("orig", "individual"):
            suffixes = [*_DRAWN_ON, *(image["channel"] for image in images if image["case"] == match["source"])]
        keys = (_key(match["source"], suffix) for suffix in suffixes)
        image = next((drawn[key] for key in keys if key in drawn), file)
        maps.setdefault(image, []).append(file)
    for image, found in maps.items():
        if len(found) > 1:
            raise InputError(
                f"{image} has {len(found)} label maps: {', '.join(found)}.",
                "Choose one with --derivative: part of its path, such as the name of the pipeline, or desc-aseg.",
            )
    return maps


def label_names(folder: Path, files: Sequence[str], maps: Sequence[str]) -> dict[int, str]:
    """Names of label values, from the tables beside the label maps or in folders above them; empty if there are none.

    Args:
        folder: of the dataset.
        files: all files of the dataset.
        maps: the label maps that are used.

    Raises:
        InputError: if a table has other columns, or tables contradict each other.
    """
    tables = {table for path in maps if (table := _table(path, files)) is not None}
    names: dict[int, str] = {}
    for table in sorted(tables):
        for value, name in _read(folder / table).items():
            if names.setdefault(value, name) != name:
                raise InputError(
                    f"{folder / table} calls {value} {name!r}, another table {names[value]!r}.",
                    "Choose the label maps with --derivative, or correct the tables.",
                )
    return dict(sorted(names.items()))


def _table(path: str, files: Sequence[str]) -> str | None:
    """The table of a label map: the nearest one above whose entities are all among the label map's."""
    entities = set(path.rpartition("/")[2].split("_"))
    fitting = []
    for file in files:
        folder, slash, name = file.rpartition("/")
        if name.endswith("dseg.tsv") and path.startswith(folder + slash) and set(name.split("_")[:-1]) <= entities:
            fitting.append(file)
    return max(fitting, key=lambda file: (file.count("/"), file.count("_")), default=None)


def _read(path: Path) -> dict[int, str]:
    """Names of the values above 0 in a table."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows: list[Mapping[str, str]] = list(csv.DictReader(file, delimiter="\t"))
    try:
        return {int(row["index"]): row["name"] for row in rows if int(row["index"]) > 0}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not name its labels: {error}.", "It needs the columns index and name, separated by tabs.") from error


def _key(case: str, suffix: str) -> str:
    return f"{case}_{suffix}".lower()
