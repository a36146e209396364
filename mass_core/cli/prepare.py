"""mass prepare: scans, their masks and labels to a training-ready dataset."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command_help import examples, seed_number
from ..config import Recipe, to_dict
from ..data.scan_files import Scan
from ..errors import InputError
from ..files import fingerprint, read_json, states
from ..outputs import check_no_input, folders_ready
from .common.options import add_body_margin, add_same_grid, chosen_recipe
from .common.scans import add_scans, add_split, given_scans, work_through
from .common.shards import Outcomes, add_shard, shard_of

if TYPE_CHECKING:
    from ..data.dataset import Case, Dataset


SHARES = "fraction of the patients in each split, if no file lists them (default: 0.8 0.1 0.1)"


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "prepare",
        help="make a training-ready dataset from scans and their masks",
        description="Image, masks and labels of a case are resampled to one grid, normalised as for segmentation. A finished case is "
        "not made again unless its files or the settings changed. The dataset contains the scans of this call only.",
        **examples(
            "mass prepare scans --masks masks --output dataset",
            "mass prepare images --labels labels --split split.json --spacing native --output dataset",
            "mass prepare /data/amos22 --dataset-kind amos --modality ct --masks masks/amos --output data/amos_ct",
        ),
    )
    add_scans(parser)
    made = parser.add_argument_group("dataset")
    made.add_argument("--output", required=True, type=Path, metavar="DATASET", help="folder of the dataset")
    made.add_argument("--masks", type=Path, metavar="DIR", help="folder made by mass masks")
    made.add_argument("--labels", type=Path, metavar="DIR", help="label maps named like the scans")
    add_same_grid(made)
    add_shard(made)
    made.add_argument("--name", metavar="TEXT", help="name of the dataset (default: its folder's)")
    made.add_argument(
        "--spacing",
        dest="grid",
        nargs="+",
        metavar="MM",
        help="voxel size X Y Z in mm, or native to keep each scan's own (default: 1.5 1.5 1.5)",
    )
    add_body_margin(made)
    made.add_argument("--min-voxels", type=int, default=8, metavar="N", help="size of the smallest mask kept (default: %(default)s)")
    group = parser.add_argument_group("splits", "all scans of a patient are in the same split")
    add_split(group, "", " given by --split or found in the dataset")
    group.add_argument("--shares", nargs=3, type=float, default=(0.8, 0.1, 0.1), metavar=("TRAIN", "VAL", "TEST"), help=SHARES)
    group.add_argument("--seed", type=seed_number, default=0, metavar="N", help="seed of the random split (default: %(default)s)")
    group.add_argument(
        "--patient",
        metavar="REGEX",
        help="regular expression whose first group is the patient in a case's name (default: the name, or by --dataset-kind)",
    )
    parser.set_defaults(run=run)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Settings of a run, the same for every scan."""

    recipe: Recipe
    """Its spacing is None for the scan's own."""
    folder: Path
    masks: Path | None
    labels: Path | None
    same_grid: bool
    """Label maps belong to their scans voxel for voxel."""
    min_voxels: int
    patients: dict[str, str]

    def mask_file(self, scan: Scan) -> Path | None:
        """Mask set of a scan; None: it has none."""
        from ..masks.mask_set import SUFFIX

        masks = self.masks / f"{scan.name}{SUFFIX}" if self.masks else None
        return masks if masks is not None and masks.exists() else None

    def finished(self, scan: Scan) -> "Case | None":
        """The record of a scan that is prepared; None: it has to be, or its files are gone."""
        from ..data.dataset import finished_case

        try:
            return finished_case(self.folder, scan.name, self.settings(scan))
        except OSError:
            return None

    def settings(self, scan: Scan) -> str:
        """Fingerprint of the files and settings a case is made from."""
        files = [scan.path, *filter(None, [self.mask_file(scan)]), *scan.label_files(self.labels)]
        more = [*(scan.case.fingerprint if scan.case else []), *(["same grid"] if self.same_grid else [])]
        return fingerprint(to_dict(self.recipe), self.min_voxels, states(files), self.patients[scan.name], *more)


def run(arguments: argparse.Namespace) -> int:
    """Prepare every scan and write the dataset."""
    scans, shard = given_scans(arguments), shard_of(arguments)
    splits, names = given_splits(arguments.split, arguments.fold)
    if splits:
        scans = listed(scans, splits, arguments)
    plan = _plan(arguments, scans)
    scans = _with_labels_or_masks(plan, scans, arguments)
    splits = _splits(arguments, splits, scans, plan.patients)

    written = [plan.folder / "dataset.json", *(file for scan in scans for file in (plan.folder / "cases" / scan.name).glob("*"))]
    read = [file for scan in scans for file in (scan.path, plan.mask_file(scan), *scan.label_files(plan.labels))]
    check_no_input(written, filter(None, [*read, arguments.split]))
    with folders_ready([plan.folder / "dataset.json"]):
        own = shard.of(scans)
        outcomes = Outcomes(plan.folder, shard)
        rows = {scan.name: {"case": scan.name, "target": str(scan.path)} for scan in own}
        outcomes.rows |= {name: [{**row, "status": "present"}] for name, row in rows.items()}

        def make(scan: Scan) -> None:
            with outcomes.recorded(rows[scan.name]):
                _make(plan, scan, arguments.terminal)

        outcome = work_through(own, lambda scan: plan.finished(scan) is not None, make, "prepare", arguments.terminal)
        outcomes.merge()
        if scans[0].case and arguments.labels is None:  # else other label maps take the place of the public dataset's own
            names = names or dict(scans[0].case.label_names)
        dataset = _listed(arguments, plan, scans, splits, names)
    if shard.count > 1 and len(dataset.cases) < len(scans):
        arguments.terminal.log(f"The dataset holds {len(dataset.cases)} of {len(scans)} scans so far; the other shards add theirs.")
    elif empty := [split for split, members in dataset.splits.items() if not members]:
        text = f"No scan is in the split {' and '.join(empty)}: see --shares and --split. Validation uses val, evaluation uses test."
        arguments.terminal.warn(text)
    return outcome.report(arguments.terminal, plan.folder)


def _listed(
    arguments: argparse.Namespace,
    plan: _Plan,
    scans: Sequence[Scan],
    splits: Mapping[str, Sequence[str]],
    names: Mapping[int, str],
) -> "Dataset":
    """The dataset of all scans that are finished, by whichever shard of the work, written to its folder."""
    from ..data.dataset import Dataset

    while True:
        cases = [case for scan in scans if (case := plan.finished(scan)) is not None]
        present = {case.name for case in cases}
        dataset = Dataset(
            folder=plan.folder,
            name=arguments.name or plan.folder.resolve().name,
            cases=tuple(cases),
            splits={split: tuple(name for name in members if name in present) for split, members in splits.items()},
            label_names=dict(names),
            recipe=to_dict(plan.recipe),
            seed=arguments.seed if arguments.split is None else None,
        )
        dataset.write()
        # Another shard may have ended meanwhile and written a longer list, over which this one was written.
        if all(scan.name in present or plan.finished(scan) is None for scan in scans):
            return dataset


def _plan(arguments: argparse.Namespace, scans: Sequence[Scan]) -> _Plan:
    for folder in (arguments.masks, arguments.labels):
        if folder is not None and not folder.is_dir():
            raise InputError(f"There is no folder {folder}.", "Check the spelling.")
    if arguments.masks is None and arguments.labels is None and arguments.dataset_kind is None:
        raise InputError("There are no labels or masks to train on.", "Add --masks DIR, --labels DIR or both.")
    return _Plan(
        recipe=_with_spacing(chosen_recipe(arguments, Recipe()), arguments.grid),
        folder=arguments.output,
        masks=arguments.masks,
        labels=arguments.labels,
        same_grid=arguments.same_grid,
        min_voxels=arguments.min_voxels,
        patients=_patients(scans, arguments.patient),
    )


def _with_labels_or_masks(plan: _Plan, scans: list[Scan], arguments: argparse.Namespace) -> list[Scan]:
    """The scans of a public dataset that have masks or labels; warns of those left out."""
    if arguments.dataset_kind is None:
        return scans
    kept = [scan for scan in scans if plan.mask_file(scan) or scan.label_files(plan.labels)]
    if not kept:
        raise InputError(f"None of the {len(scans)} scans has a label map or masks.", "Add --masks DIR, or download the label maps.")
    if len(kept) < len(scans):
        arguments.terminal.warn(f"{len(scans) - len(kept)} scans have neither a label map nor masks and are left out.")
    if bare := [scan for scan in kept if not scan.label_files(plan.labels)]:
        arguments.terminal.warn(f"{len(bare)} scans have masks but no label map, such as {bare[0].name}.")
    return kept


def _with_spacing(recipe: Recipe, given: Sequence[str] | None) -> Recipe:
    """The recipe with the spacing of the command line; None means the scan's own."""
    if given is None:
        return recipe
    if list(given) == ["native"]:
        return replace(recipe, spacing_zyx=None)
    try:
        x, y, z = (float(value) for value in given)
    except ValueError as error:
        raise InputError(f"The spacing is {' '.join(given)!r}.", "Give three numbers X Y Z in mm, or the word native.") from error
    return replace(recipe, spacing_zyx=(z, y, x))


def _patients(scans: Sequence[Scan], pattern: str | None) -> dict[str, str]:
    """Patient of each case."""
    if pattern is None:
        return {scan.name: scan.case.patient if scan.case else scan.name for scan in scans}
    try:
        finder = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--patient {pattern!r} is not a regular expression: {error}.", "For instance '(.*)_scan[0-9]+'.") from error
    patients = {}
    for scan in scans:
        found = finder.match(scan.name)
        if found is None or not finder.groups or not found[1]:
            raise InputError(
                f"--patient {pattern!r} finds no patient in {scan.name!r}.", "Its first group in parentheses must be the patient."
            )
        patients[scan.name] = found[1]
    return patients


def given_splits(path: Path | None, fold: int = 0) -> tuple[dict[str, tuple[str, ...]], dict[int, str]]:
    """Splits and label names of a file, or those of a fold where it lists several; both empty without one."""
    from ..data.decathlon_layout import is_folds, read_fold
    from ..data.splits import SPLITS

    if path is None:
        return {}, {}
    if is_folds(path):
        return read_fold(path, fold), {}
    if fold:
        raise InputError(f"{path} lists one split, and --fold is {fold}.", "Leave --fold out.")
    form = 'It looks like {"train": ["case1"], "val": [], "test": ["case2"], "labels": {"1": "liver"}}.'
    values = read_json(path, form)
    splits = {split: values.get(split, []) for split in SPLITS}
    labels = values.get("labels", {})
    proper = all(isinstance(members, list) and all(isinstance(name, str) for name in members) for members in splits.values())
    if not proper or not any(splits.values()) or not isinstance(labels, dict) or not all(str(value).isdigit() for value in labels):
        raise InputError(f"{path} is not a list of splits.", form)
    return {split: tuple(members) for split, members in splits.items()}, {int(value): str(name) for value, name in labels.items()}


def listed(scans: Sequence[Scan], splits: Mapping[str, Sequence[str]], arguments: argparse.Namespace) -> list[Scan]:
    """The scans the splits name; warns of names without a scan and scans without a split."""
    wanted = {name for members in splits.values() for name in members}
    found = [scan for scan in scans if scan.name in wanted]
    missing, extra = len(wanted) - len(found), len(scans) - len(found)
    if not found:
        raise InputError(
            f"None of the {len(wanted)} cases in {arguments.split} is among the scans.", "Names are those of the files without ending."
        )
    if missing:
        arguments.terminal.warn(f"{missing} cases named in {arguments.split} are not among the scans.")
    if extra:
        arguments.terminal.warn(f"{extra} scans are not named in {arguments.split} and are left out.")
    return found


def _splits(
    arguments: argparse.Namespace, given: Mapping[str, Sequence[str]], scans: Sequence[Scan], patients: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Splits for the scans at hand, checked for leaks before anything is made."""
    from ..data.splits import check_splits, split_by_patient

    patients = {scan.name: patients[scan.name] for scan in scans}
    cases = [scan.case for scan in scans if scan.case]
    if given:
        splits = {split: tuple(name for name in members if name in patients) for split, members in given.items()}
    elif cases:
        from ..data.public_cases import official_splits

        splits = official_splits(cases, patients, arguments.shares, arguments.seed)
    else:
        return split_by_patient(patients, arguments.shares, arguments.seed)
    check_splits(splits, patients)
    return splits


def _make(plan: _Plan, scan: Scan, terminal: Any) -> None:
    """Prepare one scan."""
    from ..data.make_case import make_case
    from ..masks.mask_set import MaskSet
    from ..volumes.label_maps import as_label_map

    masks_path = plan.mask_file(scan)
    label_map = scan.read_labels(plan.labels)
    if masks_path is None and label_map is None:
        raise InputError(f"There are neither masks nor labels of {scan.name}.", "Run mass masks on it first, or leave it out.")
    if plan.masks is not None and masks_path is None:
        raise InputError(
            f"{plan.masks} holds no masks of {scan.name}, which has labels.", "Run mass masks on it first, or leave it or --masks out."
        )
    image = scan.read()
    if label_map is not None and plan.same_grid:
        label_map = label_map.on_grid_of(image)
    masks = MaskSet.read(masks_path) if masks_path else None
    if masks is not None and not len(masks):
        if label_map is None:
            raise InputError(f"No masks were found in {scan.name}.", "Make them again with other settings of mass masks, or leave it out.")
        terminal.warn(f"No masks were found in {scan.name}; it has labels only.")
    unnamed: Sequence[str] = ()
    if label_map is not None and scan.case is not None and plan.labels is None:
        label_map = as_label_map(label_map)
        unnamed = scan.case.unnamed(label_map)
    warnings = make_case(
        plan.folder,
        scan.name,
        image,
        plan.recipe,
        patient=plan.patients[scan.name],
        settings=plan.settings(scan),
        labels=None if label_map is None else (label_map, scan.label_files(plan.labels)[0]),
        masks=masks,
        min_voxels=plan.min_voxels,
    )
    for warning in (*unnamed, *warnings):
        terminal.warn(f"{scan.name}: {warning}")
