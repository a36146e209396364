"""Headers of NRRD and MetaImage files, checked for what ITK's reader ignores: no orientation, other units than mm, damaged voxels.

The fields are those of https://teem.sourceforge.net/nrrd/format.html and https://itk.org/Wiki/MetaIO/Documentation.
"""

import re
import zlib
from pathlib import Path

from ..errors import GeometryError

_NRRD, _META = (".nrrd", ".nhdr"), (".mha", ".mhd")
_MOST = 1 << 22
"""Bytes of a file in which its header is looked for."""
_CHUNK = 1 << 24
_FIELD = {_NRRD: re.compile(r"^([^:=#\n]+): ?(.*)$", re.MULTILINE), _META: re.compile(r"^(\w+) *= *(.*)$", re.MULTILINE)}
_END = {_NRRD: re.compile(rb"\r?\n\r?\n|\Z"), _META: re.compile(rb"^ElementDataFile *=.*\n?|\Z", re.MULTILINE)}
_PATIENT = re.compile(r"(left|right)-(anterior|posterior)-(superior|inferior)(-time)?|[lr][ap][si]t?")
"""NRRD spaces whose axes are those of a patient."""
_MM = {"": 1.0, "mm": 1.0, "millimeter": 1.0, "um": 0.001, "µm": 0.001, "micron": 0.001, "cm": 10.0, "m": 1000.0}
"""Millimetres by unit of length."""


def place(path: Path) -> tuple[float, str]:
    """The millimetres of the header's unit of length, and a note for the user if the file does not say how it lies (else empty).

    Raises:
        GeometryError: if the unit is unknown, or only some axes of a volume have a direction.
    """
    fields = _fields(path)
    if not fields:
        return 1.0, ""
    if path.name.lower().endswith(_META):
        turned = any(name in fields for name in ("transformmatrix", "orientation", "rotation"))
        put = any(name in fields for name in ("offset", "position", "origin"))
        units = [fields.get("distanceunits", "")]
    else:
        turned = "space directions" in fields and bool(_PATIENT.fullmatch(fields.get("space", "").strip().lower()))
        put = "space origin" in fields
        units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
        _check_axes(path, fields)
    return _mm(path, units), _note(path, turned, put)


def rescaling(path: Path) -> tuple[float, float]:
    """Slope and intercept from stored values to intensities of a MetaImage file, which ITK's reader leaves out."""
    fields = _fields(path) if path.name.lower().endswith(_META) else {}
    slope, intercept = (fields.get(f"elementtointensityfunction{name}", "").split() for name in ("slope", "offset"))
    return float(slope[0]) if slope else 1.0, float(intercept[0]) if intercept else 0.0


def is_damaged(path: Path) -> bool:
    """True if the compressed voxels of a MetaImage file cannot be decompressed, which ITK's reader passes over."""
    fields = _fields(path)
    if fields.get("compresseddata", "").lower() != "true":
        return False
    name = fields.get("elementdatafile", "").strip()
    local = name.upper() == "LOCAL"
    try:
        with (path if local else path.parent / name).open("rb") as file:
            file.seek(len(_header(path)) if local else 0)
            unpacker = zlib.decompressobj(wbits=47)  # zlib or gzip
            while not unpacker.eof and (data := file.read(_CHUNK)):
                unpacker.decompress(data)
    except zlib.error:
        return True
    except OSError:
        return False  # whoever reads the image says so
    return False


def _check_axes(path: Path, fields: dict[str, str]) -> None:
    directions = fields.get("space directions", "")
    given = [text for text in re.findall(r"\(([^)]*)\)", directions) if "nan" not in text.lower()]
    if directions and fields.get("dimension", "").strip() == "3" and len(given) == 2:
        raise GeometryError(f"Only two of the three axes of {path} have a direction.", "Correct the header, or export the image again.")


def _note(path: Path, turned: bool, put: bool) -> str:
    if not turned:
        assumed = "x is assumed to point to the left, y to posterior, z to superior; left and right may be swapped"
        return f"{path.name} has no orientation in the patient: {assumed}."
    return "" if put else f"{path.name} has no position in the patient; its first voxel is assumed at 0 mm."


def _mm(path: Path, units: list[str]) -> float:
    """Millimetres of the one unit of length of all axes."""
    found = {_MM.get(unit.strip().lower()) for unit in units[:3]} or {1.0}
    scale = found.pop()
    if found or scale is None:
        raise GeometryError(
            f"The voxel sizes of {path} are in {', '.join(dict.fromkeys(units))}, which cannot be read.", "Give them in mm in the header."
        )
    return scale


def _fields(path: Path) -> dict[str, str]:
    """Fields by name in lower case; none of other files."""
    kind = next((kind for kind in (_NRRD, _META) if path.name.lower().endswith(kind)), None)
    if kind is None:
        return {}
    return {name.strip().lower(): text for name, text in _FIELD[kind].findall(_header(path).decode("utf-8", "replace"))}


def _header(path: Path) -> bytes:
    kind = _NRRD if path.name.lower().endswith(_NRRD) else _META
    with path.open("rb") as file:
        start = file.read(_MOST)
    found = _END[kind].search(start)
    return start[: found.end()] if found else b""
