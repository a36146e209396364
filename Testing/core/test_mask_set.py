"""Mask sets: exact round trip, single masks, bit volumes, damaged files, other grids."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from mass_core.errors import GeometryError, InputError, OutputError
from mass_core.masks.mask_set import MaskSet
from mass_core.masks.regrid import regrid
from mass_core.volumes.volume import Geometry

SHAPE = (12, 20, 37)
IDENTITY = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]


def box_mask(full: np.ndarray) -> tuple:
    """Bounding box and values inside it of a mask on the whole grid."""
    places = np.nonzero(full)
    start, stop = tuple(int(p.min()) for p in places), tuple(int(p.max()) + 1 for p in places)
    return (start, stop), full[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]


@pytest.fixture
def fulls() -> list[np.ndarray]:
    """40 random masks on the whole grid, of all widths."""
    generator = np.random.default_rng(0)
    masks = []
    for _ in range(40):
        full = np.zeros(SHAPE, bool)
        z, y, x = (generator.integers(0, n) for n in SHAPE)
        part = full[z : z + generator.integers(1, 8), y : y + generator.integers(1, 12), x : x + generator.integers(1, 30)]
        part[:] = generator.random(part.shape) < 0.7
        full[z, y, x] = True
        masks.append(full)
    return masks


@pytest.fixture
def masks(fulls: list[np.ndarray]) -> MaskSet:
    return MaskSet.of(
        [box_mask(full) for full in fulls], SHAPE, (3.0, 1.5, 1.0), {"seed": 7, "origin_xyz": [0.0] * 3, "direction": IDENTITY}
    )


def test_round_trip_is_exact(masks: MaskSet, fulls: list[np.ndarray], tmp_path: Path) -> None:
    masks.write(tmp_path / "a.masks")
    back = MaskSet.read(tmp_path / "a.masks")
    assert len(back) == 40 and back.shape_zyx == SHAPE and back.spacing_zyx == (3.0, 1.5, 1.0) and back.meta["seed"] == 7
    assert back.voxels.tolist() == [int(full.sum()) for full in fulls]
    assert all(np.array_equal(back.full(i), full) for i, full in enumerate(fulls))
    assert all(np.array_equal(mask, box_mask(full)[1]) for (_, mask), full in zip(back, fulls, strict=True))
    back.write(tmp_path / "b.masks")
    assert (tmp_path / "a.masks").read_bytes() == (tmp_path / "b.masks").read_bytes()


def test_a_row_of_nine_voxels_takes_two_bytes() -> None:
    masks = MaskSet.of([(((1, 2, 3), (2, 3, 12)), np.ones((1, 1, 9), bool))], SHAPE, (1.0, 1.0, 1.0))
    assert masks.payload.tolist() == [0b11111111, 0b10000000]
    assert masks.boxes_zyx.tolist() == [[1, 2, 3, 2, 3, 12]] and masks.offsets.tolist() == [0, 2] and masks.voxels.tolist() == [9]


def test_an_empty_set_round_trips(tmp_path: Path) -> None:
    MaskSet.of([], SHAPE, (1.0, 1.0, 1.0)).write(tmp_path / "none.masks")
    back = MaskSet.read(tmp_path / "none.masks")
    assert len(back) == 0 and back.boxes_zyx.shape == (0, 6)
    assert not back.rasterise([], [0, 0, 0, *SHAPE]).any()


@pytest.mark.parametrize("box", [((0, 0, 0), SHAPE), ((2, 3, 5), (9, 17, 30)), ((-4, -2, -9), (5, 25, 50)), ((3, 3, 3), (4, 4, 4))])
def test_bit_k_is_the_kth_mask(masks: MaskSet, fulls: list[np.ndarray], box: tuple) -> None:
    chosen = [5, 0, 39, 17, *range(1, 4), *range(6, 16), *range(18, 33)]
    assert len(chosen) == 32
    bits = masks.rasterise(chosen, box)
    assert bits.dtype == np.uint32 and bits.shape == tuple(b - a for a, b in zip(*box, strict=True))
    padded = [np.pad(full, 60)[tuple(slice(a + 60, b + 60) for a, b in zip(*box, strict=True))] for full in fulls]
    for bit, index in enumerate(chosen):
        assert np.array_equal((bits >> np.uint32(bit)) & 1, padded[index]), index


def test_flat_boxes_and_repeated_masks_are_fine(masks: MaskSet) -> None:
    pair, flat = masks.rasterise([3, 3], ((0, 0, 0), SHAPE)), masks.rasterise(np.array([3, 3]), np.array([0, 0, 0, *SHAPE]))
    assert np.array_equal(pair, flat) and set(np.unique(pair)) == {0, 3}


def test_more_masks_than_bits_are_refused(masks: MaskSet) -> None:
    with pytest.raises(InputError, match="33 masks"):
        masks.rasterise(range(33), ((0, 0, 0), SHAPE))


def test_only_the_chosen_mask_is_read(masks: MaskSet, fulls: list[np.ndarray], tmp_path: Path) -> None:
    """Overwriting every other mask's bytes does not change what comes back."""
    masks.write(tmp_path / "a.masks")
    data = bytearray((tmp_path / "a.masks").read_bytes())
    first = len(data) - len(masks.payload)
    begin, end = int(masks.offsets[11]), int(masks.offsets[12])
    data[first : first + begin] = bytes(begin)
    data[first + end :] = bytes(len(data) - first - end)
    (tmp_path / "a.masks").write_bytes(data)
    assert np.array_equal(MaskSet.read(tmp_path / "a.masks").full(11), fulls[11])


@pytest.mark.parametrize("keep", [0, 5, 15, 40, 200, 700, -1])
def test_truncated_files_are_refused(masks: MaskSet, tmp_path: Path, keep: int) -> None:
    masks.write(tmp_path / "a.masks")
    (tmp_path / "a.masks").write_bytes((tmp_path / "a.masks").read_bytes()[:keep])
    with pytest.raises(InputError):
        MaskSet.read(tmp_path / "a.masks")


def altered(data: bytes, **changes: object) -> bytes:
    """The file with other header fields; the header keeps its length."""
    length = int.from_bytes(data[12:16], "little")
    header = json.dumps({**json.loads(data[16 : 16 + length]), **changes}).encode()
    padded = header + b" " * (-(len(header) + 16) % 8)
    return data[:12] + len(padded).to_bytes(4, "little") + padded + data[16 + length :]


@pytest.mark.parametrize(
    "changes",
    [
        {"masks": 39},
        {"masks": -1},
        {"payload_bytes": 3},
        {"shape_zyx": [12, 20, 5]},
        {"shape_zyx": 4},
        {"spacing_zyx": [0, 1, 1]},
        {"meta": []},
    ],
)
def test_headers_that_contradict_the_file_are_refused(masks: MaskSet, tmp_path: Path, changes: dict) -> None:
    masks.write(tmp_path / "a.masks")
    (tmp_path / "a.masks").write_bytes(altered((tmp_path / "a.masks").read_bytes(), **changes))
    with pytest.raises(InputError):
        MaskSet.read(tmp_path / "a.masks")


def test_foreign_newer_and_missing_files_say_so(masks: MaskSet, tmp_path: Path) -> None:
    path = tmp_path / "a.masks"
    path.write_bytes(b"PK\x03\x04 some zip file that is long enough")
    with pytest.raises(InputError, match="not a mask set"):
        MaskSet.read(path)
    masks.write(path)
    data = bytearray(path.read_bytes())
    data[8] = 2
    path.write_bytes(data)
    with pytest.raises(InputError, match="version 2"):
        MaskSet.read(path)
    with pytest.raises(InputError, match="No such file"):
        MaskSet.read(tmp_path / "b.masks")


def test_an_unwritable_place_leaves_nothing(masks: MaskSet, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        masks.write(tmp_path / "missing" / "a.masks")
    assert os.listdir(tmp_path) == []


def one_mask(full: np.ndarray, spacing_zyx: tuple, origin_xyz: list[float]) -> MaskSet:
    return MaskSet.of([box_mask(full)], full.shape, spacing_zyx, {"origin_xyz": origin_xyz, "direction": IDENTITY})


def test_regridding_keeps_the_place_in_millimetres() -> None:
    """A cube of 10 mm at z 4..14, y 6..16, x 10..20 mm (outer faces), from 2 mm voxels onto 1 mm voxels that begin elsewhere."""
    full = np.zeros((10, 12, 14), bool)
    full[2:7, 3:8, 5:10] = True
    masks = one_mask(full, (2.0, 2.0, 2.0), [1.0, 1.0, 1.0])
    moved = regrid(masks, Geometry(shape_zyx=(15, 15, 15), origin_xyz=(8.5, 4.5, 2.5)))
    assert moved.box(0) == ((2, 2, 2), (12, 12, 12)) and moved.mask(0).all()
    assert moved.meta["origin_xyz"] == [8.5, 4.5, 2.5]


def test_regridding_onto_the_same_grid_changes_nothing(masks: MaskSet, fulls: list[np.ndarray]) -> None:
    same = regrid(masks, Geometry(shape_zyx=SHAPE, spacing_xyz=masks.spacing_zyx[::-1]))
    assert all(np.array_equal(same.full(i), full) for i, full in enumerate(fulls)) and len(same) == 40


def test_what_vanishes_is_dropped_and_scores_stay_in_step() -> None:
    small, large = np.zeros((8, 8, 8), bool), np.zeros((8, 8, 8), bool)
    small[1, 1, 1], large[2:8, 2:8, 2:8] = True, True
    meta = {"origin_xyz": [0.0] * 3, "direction": IDENTITY, "per_mask": {"score": [0.1, 0.9]}}
    masks = MaskSet.of([box_mask(small), box_mask(large)], (8, 8, 8), (1.0, 1.0, 1.0), meta)
    coarse = Geometry(shape_zyx=(4, 4, 4), spacing_xyz=(2.0, 2.0, 2.0))
    moved = regrid(masks, coarse)
    assert moved.voxels.tolist() == [27] and moved.meta["per_mask"] == {"score": [0.9]}
    away = regrid(masks, dataclasses.replace(coarse, origin_xyz=(100.0, 0.0, 0.0)))
    assert len(away) == 0
    assert masks.meta["per_mask"] == {"score": [0.1, 0.9]}


def test_other_axes_are_refused(masks: MaskSet) -> None:
    flipped = Geometry(shape_zyx=SHAPE, direction=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    with pytest.raises(GeometryError, match="different directions"):
        regrid(masks, flipped)
    nowhere = MaskSet.of([], SHAPE, (1.0, 1.0, 1.0))
    with pytest.raises(GeometryError, match="the position of its grid"):
        regrid(nowhere, flipped)
