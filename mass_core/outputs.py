"""Output files of a command, checked before anything is computed."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .errors import InputError, OutputError, listing
from .files import make_folder

IMAGE_ENDINGS = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".hdr")
_WRITABLE = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
_NNUNET_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")


_LONGEST_NAME = 255
"""Bytes of a file's name on the usual disks."""
_DATA_FILE = re.compile(rb"^(?:ElementDataFile *=|data ?file:)(.*)$", re.MULTILINE | re.IGNORECASE)
"""The line of a header that names the file of the voxels."""
_SERIOUS = ("Not in this scan:", "Check the result", "exceeds the reference window")
"""In warnings that a result may be wrong."""


@dataclass(frozen=True)
class Job:
    """One target and the files made for it."""

    target: Path
    output: Path
    stem: str
    """Prefix of the names of further files."""
    picture: Path | None

    @property
    def files(self) -> list[Path]:
        """The output, and the picture if one is wanted."""
        return [self.output, *([] if self.picture is None else [self.picture])]

    def probability(self, value: int) -> Path:
        """File of a label's probabilities."""
        return self.output.with_name(f"{self.stem}_label{value}_prob.nii.gz")


def stem(path: Path) -> str:
    """A file's name without its ending; a folder's name."""
    name = path.resolve().name if path.name in ("", ".", "..") else path.name
    if os.path.isdir(path):
        return name
    ending = next((e for e in IMAGE_ENDINGS if name.lower().endswith(e)), path.suffix)
    return name[: len(name) - len(ending)] if ending else name


def amount(ml: float) -> str:
    """Millilitres with three digits."""
    return f"{ml:.0f} ml" if ml >= 100 else f"{ml:.3g} ml"


def serious(warnings: Iterable[str]) -> tuple[str, ...]:
    """The warnings that a result may be wrong: a structure beyond the scan, much of it left out, a reference cut off."""
    return tuple(text for text in warnings if any(sign in text for sign in _SERIOUS))


def plan(
    targets: Sequence[Path],
    output: Path | None,
    folder: Path | None,
    picture: Path | None,
    *,
    what: str = "seg",
    form: Literal["mass", "nnunet"] = "mass",
) -> list[Job]:
    """The jobs of a run.

    Args:
        targets: scans.
        output: file for the result of a single one.
        folder: for the results of several, called `<target>_<what>.nii.gz`.
        picture: file of a picture; with several targets one for each, its name behind that of the file.
        what: the results are.
        form: nnunet: results in the folder are called `<case>.nii.gz` as nnU-Net's predictions are, and end as their targets do.

    Raises:
        InputError: if a single target is missing, or results would have the same name.
        OutputError: if the names given cannot be used.
    """
    if len(targets) == 1 and not os.path.exists(targets[0]):  # one of several fails in its turn
        raise InputError(f"There is no file {targets[0]}.", "Check the spelling and the folder.")
    if picture is not None and picture.suffix.lower() != ".png":
        raise OutputError(f"{picture} is not a valid file name for a picture.", "End it with .png.")
    if output is not None:
        if form == "nnunet":
            raise InputError("--format nnunet names the results itself, but --output names one.", "Use --output-dir.")
        if len(targets) > 1:
            raise InputError(f"--output names one file, but there are {len(targets)} targets.", "Use --output-dir.")
        check_image_name(output)
        return [Job(targets[0], output, stem(output), picture)]
    if folder is None:
        raise InputError("No output was given.", "Add --output FILE or --output-dir DIR.")
    ending = nnunet_ending(targets) if form == "nnunet" else f"_{what}.nii.gz"
    jobs = [Job(target, folder / f"{name}{ending}", name, picture) for target, name in zip(targets, _names(targets, form), strict=True)]
    if picture is None or len(jobs) == 1:
        return jobs
    return [replace(job, picture=picture.with_name(f"{picture.stem}_{job.stem}{picture.suffix}")) for job in jobs]


def check_image_name(path: Path) -> None:
    """Refuse a name whose ending is that of no image format that can be written.

    Raises:
        OutputError: naming the endings.
    """
    if not path.name.lower().endswith(_WRITABLE):
        raise OutputError(f"{path.name} has no ending that names an image format.", f"Use one of {', '.join(_WRITABLE)}.")


def nnunet_ending(targets: Sequence[Path]) -> str:
    """File ending nnU-Net expects of predictions of these targets: their own.

    Raises:
        InputError: if they end differently.
    """
    found = {next((e for e in _NNUNET_ENDINGS if target.name.lower().endswith(e)), ".nii.gz") for target in targets}
    if len(found) > 1:
        raise InputError(
            f"The targets end in {' and '.join(sorted(found))}; nnU-Net expects a single ending.", "Segment them in two calls."
        )
    return found.pop()


def check_free(paths: Iterable[Path], *, overwrite: bool, inputs: Iterable[str | Path] = ()) -> None:
    """Check that no existing file is replaced unless wanted, and no input of the run ever.

    Args:
        paths: to be written.
        overwrite: files that exist may be replaced.
        inputs: files, and folders whose files are read; those that are not there do not matter.

    Raises:
        OutputError: naming those that exist, unless they may be overwritten; naming one that is an input.
    """
    wanted = [file for path in paths for file in (path, *_written_with(path))]
    check_no_input(wanted, inputs)
    taken = [str(path) for path in wanted if os.path.exists(path)]
    if taken and not overwrite:
        raise OutputError(f"{listing(taken, 3)} exist{'s' * (len(taken) == 1)} already.", "Choose another name, or add --overwrite.")


def check_no_input(paths: Iterable[Path], inputs: Iterable[str | Path]) -> None:
    """Check that no input of a run is overwritten, under any name or link.

    Raises:
        OutputError: naming it.
    """
    read = {_identity(file): file for path in inputs for file in read_with(Path(path)) if os.path.exists(file)}
    for path in paths:
        if os.path.exists(path) and (source := read.get(_identity(path))) is not None:
            also = "" if str(source) == str(path) else f" (as {source})"
            raise OutputError(f"{path} is an input of this run{also} and will not be overwritten.", "Choose another name for the result.")


def _identity(path: Path) -> tuple[int, int]:
    """Of a file, the same by all of its names."""
    state = os.stat(path)
    return state.st_dev, state.st_ino


def _written_with(path: Path) -> list[Path]:
    """The data file that goes with a header."""
    return [path.with_suffix(".raw")] if path.suffix.lower() == ".mhd" else []


def read_with(path: Path) -> list[Path]:
    """All files read where a path is named: those of a folder, and the data file of a header."""
    if os.path.isdir(path):
        return [file for file in path.iterdir() if file.is_file()]
    if path.suffix.lower() in (".hdr", ".img"):
        return [path, path.with_suffix(".img"), path.with_suffix(".hdr")]
    if path.suffix.lower() not in (".mhd", ".nhdr") or not os.path.isfile(path):
        return [path]
    found = _DATA_FILE.search(path.read_bytes()[:100_000])
    return [path, path.parent / os.fsdecode(found[1].strip())] if found else [path]


@contextlib.contextmanager
def folders_ready(paths: Iterable[Path]) -> Iterator[None]:
    """Folders for these files exist and may be written to; folders made for nothing are taken away at the end.

    Raises:
        OutputError: if a folder cannot be made or written to.
    """
    made: list[Path] = []
    try:
        for folder in dict.fromkeys(path.parent for path in paths):
            made += [place for place in (folder, *folder.parents) if not place.exists()][::-1]
            make_folder(folder)
            _try_writing(folder)
        yield
    finally:
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # not empty: it was not made for nothing
                folder.rmdir()


@contextlib.contextmanager
def all_or_none(paths: Sequence[Path]) -> Iterator[dict[Path, Path]]:
    """Places to write files to; they get their names together at the end, or vanish if something fails before."""
    with contextlib.ExitStack() as stack:
        folders = {parent: Path(stack.enter_context(_workplace(parent))) for parent in dict.fromkeys(path.parent for path in paths)}
        places = {path: folders[path.parent] / path.name for path in paths}
        for path in paths:
            if len(os.fsencode(path.name)) > _LONGEST_NAME:
                raise InputError(f"The result's name {path.name[:60]}… is too long.", "Give its scan a shorter name, or use --output.")
        yield places
        for path, place in places.items():
            for part in _parts(place):
                os.replace(part, path.with_name(part.name))


def _workplace(folder: Path) -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix=".mass-", dir=folder, ignore_cleanup_errors=True)


def _parts(place: Path) -> list[Path]:
    """The file, preceded by the data file beside a MetaImage header."""
    beside = [p for p in sorted(place.parent.glob(f"{place.stem}.*")) if p != place] if place.suffix.lower() == ".mhd" else []
    return [*(p for p in beside if p.suffix in (".raw", ".zraw")), place]


def _names(targets: Sequence[Path], form: str) -> list[str]:
    """Name of each target, in nnU-Net's sense that of its case: the file of a channel is called `<case>_0000`."""
    names = [re.sub(r"_\d{4}$", "", stem(target)) if form == "nnunet" else stem(target) for target in targets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice and form == "nnunet":
        raise InputError(
            f"Several targets are of the case {listing(twice, 5)}: the network uses a single channel.",
            "Give the files of one channel: imagesTs/*_0000.nii.gz.",
        )
    if twice:
        raise InputError(f"Several targets are called {listing(twice)}; their results would replace each other.", "Run them one by one.")
    return names


def _try_writing(folder: Path) -> None:
    try:
        tempfile.TemporaryFile(prefix=".mass-", dir=folder).close()
    except OSError as error:
        raise OutputError(f"Cannot write into {folder}: {error.strerror}.", "Choose a folder you may write to.") from error
