"""NIfTI files with headers as other programs leave them: made from a well-formed one by changing single fields."""

import gzip
import struct
from pathlib import Path

import numpy as np

from mass_core.volumes.nifti import _FIELDS
from mass_core.volumes.volume import Volume

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def with_fields(path: Path, **fields: object) -> None:
    """Change header fields of an uncompressed file of version 1."""
    data = bytearray(path.read_bytes())
    for name, value in fields.items():
        form, at = _FIELDS[name][0]
        struct.pack_into("<" + form, data, at, *np.ravel(value).tolist())
    path.write_bytes(data)


def with_places(path: Path, sform: np.ndarray | None, offset: tuple[float, float, float] | None, codes: tuple[int, int]) -> None:
    """Set sform (LPS) and the offset of the qform (LPS) with their codes, those of sform and qform."""
    fields: dict[str, object] = {"sform_code": codes[0], "qform_code": codes[1]}
    if sform is not None:
        fields["srow"] = (RAS @ sform)[:3]
    if offset is not None:
        fields["qoffset"] = (-offset[0], -offset[1], offset[2])
    with_fields(path, **fields)


def write_version_2(volume: Volume, path: Path) -> None:
    """A file of version 2, compressed if its name says so."""
    array = np.ascontiguousarray(volume.array)
    head = bytearray(544)
    struct.pack_into("<i", head, 0, 540)
    head[4:12] = b"n+2\0\r\n\x1a\n"
    values: dict[str, object] = {
        "dim": (3, *array.shape[::-1], 1, 1, 1, 1),
        "datatype": {"int16": 4, "float32": 16, "uint8": 2}[array.dtype.name],
        "bitpix": 8 * array.dtype.itemsize,
        "pixdim": (1, *volume.geometry.spacing_xyz, 0, 0, 0, 0),
        "vox_offset": 544,
        "scale": (1, 0),
        "units": 2,
        "sform_code": 1,
        "srow": (RAS @ volume.geometry.affine)[:3],
    }
    for name, value in values.items():
        form, at = _FIELDS[name][1]
        kept = [int(v) for v in np.ravel(value)] if form[-1] in "bhiq" else np.ravel(value).tolist()
        struct.pack_into("<" + form, head, at, *kept)
    data = bytes(head) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
