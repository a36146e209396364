"""Failures of `mass masks`: unusable scans, weights, full disks, kills, two processes at once."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("skimage")

from mass_core.cli import main  # noqa: E402
from mass_core.cli import masks as command  # noqa: E402
from mass_core.masks.mask_set import MaskSet  # noqa: E402
from mass_core.volumes.volume import Geometry, Volume  # noqa: E402
from Testing.core.test_from_slices import SHAPE, SPACING, Seer, scene  # noqa: E402
from Testing.waiting import PATIENCE_S, wait_until  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[2]
GEOMETRY = Geometry(shape_zyx=SHAPE, spacing_xyz=SPACING[::-1])
SAM2 = ("--method", "sam2", "--profile", "cardiac_mr", "--points-per-side", 16, "--crop-layers", 0, "--min-voxels", 60, "--interval", 12)
SLIC = ("--method", "slic", "--max-masks", 20)
METHODS = {"slic": SLIC, "sam2": SAM2}
COMMON = ("--modality", "mr", "--body-crop", "none")

Masks = Callable[..., int]


@pytest.fixture(autouse=True)
def seer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose answers are known stands in for SAM2."""
    monkeypatch.setattr(command, "_loaded", lambda arguments, config: Seer())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """labels/ with a label map of a scan called x."""
    (tmp_path / "labels").mkdir()
    Volume((scene() == 150).astype(np.uint8), GEOMETRY).write(tmp_path / "labels" / "x.nii.gz")
    return tmp_path


@pytest.fixture(params=["slic", "sam2", "labels"])
def method(request: pytest.FixtureRequest, folder: Path) -> tuple[object, ...]:
    """Options of each method."""
    return METHODS.get(request.param, ("--method", "labels", "--labels", folder / "labels"))


def mass(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def refused(capsys: pytest.CaptureFixture, folder: Path, image: Path, *more: object) -> str:
    """Run one scan; it must be refused with one message and leave nothing. Returns the message."""
    code = mass("masks", image, "--output", folder / "masks", *COMMON, *more)
    message = capsys.readouterr().err
    assert code == 2, message
    assert "error:" in message and "Traceback" not in message
    assert len(message.strip().splitlines()) >= 2, f"no cure in: {message}"
    assert not (folder / "masks").exists()
    return message


# Scans


def write(image: sitk.Image, path: Path) -> Path:
    sitk.WriteImage(image, str(path))
    return path


def test_2d_image(folder: Path, method: tuple, capsys: pytest.CaptureFixture) -> None:
    image = write(sitk.GetImageFromArray(scene()[12].astype(np.int16)), folder / "x.nrrd")
    assert "is flat (48 x 40), a volume is needed" in refused(capsys, folder, image, *method)


def test_4d_image(folder: Path, method: tuple, capsys: pytest.CaptureFixture) -> None:
    frames = sitk.JoinSeries([sitk.GetImageFromArray(scene().astype(np.int16))] * 3)
    assert "3 volumes" in refused(capsys, folder, write(frames, folder / "x.nii.gz"), *method)


def test_image_without_voxels(folder: Path, method: tuple, capsys: pytest.CaptureFixture) -> None:
    text = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 0 4\nencoding: raw\nspace: left-posterior-superior\n\n"
    (folder / "x.nrrd").write_text(text)
    assert "cannot be read" in refused(capsys, folder, folder / "x.nrrd", *method)


@pytest.mark.parametrize(
    ("value", "words"), [(0, "nothing to segment"), (-1000, "nothing to segment"), (np.nan, "not numbers"), (np.inf, "not numbers")]
)
def test_scans_of_one_value_or_of_none(folder: Path, method: tuple, value: float, words: str, capsys: pytest.CaptureFixture) -> None:
    array = scene()
    array[... if np.isfinite(value) else (3, 4, 5)] = value
    Volume(array, GEOMETRY).write(folder / "x.nii.gz")
    assert words in refused(capsys, folder, folder / "x.nii.gz", *method)


def test_air_with_next_to_nothing_in_it(folder: Path, method: tuple, capsys: pytest.CaptureFixture) -> None:
    """One voxel of tissue: SAM2's way finds nothing, which is a result as others are, and is told."""
    array = np.full(SHAPE, -1000, np.int16)
    array[3, 4, 5] = 40
    Volume(array, GEOMETRY).write(folder / "x.nii.gz")
    options = [option for option in method if option not in ("--profile", "cardiac_mr")]
    code = mass("masks", folder / "x.nii.gz", "--output", folder / "masks", "--modality", "ct", *options)
    masks = MaskSet.read(folder / "masks" / "x.masks")
    assert code == (0 if len(masks) else 3) and ("sam2" not in method or len(masks) == 0)
    assert len(masks) or "No masks were found in x." in capsys.readouterr().err


def test_one_slice_is_no_volume_but_two_are(folder: Path, method: tuple, capsys: pytest.CaptureFixture) -> None:
    for count in (1, 2):
        Volume(scene()[12 : 12 + count], GEOMETRY.cropped(((12, 0, 0), (12 + count, 40, 48)))).write(folder / "x.nii.gz")
        if count == 1:
            assert "is flat (48 x 40 x 1), a volume is needed" in refused(capsys, folder, folder / "x.nii.gz", *method)
    assert mass("masks", folder / "x.nii.gz", "--output", folder / "masks", *COMMON, *method, "--min-voxels", 20) == 0
    assert len(MaskSet.read(folder / "masks" / "x.masks")) > 0


@pytest.mark.parametrize("spacing_xyz", [(0.01, 0.01, 100.0), (50.0, 0.05, 0.05)])
def test_voxels_like_needles_and_sheets(folder: Path, method: tuple, spacing_xyz: tuple) -> None:
    geometry = Geometry(shape_zyx=SHAPE, spacing_xyz=spacing_xyz)
    Volume(scene(), geometry).write(folder / "x.nii.gz")
    Volume((scene() == 150).astype(np.uint8), geometry).write(folder / "labels" / "x.nii.gz")
    assert mass("masks", folder / "x.nii.gz", "--output", folder / "masks", *COMMON, *method) == 0
    assert MaskSet.read(folder / "masks" / "x.masks").meta["origin_xyz"]


def test_profile_of_another_modality(folder: Path, capsys: pytest.CaptureFixture) -> None:
    Volume(scene(), GEOMETRY).write(folder / "x.nii.gz")
    assert "is for CT, the scan is MR" in refused(capsys, folder, folder / "x.nii.gz", *SAM2, "--profile", "chest_ct")


def test_scans_that_memory_cannot_hold(folder: Path, method: tuple, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """24 x 40 x 48 voxels of 1 x 1 x 3 mm are 138 million of a tenth of a millimetre, 2.6 GiB; with 1 GiB free that is not begun."""
    Volume(scene(), GEOMETRY).write(folder / "x.nii.gz")
    monkeypatch.setattr("mass_core.masks.generator.free_memory", lambda: 2**30)
    message = refused(capsys, folder, folder / "x.nii.gz", *method, "--spacing", 0.1, 0.1, 0.1)
    assert "On voxels of 0.1 x 0.1 x 0.1 mm the scan needs at least 2.6 GiB of memory; 1.0 GiB are free." in message
    assert "--spacing X Y Z" in message
    assert mass("masks", folder / "x.nii.gz", "--output", folder / "masks", *COMMON, *method) == 0


# Weights


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 and then nothing"])
def test_weights_that_are_missing_or_cut_off(
    folder: Path, content: bytes | None, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sam2", reason="SAM2 is not installed: see docs/masks.md")
    monkeypatch.undo()
    monkeypatch.setenv("MASS_HOME", str(folder / "home"))
    Volume(scene(), GEOMETRY).write(folder / "x.nii.gz")
    if content is not None:
        (folder / "w.pt").write_bytes(content)
    message = refused(capsys, folder, folder / "x.nii.gz", *SAM2, "--weights", folder / "w.pt", "--device", "cpu")
    assert "w.pt" in message
    if content is not None:
        assert "mass weights download sam2.1_hiera_large" in message


# Writing


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the owner of the machine may write everywhere")
def test_folder_without_permission(folder: Path, method: tuple, capsys: pytest.CaptureFixture) -> None:
    Volume(scene(), GEOMETRY).write(folder / "x.nii.gz")
    (folder / "locked").mkdir(mode=0o500)
    assert mass("masks", folder / "x.nii.gz", "--output", folder / "locked", *COMMON, *method) == 2
    assert "Cannot write into" in capsys.readouterr().err


def test_output_that_is_a_file(folder: Path, method: tuple, capsys: pytest.CaptureFixture) -> None:
    Volume(scene(), GEOMETRY).write(folder / "x.nii.gz")
    (folder / "taken").write_text("precious")
    assert mass("masks", folder / "x.nii.gz", "--output", folder / "taken", *COMMON, *method) == 2
    assert "error:" in capsys.readouterr().err and (folder / "taken").read_text() == "precious"


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_written(
    folder: Path, method: tuple, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second scan does not fit; the third is not begun; what was done counts when there is space again."""
    (folder / "scans").mkdir()
    for name in ("a", "a_1", "b"):
        Volume(scene(), GEOMETRY).write(folder / "scans" / f"{name}.nii.gz")
        Volume((scene() == 150).astype(np.uint8), GEOMETRY).write(folder / "labels" / f"{name}.nii.gz")
    given, fdopen = [], os.fdopen

    class Full:
        def __init__(self, handle: int) -> None:
            self._file = fdopen(handle, "wb")

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *reason: Any) -> None:
            self._file.close()

        def write(self, data: bytes) -> None:
            given.append(len(data))
            if len(given) == 2:
                self._file.write(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            self._file.write(data)

    monkeypatch.setattr("mass_core.files.os.fdopen", lambda handle, mode: Full(handle))
    run = ("masks", folder / "scans", "--output", folder / "masks", *COMMON, *method)
    assert mass(*run) == 2
    assert "No space left on device" in capsys.readouterr().err and len(given) == 2
    assert [path.name for path in (folder / "masks").iterdir()] == ["a.masks"]
    assert mass(*run) == 0
    assert "2 made, 1 already present" in capsys.readouterr().out
    *names, table = sorted(path.name for path in (folder / "masks").iterdir())
    assert (names, table) == (["a.masks", "a_1.masks", "b.masks"], "summary.csv")
    assert [MaskSet.read(folder / "masks" / name).meta["source"] for name in names] == ["a.nii.gz", "a_1.nii.gz", "b.nii.gz"]


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no such limit")
def test_a_system_that_refuses_to_write_more(folder: Path) -> None:
    """A real process that may write 100 bytes a file."""
    Volume(scene(), GEOMETRY).write(folder / "x.nii.gz")
    limited = (
        "import resource,signal,sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    )
    words = ["masks", str(folder / "x.nii.gz"), "--output", str(folder / "masks"), *COMMON, *map(str, SLIC)]
    code = f"{limited}\nfrom mass_core.cli import main\nraise SystemExit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2 and "Cannot write" in done.stderr and "Traceback" not in done.stderr
    assert not (folder / "masks").exists()


# Kills and company


@pytest.fixture
def scans(folder: Path) -> Path:
    """Six scans, two of whose names are the beginnings of others."""
    (folder / "scans").mkdir()
    generator = np.random.default_rng(0)
    for name in ("a", "a_1", "a_10", "b", "c", "d"):
        Volume(scene() + generator.normal(0, 0.1, SHAPE).round().astype(np.float32), GEOMETRY).write(folder / "scans" / f"{name}.nii.gz")
    return folder


def start(scans: Path, method: str, at: int, file: str) -> "subprocess.Popen[str]":
    """Begin masks of all scans in a process of its own, and wait until it stops in the middle or is done."""
    words = ["masks", scans / "scans", "--output", scans / "masks", *COMMON, *METHODS[method]]
    process = subprocess.Popen(
        [sys.executable, "-m", "Testing.core.masks_process", str(at), str(scans / file), *map(str, words)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: (scans / file).exists() or process.poll() is not None)
    return process


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.masks"))}


def results(folder: Path) -> dict[str, tuple]:
    """All of the mask sets but the time they took."""
    found = {path.name: MaskSet.read(path) for path in sorted(folder.glob("*.masks"))}
    return {name: ({**m.meta, "seconds": 0}, m.boxes_zyx.tobytes(), m.payload.tobytes()) for name, m in found.items()}


@pytest.mark.parametrize(("method", "at"), [("slic", 3), ("sam2", 2 * SHAPE[0] + 9)])
def test_killed_in_mid_case_and_taken_up_again(scans: Path, method: str, at: int) -> None:
    """SIGKILL while the third case is made; the second run makes the rest, and all is as if nothing had happened."""
    assert mass("masks", scans / "scans", "--output", scans / "at_once", *COMMON, *METHODS[method]) == 0
    first = start(scans, method, at, "stopped")
    first.kill()
    first.communicate(timeout=PATIENCE_S)
    done = contents(scans / "masks")
    assert list(done) == ["a.masks", "a_1.masks"]
    assert mass("masks", scans / "scans", "--output", scans / "masks", *COMMON, *METHODS[method]) == 0
    assert results(scans / "masks") == results(scans / "at_once") and len(results(scans / "masks")) == 6
    assert {name: contents(scans / "masks")[name] for name in done} == done


@pytest.mark.slow
def test_two_processes_on_one_folder(scans: Path) -> None:
    """Both end well, all results are whole, and what one has finished meanwhile the other leaves alone."""
    assert mass("masks", scans / "scans", "--output", scans / "alone", *COMMON, *SAM2) == 0
    one = start(scans, "sam2", 9, "stopped")
    two = start(scans, "sam2", 10**9, "never")
    (scans / "stopped").unlink()
    told = [process.communicate(timeout=PATIENCE_S) for process in (one, two)]
    assert [process.returncode for process in (one, two)] == [0, 0], told
    assert "1 made, 5 already present" in told[0][0] and "6 made" in told[1][0]
    assert results(scans / "masks") == results(scans / "alone")
    names = {path.name for path in (scans / "masks").iterdir()}
    assert names == {*results(scans / "alone"), "summary.csv"}, "nothing temporary is left"
    assert len((scans / "masks" / "summary.csv").read_text().splitlines()) == 7, "a row for every scan, whoever made it"
