"""What the commands that work through many scans have in common."""

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Recipe
from ..dataset_kinds import KINDS
from ..errors import InputError, MassError, OutputError
from ..failures import as_mass_error
from ..outputs import IMAGE_ENDINGS, stem
from .options import chosen_recipe
from .terminal import Output

if TYPE_CHECKING:
    from ..dataset_cases import DatasetCase
    from ..volume import Volume


@dataclass(frozen=True)
class Scan:
    """An image file or DICOM folder, and the name of its case."""

    name: str
    path: Path
    case: "DatasetCase | None" = None
    """What a kind of public dataset tells about it."""

    def read(self) -> "Volume":
        """The scan, as `Volume.read` and with the faults of its dataset mended."""
        from ..volume import Volume

        return self.case.read() if self.case else Volume.read(self.path)

    def label_files(self, folder: Path | None) -> tuple[Path, ...]:
        """The label map named like the scan in a folder, or the one its dataset has; empty: none."""
        if folder is not None:
            return tuple(filter(None, [scan_named(self.name, folder)]))
        return self.case.labels if self.case else ()

    def read_labels(self, folder: Path | None) -> "Volume | None":
        """That label map; None: there is none."""
        from ..volume import Volume

        if folder is None:
            return self.case.read_labels() if self.case else None
        read = self.case.mended if self.case else Volume.read
        return next(map(read, self.label_files(folder)), None)


@dataclass(frozen=True)
class Outcome:
    """How a run over scans went."""

    done: int
    present: int
    """Finished by an earlier run."""
    failed: int

    @property
    def exit_code(self) -> int:
        """3 if some failed."""
        return 3 if self.failed else 0

    def tell(self, terminal: Output, output: Path) -> None:
        """Say it in one line."""
        parts = [f"{self.done} made", f"{self.present} there before" * bool(self.present), f"{self.failed} failed" * bool(self.failed)]
        terminal.result(f"{output}: {', '.join(filter(None, parts))}", output=str(output), **vars(self))


def add_scans(parser: argparse.ArgumentParser) -> None:
    """The scans, and how they are read."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER", help="scans, folders of scans, DICOM folders")
    parser.add_argument(
        "--dataset-kind", choices=sorted(KINDS), metavar="KIND", help=f"the folder is that of a public dataset: {', '.join(sorted(KINDS))}"
    )
    group = parser.add_argument_group("recipe")
    group.add_argument("--modality", choices=("auto", "ct", "mr", "pet"))
    group.add_argument("--orientation", choices=("RAS", "none"))
    group.add_argument("--ct-clip", nargs=2, type=float, metavar=("LO", "HI"), help="HU")
    group.add_argument("--body-crop", choices=("threshold", "none"))
    group.add_argument("--body-threshold", type=float, metavar="HU")


def scan_recipe(arguments: argparse.Namespace) -> Recipe:
    """The default recipe with what the command line says."""
    return chosen_recipe(arguments, Recipe(), name=None)


def given_scans(arguments: argparse.Namespace) -> list[Scan]:
    """The scans the command line names; what is odd about a public dataset is said aloud.

    Raises:
        InputError: as `find_scans` and `find_cases`.
    """
    if arguments.dataset_kind is None:
        return find_scans(arguments.images)
    from ..dataset_cases import find_cases

    cases, warnings = find_cases(arguments.images, KINDS[arguments.dataset_kind])
    for warning in warnings:
        arguments.terminal.warn(warning)
    return _distinct(Scan(case.name, case.image, case) for case in cases)


def find_scans(paths: Iterable[Path]) -> list[Scan]:
    """The scans that files and folders stand for.

    A folder stands for the image files in it; if there are none, for the DICOM series it holds, or for what its subfolders stand for.

    Raises:
        InputError: if a path is missing, there are no scans at all, or two would have the same name.
    """
    scans = [scan for path in paths for scan in _scans_at(path)]
    if not scans:
        raise InputError("There are no scans in the folders given.", f"Endings of images are {', '.join(IMAGE_ENDINGS)}.")
    return _distinct(scans)


def _distinct(scans: Iterable[Scan]) -> list[Scan]:
    """The scans sorted by name; two of one name are refused."""
    first: dict[str, Scan] = {}
    for scan in scans:
        other = first.setdefault(scan.name, scan)
        if other is not scan:
            raise InputError(
                f"{other.path} and {scan.path} would both be called {scan.name}.", "Rename one, or write them to different folders."
            )
    return sorted(first.values(), key=lambda scan: scan.name)


def _scans_at(path: Path) -> list[Scan]:
    if not path.exists():
        raise InputError(f"There is no file {path}.", "Check the spelling and the folder.")
    if path.is_file():
        return [Scan(stem(path), path)]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    images = [entry for entry in entries if entry.is_file() and entry.name.lower().endswith(IMAGE_ENDINGS)]
    if images:
        return [Scan(stem(image), image) for image in images]
    folders = [entry for entry in entries if entry.is_dir()]
    if folders:
        return [scan for folder in folders for scan in _scans_at(folder)]
    return [Scan(stem(path), path)] if entries else []


def scan_named(name: str, folder: Path) -> Path | None:
    """The image file of a case in a folder of, say, label maps; None: there is none."""
    return next((path for ending in IMAGE_ENDINGS if (path := folder / f"{name}{ending}").exists()), None)


def work_through(
    scans: Sequence[Scan], is_done: Callable[[Scan], bool], work: Callable[[Scan], None], stage: str, terminal: Output
) -> Outcome:
    """Do the work for every scan that is not done yet; a bad scan among several is reported and the others go on.

    Whether a scan is done is asked again right before its turn: another process may work on the same folder.

    Raises:
        MassError: if the only scan is bad, or results cannot be written.
    """
    waiting = [scan for scan in scans if not is_done(scan)]
    done, failed, begin = 0, 0, time.monotonic()
    for number, scan in enumerate(waiting):
        left = (time.monotonic() - begin) / number * (len(waiting) - number) if number else None
        terminal.progress(stage, number / len(waiting), left)
        if is_done(scan):
            continue
        try:
            work(scan)
            done += 1
        except (MassError, RuntimeError, MemoryError, OSError) as error:
            known = as_mass_error(error)
            if known is None or len(scans) == 1 or isinstance(known, OutputError):
                raise
            terminal.failed(known, target=str(scan.path))
            failed += 1
    terminal.progress(stage, 1.0, 0.0)
    return Outcome(done=done, present=len(scans) - done - failed, failed=failed)
