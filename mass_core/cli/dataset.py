"""mass dataset: import datasets of the released code, and export ours for it, for nnU-Net or in the form of the Decathlon."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command_help import examples
from ..data.scan_files import Scan
from ..errors import InputError
from ..outputs import check_no_input, folders_ready
from ..progress import Steps
from .common.scans import add_split, work_through
from .prepare import given_splits, listed

if TYPE_CHECKING:
    from ..data.dataset import Case, Dataset


_IMPORT = "mass dataset import released/bcv --output data/bcv --modality ct --split bcv.json"
_EXPORT = (
    "mass dataset export data/bcv --output released/bcv",
    "mass dataset export data/bcv --format nnunet --output nnUNet_raw/Dataset111_BCV",
)
"""Examples of the actions."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "dataset", help="import datasets of the released code, or export ours for it, nnU-Net and others", **examples(_IMPORT, *_EXPORT)
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    taken = _add(
        actions, "import", "make a MASS dataset from a released one: <case>_image.npy, <case>_gt.npy and dataset.h5", run_import, _IMPORT
    )
    taken.add_argument("folder", type=Path, metavar="RELEASED", help="folder in the released layout")
    taken.add_argument("--output", required=True, type=Path, metavar="DATASET", help="folder of the new dataset")
    taken.add_argument("--name", metavar="TEXT", help="name of the dataset (default: its folder's)")
    taken.add_argument(
        "--spacing", nargs=3, type=float, default=(1.5, 1.5, 1.5), metavar=("X", "Y", "Z"), help="voxel size in mm (default: 1.5 1.5 1.5)"
    )
    taken.add_argument("--modality", choices=("auto", "ct", "mr", "pet"), default="auto", help="modality of all scans (default: unknown)")
    add_split(taken, " (default: all train)", "")
    given = _add(
        actions,
        "export",
        "write a MASS dataset in the layout of the released code, nnU-Net or the Medical Segmentation Decathlon",
        run_export,
        *_EXPORT,
    )
    given.add_argument("folder", type=Path, metavar="DATASET", help="folder that mass prepare made")
    given.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write")
    given.add_argument(
        "--format",
        default="released",
        choices=("released", "nnunet", "msd"),
        help="released: <case>_image.npy, <case>_gt.npy and dataset.h5; nnunet and msd: imagesTr, labelsTr, dataset.json, and for nnU-Net "
        "splits_final.json (default: %(default)s)",
    )


def run_import(arguments: argparse.Namespace) -> int:
    """Import every case, then write the dataset."""
    from ..data import released_layout
    from ..data.dataset import Dataset, finished_case

    source, output, spacing = arguments.folder, arguments.output, tuple(arguments.spacing[::-1])
    if not released_layout.is_released(source):
        raise InputError(f"{source} holds neither {released_layout.MASKS} nor scans as <case>_image.npy.", "Give a released dataset.")
    if min(spacing) <= 0:
        raise InputError(f"The spacing is {arguments.spacing}.", "Give three numbers X Y Z above 0, in mm.")
    if output.resolve() == source.resolve():
        raise InputError(f"{output} is the released dataset itself.", "Choose another folder.")
    check_no_input([output / "dataset.json"], filter(None, [arguments.split]))
    scans = [Scan(name, source / f"{name}{released_layout.IMAGE}") for name in released_layout.case_names(source)]
    splits, names = given_splits(arguments.split, arguments.fold)
    scans = listed(scans, splits, arguments) if splits else scans

    def finished(scan: Scan) -> "Case | None":
        settings = released_layout.import_settings(source, scan.name, spacing, arguments.modality)
        return finished_case(output, scan.name, settings)

    def take(scan: Scan) -> None:
        released_layout.import_case(source, scan.name, output, spacing_zyx=spacing, modality=arguments.modality)

    with folders_ready([output / "dataset.json"]):
        outcome = work_through(scans, lambda scan: finished(scan) is not None, take, "import", arguments.terminal)
        cases = tuple(case for scan in scans if (case := finished(scan)) is not None)
        Dataset(
            folder=output,
            name=arguments.name or output.resolve().name,
            cases=cases,
            splits=_splits(splits, cases),
            label_names=names,
        ).write()
    return outcome.report(arguments.terminal, output)


def run_export(arguments: argparse.Namespace) -> int:
    """Write every case, then the files that describe the dataset."""
    return _export_released(arguments) if arguments.format == "released" else _export_decathlon(arguments)


def _export_decathlon(arguments: argparse.Namespace) -> int:
    from ..data import decathlon_layout, export_state
    from ..data.opening import open_dataset

    dataset, output, form = open_dataset(arguments.folder), arguments.output, arguments.format
    export_state.check_own(output / "dataset.json")
    numbers = decathlon_layout.numbering(dataset, Steps(arguments.terminal.progress))
    if moved := [f"{value} becomes {number}" for value, number in numbers.items() if value != number]:
        arguments.terminal.warn(f"Label numbers must have no gaps there: {', '.join(moved)}.")
    return _export(
        arguments,
        dataset,
        lambda case: decathlon_layout.is_exported(dataset, case, output, numbers, form),
        lambda case: decathlon_layout.export_case(dataset, case, output, numbers, form),
        lambda cases: decathlon_layout.describe(dataset, output, numbers, frozenset(cases), form),
    )


def _export_released(arguments: argparse.Namespace) -> int:
    from ..data import released_layout
    from ..data.opening import open_dataset

    dataset, output = open_dataset(arguments.folder), arguments.output
    if isinstance(dataset, released_layout.ReleasedDataset):
        raise InputError(f"{arguments.folder} already has the released layout.", "Copy the folder.")
    released_layout.check_export(output)
    small = [case.name for case in dataset.cases if min(case.shape_zyx) < released_layout.TRAINING_EDGE]
    if small:
        arguments.terminal.warn(
            f"{len(small)} scans, such as {small[0]}, have an axis below 128 voxels, the minimum for training with the released code."
        )
    return _export(
        arguments,
        dataset,
        lambda case: released_layout.is_exported(dataset, case, output),
        lambda case: released_layout.export_case(dataset, case, output),
        lambda cases: released_layout.join_masks(output, cases),
    )


def _export(
    arguments: argparse.Namespace,
    dataset: "Dataset",
    is_done: Callable[[str], bool],
    export: Callable[[str], object],
    describe: Callable[[list[str]], object],
) -> int:
    """Write every case that is not there yet, then the files about all that are.

    Args:
        arguments: of the command.
        dataset: to export.
        is_done: true for the name of a case that is there.
        export: writes the case of this name.
        describe: writes the files about the cases of these names.
    """
    scans = [Scan(case.name, dataset.folder) for case in dataset.cases]
    with folders_ready([arguments.output / "dataset.json"]):
        outcome = work_through(scans, lambda scan: is_done(scan.name), lambda scan: export(scan.name), "export", arguments.terminal)
        describe([scan.name for scan in scans if is_done(scan.name)])
    return outcome.report(arguments.terminal, arguments.output)


def _splits(given: Mapping[str, Sequence[str]], cases: "Sequence[Case]") -> dict[str, tuple[str, ...]]:
    """The splits given, without cases that failed; all for training where none are given."""
    names = [case.name for case in cases]
    if not given:
        return {"train": tuple(names)}
    return {split: tuple(name for name in members if name in names) for split, members in given.items()}


def _add(actions: Any, name: str, text: str, run: Any, *shown: str) -> argparse.ArgumentParser:
    description = f"{text[0].upper()}{text[1:]}. Finished cases are not made again."
    parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=description, **examples(*shown))
    parser.set_defaults(run=run)
    return parser
