"""Annotated scans to finetune on, and the classes they show: structures of one name are one class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from mass_core.colors import LabelStyle
from mass_core.errors import InputError
from mass_core.outputs import stem

from ..scene import exchange as scene
from .order import Reference


@dataclass(frozen=True)
class Annotated:
    """An annotated scan: nodes of the scene, or two files."""

    name: str
    styles: dict[str, LabelStyle]
    """Structures by name."""
    reference: Reference | None = None
    """Scan and segmentation of the scene."""
    image: Path | None = None
    mask: Path | None = None
    values: Mapping[str, int] | None = None
    """Of a label map, by name; None: of the scene, where there are none yet."""


@dataclass(frozen=True)
class Structure:
    """A class."""

    style: LabelStyle
    cases: int
    """Number of scans that show it."""


def of_scene(reference: Reference) -> Annotated:
    """A scan and a segmentation of the scene.

    Raises:
        InputError: if it has no segment, or two of one name.
    """
    segmentation = reference.segmentation
    name = segmentation.GetName()
    shown = list(scene.label_styles(segmentation, reference.chosen()).values())
    if not shown:
        raise InputError(_("The segmentation “{name}” has no segment.").format(name=name), _("Draw one first, or untick the segmentation."))
    return Annotated(name, _by_name(shown, name, _("Rename one of them.")), reference=reference)


def of_files(image: Path, mask: Path, found: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> Annotated:
    """A scan and its label map.

    Args:
        image: the scan.
        mask: its label map.
        found: of the survey.
        names: of numbers without one.

    Raises:
        InputError: if nothing is marked, or two numbers have one name.
    """
    if not found:
        raise InputError(_("The label map {mask} is empty.").format(mask=mask), _("Remove it from the folder, or add labels to it."))
    unnamed = _("label {value}")
    styles = {label["value"]: LabelStyle.of(label, names.get(label["value"]) or unnamed.format(value=label["value"])) for label in found}
    shown = _by_name(list(styles.values()), str(mask), _("Give each structure a name of its own."))
    return Annotated(stem(image), shown, image=image, mask=mask, values={style.name: value for value, style in styles.items()})


def classes(cases: Iterable[Annotated]) -> dict[str, Structure]:
    """All classes of some scans in the order in which they come up, with the style of the first scan that shows one."""
    found: dict[str, Structure] = {}
    for case in cases:
        for name, style in case.styles.items():
            known = found.get(name)
            found[name] = Structure(style, 1) if known is None else Structure(known.style, known.cases + 1)
    return found


def numbers(cases: Sequence[Annotated], wanted: Sequence[str]) -> dict[str, int]:
    """A number for each class: that of the label maps on disk, the next free one for others.

    Raises:
        InputError: if label maps disagree.
    """
    found: dict[str, int] = {}
    for case in cases:
        for name, value in (case.values or {}).items():
            other = next((known for known, number in found.items() if number == value and known != name), None)
            if found.setdefault(name, value) != value or other is not None:
                one = _("{name} is {value}").format(name=name, value=value)
                two = _("{name} is {value}").format(name=other or name, value=found[other or name])
                raise InputError(
                    _("Label maps disagree: in {mask}, {one}; in others, {two}.").format(mask=case.mask, one=one, two=two),
                    _("Give each structure the same number in all of them, or load them as segmentations, which are matched by name."),
                )
    free = (value for value in range(1, 1 << 16) if value not in found.values())
    for name in wanted:
        if name not in found:
            found[name] = next(free)
    return {name: found[name] for name in wanted}


def _by_name(styles: Sequence[LabelStyle], where: str, cure: str) -> dict[str, LabelStyle]:
    """Styles by name.

    Raises:
        InputError: if two have the same.
    """
    names = [style.name for style in styles]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(_("Two structures in “{where}” have the name “{name}”.").format(where=where, name=twice), cure)
    return dict(zip(names, styles, strict=True))
