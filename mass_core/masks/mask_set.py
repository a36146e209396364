"""The class-agnostic masks of one scan in one file, laid out so that reading a mask touches its bytes only.

File, little endian (docs/formats.md): 8 bytes magic, version and header length as uint32, JSON header padded to a multiple of 8, then the
tables `boxes` int32 [N,6], `voxels` uint64 [N] and `offsets` uint64 [N+1], then the masks: each the bits of its bounding box, every row
along x filled up to whole bytes.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..config import Shape, Triple
from ..errors import InputError
from ..files import write_bytes
from ..volumes.boxes import Box

Bools = NDArray[np.bool_]

SUFFIX = ".masks"
VERSION = 1
_MAGIC = b"MASSmask"
_PREFIX = struct.Struct("<8sII")
_TABLE_BYTES = 6 * 4 + 8 + 8
_MOST_BITS = 32
_CURE = "Make the masks again with `mass masks`."


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskSet:
    """Binary masks of one scan; they may overlap."""

    shape_zyx: Shape
    """Voxels of the grid the masks lie on."""
    spacing_zyx: Triple
    """Voxel edges in mm."""
    boxes_zyx: NDArray[np.int32]
    """[N,6] bounding boxes: start z, y, x, then stop z, y, x."""
    voxels: NDArray[np.uint64]
    """[N] voxels of each mask."""
    offsets: NDArray[np.uint64]
    """[N+1] first byte of each mask in `payload`."""
    payload: NDArray[np.uint8]
    meta: dict[str, Any] = field(default_factory=dict)
    """Whatever JSON can hold: where the grid lies (`origin_xyz`, `direction`), how the masks were made, their scores."""

    @classmethod
    def of(cls, masks: Iterable[tuple[Box, Bools]], shape_zyx: Shape, spacing_zyx: Triple, meta: dict[str, Any] | None = None) -> "MaskSet":
        """Pack masks given as bounding box and values inside it, one after the other."""
        boxes: list[tuple[int, ...]] = []
        voxels: list[int] = []
        packed = [np.zeros(0, np.uint8)]
        for (start, stop), mask in masks:
            boxes.append((*start, *stop))
            voxels.append(int(np.count_nonzero(mask)))
            packed.append(np.packbits(mask, axis=-1).ravel())
        return cls(
            shape_zyx=shape_zyx,
            spacing_zyx=spacing_zyx,
            boxes_zyx=np.array(boxes, np.int32).reshape(len(boxes), 6),
            voxels=np.array(voxels, np.uint64),
            offsets=np.cumsum([len(bits) for bits in packed]).astype(np.uint64),
            payload=np.concatenate(packed),
            meta=meta or {},
        )

    @classmethod
    def read(cls, path: str | Path) -> "MaskSet":
        """Open a file; masks are read when accessed.

        Raises:
            InputError: if it is missing, no mask set, truncated, damaged or of a newer version.
        """
        path = Path(path)
        try:
            with open(path, "rb") as file:
                header, start = _header(path, file)
            data = np.memmap(path, np.uint8, "r")
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.", "Check the spelling and the rights.") from error
        count, size = header["masks"], header["payload_bytes"]
        length = start + _TABLE_BYTES * count + 8 + size
        if len(data) != length:
            raise InputError(f"{path} has {len(data)} bytes, but {length} by its header: it is truncated or damaged.", _CURE)
        tables = data[start : len(data) - size]
        result = cls(
            shape_zyx=tuple(header["shape_zyx"]),
            spacing_zyx=tuple(header["spacing_zyx"]),
            boxes_zyx=tables[: 24 * count].view("<i4").reshape(count, 6),
            voxels=tables[24 * count : 32 * count].view("<u8"),
            offsets=tables[32 * count :].view("<u8"),
            payload=data[len(data) - size :],
            meta=header["meta"],
        )
        result._check(path)
        return result

    def write(self, path: str | Path) -> None:
        """Write a file; it appears complete or not at all.

        Raises:
            OutputError: if it cannot be written.
        """
        header = {
            "shape_zyx": self.shape_zyx,
            "spacing_zyx": self.spacing_zyx,
            "masks": len(self),
            "payload_bytes": len(self.payload),
            "meta": self.meta,
        }
        text = json.dumps(header).encode()
        text += b" " * (-(len(text) + _PREFIX.size) % 8)
        tables = (self.boxes_zyx.astype("<i4"), self.voxels.astype("<u8"), self.offsets.astype("<u8"), self.payload)
        write_bytes(Path(path), b"".join([_PREFIX.pack(_MAGIC, VERSION, len(text)), text, *(table.tobytes() for table in tables)]))

    def __len__(self) -> int:
        return len(self.boxes_zyx)

    def __iter__(self) -> Iterator[tuple[Box, Bools]]:
        """Bounding box and values of every mask, as `of` takes them."""
        return ((self.box(index), self.mask(index)) for index in range(len(self)))

    def box(self, index: int) -> Box:
        """Bounding box of a mask."""
        return Box.of(self.boxes_zyx[index, :3], self.boxes_zyx[index, 3:])

    def mask(self, index: int) -> Bools:
        """Values of a mask inside its bounding box [z,y,x]."""
        start, stop = self.boxes_zyx[index, :3], self.boxes_zyx[index, 3:]
        return self._unpacked(index, np.zeros(3, np.int64), stop - start).view(bool)

    def full(self, index: int) -> Bools:
        """A mask on the whole grid [z,y,x]."""
        result = np.zeros(self.shape_zyx, bool)
        result[self.box(index).slices()] = self.mask(index)
        return result

    def rasterise(self, indices: Sequence[int] | NDArray[np.integer], box: ArrayLike) -> NDArray[np.uint32]:
        """Several masks as bits of one volume.

        Args:
            indices: up to 32 masks; bit k belongs to the k-th of them.
            box: start z, y, x and stop z, y, x of the part of the grid to make, flat or as a pair; it may reach beyond the grid.

        Returns:
            [z,y,x] of the box's size.
        """
        if len(indices) > _MOST_BITS:
            raise InputError(f"{len(indices)} masks do not fit into the {_MOST_BITS} bits of a voxel.", "Read them in several batches.")
        low, high = np.asarray(box, np.int64).reshape(2, 3)
        result = np.zeros(np.maximum(high - low, 0), np.uint32)
        for bit, index in enumerate(np.asarray(indices, np.int64).tolist()):
            start, stop = self.boxes_zyx[index, :3], self.boxes_zyx[index, 3:]
            first, last = np.maximum(start, low), np.minimum(stop, high)
            if (first >= last).any():
                continue
            part = result[tuple(slice(a, b) for a, b in zip(first - low, last - low, strict=True))]
            np.bitwise_or(part, self._unpacked(index, first - start, last - start) * np.uint32(1 << bit), out=part)
        return result

    def _unpacked(self, index: int, first: NDArray[np.integer], last: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Zeros and ones of the part of a mask from `first` to `last`, counted in voxels of its bounding box."""
        depth, height, width = (self.boxes_zyx[index, 3:] - self.boxes_zyx[index, :3]).tolist()
        (z0, y0, x0), (z1, y1, x1) = first.tolist(), last.tolist()
        rows = self.payload[int(self.offsets[index]) : int(self.offsets[index + 1])].reshape(depth, height, -(-width // 8))
        left = x0 // 8
        bits = np.unpackbits(rows[z0:z1, y0:y1, left : -(-x1 // 8)], axis=-1)
        return bits[..., x0 - 8 * left : x1 - 8 * left]

    def _check(self, path: Path) -> None:
        """Refuse tables that would lead outside the payload."""
        start, stop = self.boxes_zyx[:, :3].astype(np.int64), self.boxes_zyx[:, 3:].astype(np.int64)
        sides = stop - start
        inside = (start >= 0).all() and (stop <= self.shape_zyx).all() and (sides > 0).all()
        lengths = sides[:, 0] * sides[:, 1] * -(-sides[:, 2] // 8)
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint64)
        if not inside or not np.array_equal(ends, self.offsets) or int(ends[-1]) != len(self.payload):
            raise InputError(f"The tables of {path} contradict each other: the file is damaged.", _CURE)


def _header(path: Path, file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The JSON header and where it ends."""
    prefix = file.read(_PREFIX.size)
    if len(prefix) < _PREFIX.size or not prefix.startswith(_MAGIC):
        raise InputError(f"{path} is not a mask set.", "Give a file that `mass masks` wrote.")
    _, version, length = _PREFIX.unpack(prefix)
    if version > VERSION:
        raise InputError(f"{path} has format version {version}, this program reads up to {VERSION}.", "Update MASSSlicer.")
    try:
        header = json.loads(file.read(length))
    except ValueError as error:
        raise InputError(f"The header of {path} is truncated or damaged.", _CURE) from error
    if not _is_header(header):
        raise InputError(f"The header of {path} lacks fields or holds wrong ones.", _CURE)
    return header, _PREFIX.size + length


def _is_header(header: Any) -> bool:
    """True if all fields are there with values of the right kind."""
    return (
        isinstance(header, dict)
        and isinstance(header.get("meta"), dict)
        and all(isinstance(header.get(name), int) and header[name] >= 0 for name in ("masks", "payload_bytes"))
        and all(isinstance(header.get(name), list) and len(header[name]) == 3 for name in ("shape_zyx", "spacing_zyx"))
        and all(isinstance(value, (int, float)) and value > 0 for value in header["shape_zyx"] + header["spacing_zyx"])
    )
