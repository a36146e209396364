"""Options and the main loop of commands that process many scans."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...console import Output
from ...data.public_layouts import KINDS
from ...data.scan_files import Scan, distinct_scans, find_scans, layout_of
from ...errors import InputError, MassError, OutputError, known_failures, listing
from ...progress import Steps
from .options import add_reading

_NAMED = 5
"""Files that are left out and named."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run over scans."""

    done: int
    present: int
    """Finished by an earlier run."""
    failed: int

    @property
    def exit_code(self) -> int:
        """3 if some failed."""
        return 3 if self.failed else 0

    def report(self, terminal: Output, output: Path) -> int:
        """Print it in one line; returns the exit code."""
        parts = [f"{self.done} made", f"{self.present} already present" * bool(self.present), f"{self.failed} failed" * bool(self.failed)]
        terminal.result(f"{output}: {', '.join(filter(None, parts))}", output=str(output), **vars(self))
        return self.exit_code


def add_scans(parser: argparse.ArgumentParser) -> None:
    """The scans, and how they are read."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER", help="scans, folders of scans, DICOM folders")
    public = parser.add_argument_group("public datasets", "see docs/datasets.md")
    public.add_argument(
        "--dataset-kind", choices=sorted(KINDS), metavar="KIND", help=f"layout of a public dataset: {', '.join(sorted(KINDS))}"
    )
    public.add_argument(
        "--derivative", default="", metavar="TEXT", help="for kind bids: use only label maps with this in their path, such as desc-aseg"
    )
    group = parser.add_argument_group("recipe")
    group.add_argument(
        "--modality",
        choices=("auto", "ct", "mr", "pet"),
        help="modality of the scans; with --dataset-kind, use only scans of this modality",
    )
    add_reading(group)


def add_split(group: argparse._ActionsContainer, others: str, folds: str) -> None:
    """--split, --fold."""
    group.add_argument(
        "--split",
        type=Path,
        metavar="FILE",
        help='JSON {"train": [cases], "val": [...], "test": [...], "labels": {"1": name}}, or splits_final.json of nnU-Net; other '
        f"cases are left out{others}",
    )
    group.add_argument("--fold", type=int, default=0, metavar="N", help=f"fold of splits_final.json{folds}, from 0 (default: %(default)s)")


def given_scans(arguments: argparse.Namespace) -> list[Scan]:
    """The scans the command line names, with warnings about a public dataset.

    Raises:
        InputError: as `find_scans` and `find_cases`.
    """
    if arguments.derivative and arguments.dataset_kind != "bids":
        raise InputError("--derivative selects label maps of a BIDS dataset.", "Add --dataset-kind bids, or leave it out.")
    if arguments.dataset_kind is None:
        for folder in arguments.images:
            if kind := layout_of(folder):
                advice = f"looks like a dataset of {KINDS[kind].title}; --dataset-kind {kind} finds its label maps and splits."
                arguments.terminal.warn(f"{folder} {advice}")
        left_out: list[Path] = []
        scans = _without_label_maps(find_scans(arguments.images, left_out), arguments.labels)
        if left_out:
            arguments.terminal.warn(f"Skipped, not scans: {listing((file.name for file in left_out), _NAMED)}.")
        return scans
    from ...data.public_cases import find_cases

    fold = 0 if vars(arguments).get("split") else vars(arguments).get("fold", 0)
    cases, warnings = find_cases(arguments.images, KINDS[arguments.dataset_kind], fold=fold, derivative=arguments.derivative)
    for warning in warnings:
        arguments.terminal.warn(warning)
    scans = distinct_scans(Scan(case.name, case.image, case) for case in cases)
    return _of_modality(scans, arguments.modality, arguments.terminal)


def _without_label_maps(scans: list[Scan], labels: Path | None) -> list[Scan]:
    """The scans outside the folder of label maps, which may be among those given; all of them where both lie in one folder."""
    folder = labels.resolve() if labels is not None else None
    return [scan for scan in scans if folder not in scan.path.resolve().parents] or scans


def _of_modality(scans: list[Scan], wanted: str | None, terminal: Output) -> list[Scan]:
    """The scans of one modality of a public dataset, with a warning about those left out.

    Raises:
        InputError: if there are none.
    """
    known = {scan.name: scan.case.modality for scan in scans if scan.case}
    if wanted in (None, "auto"):
        return scans
    kept = [scan for scan in scans if known[scan.name] == wanted]
    if not kept:
        others = ", ".join(sorted(set(known.values())))
        raise InputError(f"--modality is {wanted}, but the scans of this dataset are {others}.", "Leave --modality out.")
    if len(kept) < len(scans):
        terminal.warn(f"{len(scans) - len(kept)} scans of other modalities than {wanted} are left out.")
    return kept


def work_through(
    scans: Sequence[Scan], is_done: Callable[[Scan], bool], work: Callable[[Scan], object], stage: str, terminal: Output
) -> Outcome:
    """Do the work for every scan that is not done yet; a bad scan among several is reported and the others go on.

    Each scan is checked again right before its turn: another process may work on the same folder.

    Raises:
        MassError: if the only scan is bad, or results cannot be written.
    """
    waiting = [scan for scan in scans if not _known_done(is_done, scan)]
    done, failed, steps = 0, 0, Steps(terminal.progress)
    for number, scan in enumerate(waiting):
        steps.at(stage, number, len(waiting))
        try:
            with known_failures():
                if not is_done(scan):
                    work(scan)
                    done += 1
        except MassError as error:
            if len(scans) == 1 or isinstance(error, OutputError):
                raise
            terminal.failed(error, target=str(scan.path))
            failed += 1
    steps.at(stage, 1, 1)
    return Outcome(done=done, present=len(scans) - done - failed, failed=failed)


def _known_done(is_done: Callable[[Scan], bool], scan: Scan) -> bool:
    """True if a scan is done; one that cannot be checked counts as not done and fails in its turn."""
    try:
        return is_done(scan)
    except OSError:
        return False
