"""Sorting of the slices or frames of a DICOM series into a straight stack, with a message for each way they are not one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import GeometryError, InputError, listing

_TILT_TOLERANCE = 0.02
"""Sideways step from plane to plane, in distances of planes, from which a stack counts as tilted (about 1 degree)."""
_GAP_TOLERANCE = 0.1
"""Deviation of one distance from the usual one that is still read as an even spacing."""
_TURN_TOLERANCE = 5e-3
"""Difference of direction cosines up to which planes count as parallel."""
_SPACING_TOLERANCE = 1e-3
"""Of a voxel edge."""
STACK = "StackID"
"""DICOM attribute that distinguishes the stacks of one file."""
_NAMED = 5
"""Planes a message names."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One slice of a series or one frame of a file."""

    name: str
    """Name in messages."""
    position: tuple[float, ...]
    """Of its first voxel, LPS mm."""
    axes: tuple[float, ...]
    """Directions of x and y, six numbers."""
    spacing: tuple[float, ...]
    """Between rows and between columns, mm."""
    size: tuple[int, ...]
    """Rows and columns."""
    signs: Mapping[str, str | None] = field(default_factory=dict)
    """Attributes that may distinguish volumes of one series, by DICOM name."""

    @property
    def normal(self) -> np.ndarray:
        """Perpendicular to the plane."""
        return np.cross(self.axes[:3], self.axes[3:])


def stacked(where: str, what: str, planes: Sequence[Plane], frame: int | None) -> list[int]:
    """The planes of one volume, in order along their normal.

    Args:
        where: what messages call all of it.
        what: what they call a plane.
        planes: two or more.
        frame: which volume is meant, from 0; None: the only one.

    Raises:
        InputError: if there are several volumes and none is chosen, or a plane is there twice.
        GeometryError: if planes differ in size, voxel size or direction, or do not form an even, straight stack.
    """
    stacks = list(dict.fromkeys(plane.signs.get(STACK) for plane in planes))
    if len(stacks) > 1:
        return _of_stacks(where, what, planes, stacks, frame)
    _check_alike(where, what, planes)
    heights = np.array([plane.position for plane in planes]) @ planes[0].normal
    order = sorted(range(len(planes)), key=lambda i: heights[i])
    levels = _levels(heights[order])
    volumes = _volumes(where, what, planes, order, levels)
    if frame is None and len(volumes) > 1:
        raise InputError(_several(where, what, planes, volumes), f"Choose one of them with --frame 0 to {len(volumes) - 1} (frame).")
    if frame is not None and not 0 <= frame < len(volumes):
        have = "is one volume" if len(volumes) == 1 else f"holds {len(volumes)}"
        raise InputError(f"Frame {frame} is requested, but {where} {have}.", "Leave the frame out, or choose another.")
    chosen = volumes[frame or 0]
    _check_steps(where, what, [planes[i] for i in chosen])
    return chosen


def _of_stacks(where: str, what: str, planes: Sequence[Plane], stacks: Sequence[str | None], frame: int | None) -> list[int]:
    """The planes of one of several stacks, which may lie in different directions."""
    if frame is None or not 0 <= frame < len(stacks):
        names = ", ".join(map(str, stacks[:_NAMED]))
        cure = f"Choose one with --frame 0 to {len(stacks) - 1} (frame)."
        raise InputError(f"{_begin(where)} holds {len(stacks)} stacks of {what}s ({names}).", cure)
    own = [i for i, plane in enumerate(planes) if plane.signs.get(STACK) == stacks[frame]]
    alone = [replace(planes[i], signs={**planes[i].signs, STACK: None}) for i in own]
    return [own[i] for i in stacked(where, what, alone, None)]


def _check_alike(where: str, what: str, planes: Sequence[Plane]) -> None:
    """Refuse planes that differ from most."""
    kinds: list[tuple[str, Callable[[Plane], tuple[float, ...]], float, str]] = [
        ("size", lambda plane: plane.size, 0.0, "voxels"),
        ("direction", lambda plane: plane.axes, _TURN_TOLERANCE, ""),
        ("pixel spacing", lambda plane: plane.spacing, _SPACING_TOLERANCE, "mm"),
    ]
    for name, value, tolerance, unit in kinds:
        values = np.array([value(plane) for plane in planes], float)
        usual = np.median(values, axis=0)
        apart = np.abs(values - usual).max(axis=1)
        odd = np.flatnonzero(apart > (tolerance * usual.min() if name == "pixel spacing" else tolerance))
        if odd.size:
            shown = " x ".join(f"{v:.4g}" for v in values[odd[0]]), " x ".join(f"{v:.4g}" for v in usual)
            details = f" ({shown[0]} {unit}, the others {shown[1]} {unit})" if unit else ""
            raise GeometryError(
                f"{odd.size} of the {len(planes)} {what}s of {where} differ in {name} from the others{details}: {_named(planes, odd)}.",
                "Take them out: they may be a scout, a report, or belong to another stack.",
            )


def _levels(heights: np.ndarray) -> np.ndarray:
    """A number for each of ascending heights, equal where planes lie at one place."""
    steps = np.diff(heights)
    usual = np.median(steps[steps > 1e-3]) if (steps > 1e-3).any() else 1.0
    return np.concatenate([[0], np.cumsum(steps > 0.01 * usual)])


def _volumes(where: str, what: str, planes: Sequence[Plane], order: Sequence[int], levels: np.ndarray) -> list[list[int]]:
    """The planes of each volume in order, volumes by ascending sign."""
    counts = np.bincount(levels)
    if counts.max() == 1:
        return [list(order)]
    names = list(dict.fromkeys(name for plane in planes for name in plane.signs))
    for chosen in [[name] for name in names] + [names]:
        groups: dict[str, list[int]] = {}
        for i in sorted(order, key=lambda i: repr([_sortable(planes[i].signs.get(name)) for name in chosen])):
            groups.setdefault(repr([planes[i].signs.get(name) for name in chosen]), []).append(i)
        level = dict(zip(order, levels.tolist(), strict=True))
        if all(sorted(level[i] for i in group) == list(range(len(counts))) for group in groups.values()):
            return [sorted(group, key=lambda i: level[i]) for group in groups.values()]
    if counts.min() == counts.max():
        raise InputError(
            f"{_begin(where)} has several {what}s at one position: it holds more than one volume (times, echoes, phases), and the "
            "headers do not distinguish them.",
            f"Put the {what}s of one volume into a folder of its own.",
        )
    twice = [i for i, level in zip(order, levels, strict=True) if counts[level] > 1]
    raise InputError(
        f"{_begin(where)} has {len(twice)} {what}s at positions that occur more than once: {_named(planes, twice)}.",
        f"Remove the duplicates, or put the {what}s of one volume into a folder of its own.",
    )


def _several(where: str, what: str, planes: Sequence[Plane], volumes: Sequence[Sequence[int]]) -> str:
    """Message about several volumes: the attributes that distinguish them."""
    firsts = [planes[volume[0]].signs for volume in volumes]
    signs = [name for name in firsts[0] if len({repr(signs.get(name)) for signs in firsts}) > 1]
    details = "; ".join(f"{name} {', '.join(str(some.get(name)) for some in firsts[:_NAMED])}" for name in signs)
    return f"{_begin(where)} has several {what}s at one position: it holds {len(volumes)} volumes ({details})."


def _check_steps(where: str, what: str, planes: Sequence[Plane]) -> None:
    """Refuse what is no straight stack of even distance."""
    normal = planes[0].normal
    steps = np.diff([plane.position for plane in planes], axis=0)
    along = steps @ normal
    usual = float(np.median(along))
    sideways = np.linalg.norm(steps - np.outer(along, normal), axis=1)
    if sideways.max() > max(_TILT_TOLERANCE * usual, 0.02):
        raise GeometryError(
            f"The {what}s of {where} are shifted against each other (tilted gantry), so the voxels do not form a rectangular grid.",
            "Straighten the series first, for instance by loading it into 3D Slicer, which regularises it, and saving it.",
        )
    worst = int(np.argmax(np.abs(along - usual)))
    if abs(along[worst] - usual) > _GAP_TOLERANCE * usual:
        between = f"between {what} {worst + 1} and {worst + 2}"
        raise GeometryError(
            f"The {what}s of {where} are {usual:.3g} mm apart, but {along[worst]:.3g} mm {between} "
            f"({planes[worst].name} and {planes[worst + 1].name}).",
            f"{what.capitalize()}s are missing or of mixed thickness: export the whole series, or one with even {what}s.",
        )


def _named(planes: Sequence[Plane], indices: Sequence[int] | np.ndarray) -> str:
    return listing(sorted(planes[i].name for i in indices), _NAMED)


def _begin(where: str) -> str:
    return where[:1].upper() + where[1:]


def _sortable(value: str | None) -> str:
    """Numbers in order of size, as text."""
    try:
        return f"{float(str(value)):020.6f}"
    except ValueError:
        return str(value)
