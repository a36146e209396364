"""NIfTI headers, checked for what ITK's reader ignores: voxels that are not numbers, contradicting sform and qform, version 2."""

import gzip
import math
import re
import shutil
import struct
import zlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from ..colors import LabelStyle, read_color

_VERSIONS = {348: 1, 540: 2}
"""Version of the format by size of the header."""
_FIELDS = {
    "dim": (("8h", 40), ("8q", 16)),
    "datatype": (("h", 70), ("h", 12)),
    "bitpix": (("h", 72), ("h", 14)),
    "pixdim": (("8f", 76), ("8d", 104)),
    "vox_offset": (("f", 108), ("q", 168)),
    "scale": (("2f", 112), ("2d", 176)),
    "units": (("b", 123), ("i", 500)),
    "qform_code": (("h", 252), ("i", 344)),
    "sform_code": (("h", 254), ("i", 348)),
    "quaternion": (("3f", 256), ("3d", 352)),
    "qoffset": (("3f", 268), ("3d", 376)),
    "srow": (("12f", 280), ("12d", 400)),
}
"""Type and offset of the fields in use, in version 1 and 2 (https://nifti.nimh.nih.gov/nifti-1 and nifti-2)."""
_FLOATS = {16: "f4", 64: "f8"}
_MM = {1: 1000.0, 3: 0.001}
"""By code of the unit of length, metres and micrometres; all else counts as millimetres."""
_STRAIGHT = 1e-3
"""Cosine between two axes up to which they count as at right angles."""
_APART = 0.1
"""Of the smallest voxel edge: how far the two places of a file may be apart without a note."""
_LABEL = re.compile(r"<Label\b([^>]*)>\s*(?:<!\[CDATA\[)?([^<\]]*)")
"""A label in a header extension of Caret (http://brainvis.wustl.edu), attributes and name."""
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')
_MOST_EXTENSION = 1 << 20
"""Bytes of a header with its extensions that are looked at."""
_CHUNK = 1 << 24
DAMAGE = (OSError, EOFError, zlib.error, struct.error)
"""Raised for a file that is missing, damaged or cut off."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of a NIfTI file of either version."""

    order: str
    """Of bytes, as `struct` writes it."""
    version: int
    values: dict[str, tuple[Any, ...]]
    """By name of the field, those of `_FIELDS`."""

    @classmethod
    def of(cls, head: bytes) -> "Header | None":
        """The header in the first 540 bytes of a file (352 of version 1); None: it is not a NIfTI file.

        Raises:
            struct.error: if the file ends in its header.
        """
        for order in "<>":
            (size,) = struct.unpack_from(f"{order}i", head)
            if version := _VERSIONS.get(size):
                places = {name: versions[version - 1] for name, versions in _FIELDS.items()}
                values = {name: struct.unpack_from(order + form, head, at) for name, (form, at) in places.items()}
                return cls(order=order, version=version, values=values)
        return None

    def number(self, name: str) -> Any:
        """A field of one number."""
        return self.values[name][0]

    @property
    def shape_xyz(self) -> tuple[int, ...]:
        """Voxels along x, y, z and further axes."""
        dim = self.values["dim"]
        return tuple(int(n) for n in dim[1 : 1 + dim[0]])

    @property
    def length(self) -> int:
        """Bytes the file has at least."""
        return int(self.number("vox_offset")) + math.prod(max(1, n) for n in self.shape_xyz) * int(self.number("bitpix")) // 8

    def sform(self) -> np.ndarray | None:
        """The 4x4 matrix of the sform from voxel index x, y, z to LPS mm; None: its code is 0."""
        if self.number("sform_code") <= 0:
            return None
        return self._lps(np.reshape(self.values["srow"], (3, 4)))

    def qform(self) -> np.ndarray | None:
        """The same of the qform."""
        if self.number("qform_code") <= 0:
            return None
        b, c, d = self.values["quaternion"]
        a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
        vector = np.cross(np.eye(3), (b, c, d))
        turned = np.eye(3) + 2 * a * vector + 2 * vector @ vector  # the rotation of a unit quaternion, by Rodrigues
        edges = np.array(self.values["pixdim"][1:4]) * (1, 1, -1 if self.values["pixdim"][0] < 0 else 1)
        return self._lps(np.column_stack([turned * edges, self.values["qoffset"]]))

    def _lps(self, ras: np.ndarray) -> np.ndarray:
        scale = _MM.get(int(self.number("units")) & 7, 1.0)
        return np.vstack([np.array([[-scale], [-scale], [scale]]) * ras, [0, 0, 0, 1]])


def header(path: Path) -> Header | None:
    """The header of a NIfTI file, or of a pair .hdr and .img; None: it is not a NIfTI file, or damaged, which reading the image reports."""
    path = path.with_suffix(".hdr") if path.suffix.lower() == ".img" else path
    if not path.name.lower().endswith((".nii", ".nii.gz", ".hdr")):
        return None
    try:
        with opened(path) as file:
            return Header.of(file.read(540))
    except DAMAGE:
        return None


def is_gzip(path: Path) -> bool:
    """True if a file is compressed, whatever its name."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def opened(path: Path) -> gzip.GzipFile | BufferedReader:
    """A file for reading, decompressed where it is compressed."""
    return gzip.open(path) if is_gzip(path) else path.open("rb")


def place(path: Path) -> tuple[np.ndarray | None, str]:
    """Geometry of a NIfTI file: the 4x4 matrix from voxel index x, y, z to LPS mm, and a note for the user (else empty).

    The sform counts if its code is above 0 and its axes are at right angles, else the qform. None: neither does.
    """
    head = header(path)
    if head is None:
        return None, ""
    sform, qform = head.sform(), head.qform()
    if sform is None and qform is None:
        note = "x is assumed to point to the left, y to posterior, z to superior, from 0 mm; left and right may be swapped"
        return None, f"{path.name} has no orientation in the patient (sform and qform codes are 0): {note}."
    straight = sform is not None and _is_straight(sform)
    counts = sform if straight else qform
    if sform is None or qform is None or counts is None:
        return counts, ""
    apart = _apart_mm(sform, qform, head.shape_xyz[:3])
    if apart <= _APART * np.linalg.norm(qform[:3, :3], axis=0).min():
        return counts, ""
    which = "the sform is used" if straight else "the qform is used because the sform is sheared"
    return counts, f"{path.name} has an sform and a qform that differ by up to {apart:.1f} mm; {which}."


def label_styles(path: Path) -> dict[int, LabelStyle]:
    """Names and colours by label that a label map carries behind its header, as those of TotalSegmentator do; none in other files."""
    head = header(path)
    if head is None or path.suffix.lower() == ".img":
        return {}
    with opened(path) as file:
        behind = file.read(min(int(head.number("vox_offset")), _MOST_EXTENSION)).decode("utf-8", "replace")
    found = {}
    for attributes, name in _LABEL.findall(behind):
        values = dict(_ATTRIBUTE.findall(attributes))
        if values.get("Key", "").isdigit() and name.strip():
            color = read_color(" ".join(values.get(channel, "") for channel in ("Red", "Green", "Blue")))
            found[int(values["Key"])] = LabelStyle(name=name.strip(), color=color)
    return found


def _is_straight(matrix: np.ndarray) -> bool:
    edges = np.linalg.norm(matrix[:3, :3], axis=0)
    if not np.isfinite(matrix).all() or edges.min() <= 0:
        return False
    axes = matrix[:3, :3] / edges
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() <= _STRAIGHT)


def _apart_mm(one: np.ndarray, other: np.ndarray, shape_xyz: tuple[int, ...]) -> float:
    """The most any corner voxel moves between two matrices."""
    ends = [(0, n - 1) for n in shape_xyz]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, len(ends))
    difference = (one - other)[:3]
    return float(np.linalg.norm(corners @ difference[:, : len(ends)].T + difference[:, 3], axis=1).max())


def write_as_version_1(path: Path, target: Path) -> None:
    """Write a file of version 2 as one of version 1, which ITK reads.

    Raises:
        ValueError: if it is too large for that.
    """
    with opened(path) as file, target.open("wb") as out:
        head = Header.of(file.read(540))
        if head is None or max(head.values["dim"]) >= 1 << 15:
            raise ValueError("one of its axes has more than 32767 voxels")
        first = bytearray(352)
        struct.pack_into(f"{head.order}i", first, 0, 348)
        for name, ((form, at), _) in _FIELDS.items():
            values = (352.0,) if name == "vox_offset" else head.values[name]
            struct.pack_into(head.order + form, first, at, *values)
        first[344:348] = b"n+1\0"
        out.write(first)
        file.seek(int(head.number("vox_offset")))
        shutil.copyfileobj(file, out, _CHUNK)


def not_numbers(path: Path) -> tuple[int, tuple[int, ...]]:
    """Number of NaN or infinite voxels of a float NIfTI file, and the index x, y, z of the first; 0 for other files.

    ITK's reader turns them into 0, which in a CT is water, without a warning.
    """
    head = header(path)
    if head is None or path.suffix.lower() in (".hdr", ".img") or head.number("datatype") not in _FLOATS:
        return 0, ()
    dtype = np.dtype(head.order + _FLOATS[head.number("datatype")])
    bad, first, done = 0, -1, 0
    try:
        with opened(path) as file:
            file.seek(int(head.number("vox_offset")))
            while data := file.read(_CHUNK):
                values = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
                wrong = np.flatnonzero(~np.isfinite(values))
                if wrong.size and not bad:
                    first = done + int(wrong[0])
                bad += wrong.size
                done += values.size
    except DAMAGE:
        return 0, ()  # reading the image reports that
    return bad, tuple(int(i) for i in np.unravel_index(first, head.shape_xyz, order="F")) if bad else ()
