"""The HDF5 mask file of the released code: `/<case>/auto_masks`, uint8 [N,z,y,x], LZF with byte shuffle.

Chunks are read one after the other, never by a list of indices: h5py answers a list of 13 masks many times more slowly than 13 questions
(docs/masks.md, "Reading masks").
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Triple
from ..errors import InputError, OutputError
from ..masks.mask_set import Bools, MaskSet
from ..volumes.boxes import Box, bounding_box

STACK = "auto_masks"
_CHUNK_BYTES = 16 * 2**20
"""Of the released code: whole masks up to this size together, a larger mask in parts of it."""
_CURE = "Copy the file again, or export the dataset again."


def case_names(path: Path) -> tuple[str, ...]:
    """Names of the cases that have masks in the file, sorted.

    Raises:
        InputError: if it cannot be read, or h5py is missing.
    """
    with _opened(path) as file:
        return tuple(sorted(file))


def read_masks(path: Path, case: str, spacing_zyx: Triple) -> MaskSet:
    """Pack the masks of a case; every voxel other than 0 counts, masks without a voxel are left out.

    Raises:
        InputError: if they are missing, damaged or no stack of masks, or h5py is missing.
    """
    with _opened(path) as file:
        stack = _stack(file, case, path)
        return MaskSet.of(_boxed(stack), stack.shape[1:], spacing_zyx, {"method": "released", "source": path.name})


def write_masks(path: Path, case: str, masks: MaskSet) -> None:
    """Write a file with the masks of one case; it appears complete or not at all.

    Raises:
        InputError: if h5py is missing.
        OutputError: if it cannot be written.
    """
    shape = (len(masks), *masks.shape_zyx)
    with _new_file(path) as file:
        group = file.create_group(case)
        if not len(masks):
            group.create_dataset(STACK, shape, np.uint8)
            return
        stack = group.create_dataset(STACK, shape, np.uint8, chunks=chunks_of(shape), compression="lzf", shuffle=True)
        step = stack.chunks[0]
        for first in range(0, len(masks), step):
            stack[first : first + step] = np.stack([masks.full(index) for index in range(first, min(first + step, len(masks)))])


def join(path: Path, parts: Mapping[str, Path]) -> None:
    """Write one file of several, compressed data as they are; it appears complete or not at all.

    Args:
        path: of the result; it may be among the parts.
        parts: file that holds each case.

    Raises:
        InputError: if a part cannot be read, or h5py is missing.
        OutputError: if the result cannot be written.
    """
    with _new_file(path) as file:
        for case, part in parts.items():
            with _opened(part) as source:
                masks = source[case]
                try:
                    source.copy(masks, file, name=case)
                except (OSError, RuntimeError) as error:
                    raise OutputError(
                        f"The masks of {case} cannot be copied from {part} to {path}: {error}.",
                        f"Check the free space; if there is enough, {part.name} is damaged: delete it and export again.",
                    ) from error


def chunks_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Chunks the released code gives a stack of masks [N,z,y,x] with N > 0."""
    count, *sides = shape
    left = _CHUNK_BYTES // int(np.prod(sides))
    if left:
        return (min(left, count), *sides)
    z, y, x = sides
    depth = min(z, max(1, _CHUNK_BYTES // (y * x)))
    height = min(y, max(1, _CHUNK_BYTES // (depth * x)))
    return 1, depth, height, min(x, _CHUNK_BYTES // (depth * height))


def library() -> Any:
    """Import the package h5py.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError("Masks in the released layout need h5py, which is not installed.", "Run `pip install h5py`.") from error
    return h5py


def _boxed(stack: Any) -> Iterator[tuple[Box, Bools]]:
    """Bounding box and values of every mask, one after the other."""
    step = min(stack.chunks[0], max(1, _CHUNK_BYTES // int(np.prod(stack.shape[1:])))) if stack.chunks else 1
    for first in range(0, len(stack), step):
        for mask in stack[first : first + step]:
            box = bounding_box(mask)
            if box is not None:
                yield box, mask[box.slices()] != 0


def _stack(file: Any, case: str, path: Path) -> Any:
    """The stack of a case, a dataset of h5py."""
    stack = file.get(f"{case}/{STACK}")
    if stack is None:
        raise InputError(f"{path} holds no {STACK} of the case {case!r}.", _CURE)
    if getattr(stack, "ndim", 0) != 4 or stack.dtype.kind not in "uib" or 0 in stack.shape[1:]:
        raise InputError(f"{STACK} of the case {case!r} in {path} is not a stack of masks [N,z,y,x].", _CURE)
    return stack


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file to read from."""
    try:
        with library().File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        # What h5py raises for damage depends on where it lies.
        raise InputError(f"{path} cannot be read: {error}.", _CURE) from error


@contextmanager
def _new_file(path: Path) -> Iterator[Any]:
    """A file to write to, which gets its name at the end. What a killed run left is written over by the next."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with library().File(temporary, "w") as file:
            yield file
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"Cannot write {path}: {error}.", "Check the free space and the rights of the folder.") from error
    finally:
        temporary.unlink(missing_ok=True)
