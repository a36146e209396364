"""Voxels of a NIfTI file that are no numbers. ITK's reader turns them into 0, which in a CT is water, without a word."""

import gzip
import struct
from io import BufferedReader
from pathlib import Path

import numpy as np

_HEADERS = {348: ("h", 70, "f", 108), 540: ("h", 12, "q", 168)}
"""By header size: type and offset of the fields datatype and vox_offset (https://nifti.nimh.nih.gov/nifti-1 and nifti-2)."""
_DIMENSIONS = {348: ("8h", 40), 540: ("8q", 16)}
_FLOATS = {16: "f4", 64: "f8"}
_CHUNK = 1 << 24


def not_numbers(path: Path) -> tuple[int, tuple[int, ...]] | None:
    """How many voxels are NaN or infinite, and the index x, y, z of the first; None: all are numbers, or this is no float NIfTI file."""
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return None
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as file:
            return _search(file)
    except (OSError, EOFError, struct.error):
        return None  # damaged: whoever reads the image says so


def _search(file: gzip.GzipFile | BufferedReader) -> tuple[int, tuple[int, ...]] | None:
    head = file.read(540)
    for order in "<>":
        size = struct.unpack_from(f"{order}i", head)[0]
        if size in _HEADERS:
            kind, kind_at, offset, offset_at = _HEADERS[size]
            code = struct.unpack_from(order + kind, head, kind_at)[0]
            start = int(struct.unpack_from(order + offset, head, offset_at)[0])
            shape = struct.unpack_from(order + _DIMENSIONS[size][0], head, _DIMENSIONS[size][1])
            return _count(file, np.dtype(order + _FLOATS[code]), start, shape[1 : 1 + shape[0]]) if code in _FLOATS else None
    return None


def _count(file: gzip.GzipFile | BufferedReader, dtype: np.dtype, start: int, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]] | None:
    file.seek(start)
    bad, first, done = 0, -1, 0
    while data := file.read(_CHUNK):
        values = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size and first < 0:
            first = done + int(wrong[0])
        bad += wrong.size
        done += values.size
    if not bad:
        return None
    return bad, tuple(int(i) for i in np.unravel_index(first, shape, order="F"))
