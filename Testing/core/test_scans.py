"""Scans are read once, until their files change."""

import os
from pathlib import Path

import numpy as np
import pytest

from mass_core.errors import InputError
from mass_core.volumes.read_cache import Scans, state_of
from mass_core.volumes.volume import Geometry, Volume


def written(path: Path, value: int) -> Path:
    Volume(np.full((4, 4, 4), value, np.int16), Geometry(shape_zyx=(4, 4, 4))).write(path)
    return path


@pytest.mark.parametrize("name", ["a.nrrd", "a.nii.gz", "a.nii", "a.mha"])
def test_unchanged_files_are_not_read_again(tmp_path: Path, name: str) -> None:
    path, kept = written(tmp_path / name, 1), Scans()
    first = kept.read(path)
    assert kept.read(path) is first
    assert kept.read(written(path, 2)).array[0, 0, 0] == 2


def test_a_file_written_in_place_within_its_old_date_is_read_again(tmp_path: Path) -> None:
    path, kept = written(tmp_path / "a.nrrd", 1), Scans()
    before = path.stat()
    kept.read(path)
    data = written(tmp_path / "b.nrrd", 2).read_bytes()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert kept.read(path).array[0, 0, 0] == 2


def test_a_header_with_its_data_elsewhere_is_always_read(tmp_path: Path) -> None:
    path, kept = written(tmp_path / "a.mhd", 1), Scans()
    assert kept.read(path) is not kept.read(path)


def test_frames_are_kept_apart(tmp_path: Path) -> None:
    path, kept = written(tmp_path / "a.nrrd", 1), Scans()
    assert kept.read(path, 0) is kept.read(path, 0) is not kept.read(path)
    with pytest.raises(InputError, match="Frame 1"):
        kept.read(path, 1)


def test_memory_is_limited(tmp_path: Path) -> None:
    kept = Scans(300)
    paths = [written(tmp_path / f"{n}.nrrd", n) for n in range(3)]
    volumes = [kept.read(path) for path in paths]
    assert kept.read(paths[2]) is volumes[2] and kept.read(paths[0]) is not volumes[0]


def test_a_folder_changes_with_its_files(tmp_path: Path) -> None:
    written(tmp_path / "1.nrrd", 1)
    states = [state_of(tmp_path)]
    written(tmp_path / "2.nrrd", 1)
    states.append(state_of(tmp_path))
    (tmp_path / "1.nrrd").unlink()
    states.append(state_of(tmp_path))
    assert len(set(states)) == 3 and state_of(tmp_path) == states[-1]
