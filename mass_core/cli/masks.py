"""mass masks: unlabelled scans to mask sets."""

import argparse
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..command_help import examples, seed_number
from ..config import Recipe
from ..console import Output
from ..data.scan_files import Scan
from ..devices import DEVICES
from ..errors import InputError, listing
from ..outputs import check_no_input, folders_ready
from .common.mask_summary import NAMED, Summary, add_summary
from .common.options import add_same_grid, chosen_recipe
from .common.scans import Outcome, add_scans, given_scans, work_through
from .common.shards import add_shard, shard_of

if TYPE_CHECKING:
    from ..masks.generator import Maker
    from ..masks.mask_set import MaskSet
    from ..masks.slicewise.pipeline import SliceConfig
    from ..masks.slicewise.sam2 import Sam2

Make = Callable[[Scan], tuple["MaskSet", Sequence[str]]]
"""Makes the masks of a scan, with notes for the user."""

_WHY_EMPTY = {
    "slic": "They may be smaller than the smallest mask: see --min-voxels and --body-crop.",
    "sam2": "The profile may be that of another kind of scan, the smallest mask too large, or the body not found: see --profile, "
    "--min-pixels, --min-voxels and --body-crop.",
    "labels": "Their label maps may be empty, or --min-voxels too large.",
}
"""By method, the likely cause of no masks."""
_PATIENCE_S = 1200.0
"""Seconds for the 2D masks of a scan from which a warning is given before."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "masks",
        help="make class-agnostic masks of unlabelled scans",
        description="Writes DIR/<case>.masks for each scan. Cases whose file exists are skipped, so the same command resumes a "
        "stopped run.",
        **examples(
            "mass masks scans --output masks --picture",
            "mass masks scans --output masks --method sam2 --shard 1/8",
            "mass masks /data/lits --dataset-kind lits --output masks/lits",
        ),
    )
    add_scans(parser)
    made = parser.add_argument_group("masks")
    made.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for <case>.masks")
    made.add_argument(
        "--method",
        choices=("slic", "sam2", "labels"),
        default="slic",
        help="slic: 3D supervoxels; sam2: SAM2 on slices, propagated through the volume, as in the paper; labels: label maps of --labels "
        "(default: %(default)s)",
    )
    made.add_argument("--labels", type=Path, metavar="DIR", help="label maps named like the scans; their labels are added to the masks")
    add_same_grid(made)
    made.add_argument("--min-voxels", type=int, metavar="N", help="size of the smallest mask kept, on the grid the masks are made on")
    made.add_argument(
        "--seed", type=seed_number, default=0, metavar="N", help="random seed: the same seed gives the same masks (default: %(default)s)"
    )
    made.add_argument(
        "--spacing",
        dest="grid",
        nargs=3,
        type=float,
        metavar=("X", "Y", "Z"),
        help="voxel size in mm of the grid masks are made on (default: the scan's own; slic: cubic if voxels are flat or too many)",
    )
    add_shard(made)
    made.add_argument("--overwrite", action="store_true", help="make masks again where their file exists")
    add_summary(parser.add_argument_group("summary", "in addition to the table summary.csv, which is always written"))
    parser.add_argument_group("slic").add_argument(
        "--max-masks", type=int, metavar="N", help="maximum number of masks per scan (default: 1500)"
    )
    _add_sam2(parser.add_argument_group("sam2", "see docs/masks.md"))
    parser.set_defaults(run=run)


def _add_sam2(group: Any) -> None:
    group.add_argument(
        "--weights", default="sam2.1_hiera_large", metavar="W", help="weights file, or name of downloaded weights (default: %(default)s)"
    )
    group.add_argument(
        "--profile", default="auto", metavar="NAME", help="profile of channels and thresholds for a kind of scan (default: by modality)"
    )
    group.add_argument(
        "--channels",
        default="three",
        choices=("three", "linear", "single"),
        help="three: the profile's; from the paper's ablation, linear: one wide range; single: the profile's first (default: %(default)s)",
    )
    group.add_argument("--interval", type=float, metavar="MM", help="distance between seed slices (default: the profile's, 15)")
    group.add_argument("--all-axes", action="store_true", help="take slices along all three axes, for scans with cubic voxels")
    group.add_argument(
        "--points-per-side",
        type=int,
        default=32,
        metavar="N",
        help="point prompts per side of a slice and of each crop (default: %(default)s)",
    )
    group.add_argument(
        "--crop-layers",
        type=int,
        default=2,
        metavar="N",
        help="layers of crops: 0, 1, 2 give 1, 5, 21 images per slice (default: %(default)s)",
    )
    group.add_argument("--min-pixels", type=int, metavar="N", help="size of the smallest 2D mask kept (default: the profile's)")
    group.add_argument(
        "--small-regions",
        type=int,
        default=0,
        metavar="N",
        help="fill holes and remove specks of up to N pixels in 2D masks (default: %(default)s)",
    )
    group.add_argument(
        "--fill-holes", type=int, default=8, metavar="N", help="fill holes of up to N pixels in propagated objects (default: %(default)s)"
    )
    group.add_argument(
        "--max-per-slice", type=int, metavar="N", help="maximum number of 2D masks per seed slice (default: the profile's, 70)"
    )
    group.add_argument("--objects", type=int, default=64, metavar="N", help="objects propagated at once (default: %(default)s)")
    group.add_argument("--skip-covered", action="store_true", help="skip 2D masks that an earlier object covers: faster")
    group.add_argument("--device", default="auto", metavar="D", help=f"{DEVICES} (default: %(default)s; under torchrun one for each rank)")
    group.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="number format; auto: bfloat16 on GPUs that support it, else float32",
    )
    group.add_argument("--compile", action="store_true", help="compile SAM2 first: takes minutes, then faster; needs CUDA and Triton")


def run(arguments: argparse.Namespace) -> int:
    """Make the masks of every scan."""
    shard = shard_of(arguments)
    scans = list(shard.of(given_scans(arguments)))
    if arguments.grid and min(arguments.grid) <= 0:
        raise InputError(f"The spacing is {arguments.grid} mm.", "All three must be above zero.")
    for folder in (arguments.labels, arguments.compare):
        if folder is not None and not folder.is_dir():
            raise InputError(f"There is no folder {folder}.", "Check the spelling.")
    summary = Summary(arguments, shard)

    def is_done(scan: Scan) -> bool:
        return not arguments.overwrite and os.path.exists(summary.mask_file(scan))

    read = [file for scan in scans for file in (scan.path, *scan.label_files(arguments.labels))]
    check_no_input(summary.files(scans), [*read, *filter(None, [arguments.compare])])
    made = Outcome(done=0, present=0, failed=0)
    with folders_ready([arguments.output / "x"]), summary.kept(scans):
        existing = [_add_existing(scans, is_done, summary, arguments)]
        if not all(map(is_done, scans)):  # no network is loaded for nothing
            made = work_through(scans, is_done, _worker(arguments, summary), "masks", arguments.terminal)
            existing.append(_add_existing(scans, is_done, summary, arguments))  # what another process made meanwhile
    summary.report()
    failed = made.failed + sum(part.failed for part in existing)
    outcome = Outcome(done=made.done, present=sum(part.done for part in existing), failed=failed)
    outcome.report(arguments.terminal, arguments.output)
    if summary.empty:
        cause = _WHY_EMPTY[arguments.method]
        arguments.terminal.warn(f"No masks were found in {listing(summary.empty, NAMED)}. {cause} --overwrite makes masks again.")
    return outcome.exit_code or 3 * bool(summary.empty)


def _add_existing(scans: list[Scan], is_done: Callable[[Scan], bool], summary: Summary, arguments: argparse.Namespace) -> Outcome:
    """Add existing mask sets that have no row yet to the summary."""

    def is_passed_over(scan: Scan) -> bool:
        return not is_done(scan) or summary.has(scan)

    if all(map(is_passed_over, scans)):
        return Outcome(done=0, present=0, failed=0)
    return work_through(scans, is_passed_over, summary.add_existing, "summary", arguments.terminal)


def _worker(arguments: argparse.Namespace, summary: Summary) -> Callable[[Scan], None]:
    """Return a function that makes and writes the masks of a scan; missing packages and weights are reported now."""
    make, settings = {"slic": _slic, "sam2": _sam2, "labels": _labels}[arguments.method](arguments)
    terminal = arguments.terminal

    def work(scan: Scan) -> None:
        with summary.noting(scan):
            began = time.monotonic()
            masks, warnings = make(scan)
            lost: Sequence[str] = ()
            if arguments.labels is not None or arguments.method == "labels":
                masks, lost = _joined(masks, scan, arguments)
            seconds = round(time.monotonic() - began, 2)
            masks.meta.update(
                source=scan.path.name, method=arguments.method, settings=settings, seconds=seconds, made_by=f"mass {__version__}"
            )
            masks.write(summary.mask_file(scan))
            for warning in (*warnings, *lost):
                terminal.warn(f"{scan.name}: {warning}")
            if len(masks) == settings.get("masks"):
                terminal.warn(f"A scan gets at most {len(masks)} masks, the largest number that --max-masks allows.")
            terminal.result(f"{scan.name}: {len(masks)} masks, {seconds:.1f} s", case=scan.name, masks=len(masks), seconds=seconds)
            summary.add(scan, masks, "done", lost)

    return work


def _spacing(arguments: argparse.Namespace) -> tuple[float, float, float] | None:
    return tuple(arguments.grid[::-1]) if arguments.grid else None


def _joined(masks: "MaskSet", scan: Scan, arguments: argparse.Namespace) -> tuple["MaskSet", Sequence[str]]:
    """Add the labels of the scan's label map to its masks; returns notes for the user as well."""
    from ..masks.from_labels import with_labels
    from ..volumes.label_maps import check_belongs

    labels = scan.read_labels(arguments.labels)
    if labels is None:
        where = arguments.labels or arguments.dataset_kind
        raise InputError(f"There is no label map of {scan.name} in {where}.", "Name it like the scan, or leave the scan out.")
    image = scan.read()
    labels = labels.on_grid_of(image) if arguments.same_grid else labels
    notes = (*labels.notes, *check_belongs(image.geometry, labels, labels_are="label map"))
    return with_labels(masks, labels, arguments.min_voxels or 1), notes


def _as_stored(arguments: argparse.Namespace, maker: "Maker") -> Make:
    """Masks of intensities as stored."""
    from ..masks.generator import masks_of

    recipe, spacing_zyx = chosen_recipe(arguments, Recipe()), _spacing(arguments)
    return lambda scan: masks_of(scan.read(), recipe, maker, arguments.seed, spacing_zyx)


def _labels(arguments: argparse.Namespace) -> tuple[Make, dict[str, Any]]:
    """Masks from label maps only."""
    if arguments.labels is None and arguments.dataset_kind is None:
        raise InputError("The label maps are missing.", "Add --labels DIR, or --dataset-kind KIND.")
    return _as_stored(arguments, lambda part, modality, seed: ([], {})), {"min_voxels": arguments.min_voxels or 1}


def _slic(arguments: argparse.Namespace) -> tuple[Make, dict[str, Any]]:
    """Supervoxels with the settings of the command line, and these settings."""
    try:
        from ..masks.supervoxels.slic import SlicConfig, generate
    except ModuleNotFoundError as error:
        raise InputError("Making masks needs scikit-image, which is not installed.", "Run: pip install 'mass-core[masks]'") from error
    from ..masks.generator import masks_of, masks_spacing
    from ..volumes.intensity import normalise

    given = {"masks": arguments.max_masks, "min_voxels": arguments.min_voxels}
    config = SlicConfig(**{name: value for name, value in given.items() if value is not None})
    recipe, spacing_zyx = chosen_recipe(arguments, Recipe()), _spacing(arguments)

    def maker(part: Any, modality: Any, seed: int) -> tuple[Iterable[Any], dict[str, Any]]:
        return generate(normalise(part.array, modality, recipe), part.geometry.spacing_zyx, config, seed), {}

    def make(scan: Scan) -> tuple["MaskSet", Sequence[str]]:
        volume = scan.read()
        return masks_of(volume, recipe, maker, arguments.seed, spacing_zyx or masks_spacing(volume, recipe))

    return make, asdict(config)


def _sam2(arguments: argparse.Namespace) -> tuple[Make, dict[str, Any]]:
    """SAM2 with the settings of the command line, and these settings."""
    from dataclasses import replace

    from ..masks.slicewise.channels import profile, with_channels
    from ..masks.slicewise.pipeline import SliceConfig, masks_by_slices
    from ..masks.slicewise.plane_masks import GridConfig
    from ..progress import Steps
    from ..volumes.components import body_mask

    grid = GridConfig(points_per_side=arguments.points_per_side, crop_layers=arguments.crop_layers, small_regions=arguments.small_regions)
    config = SliceConfig(grid=grid, all_axes=arguments.all_axes, objects=arguments.objects, skip_covered=arguments.skip_covered)
    network, recipe = _loaded(arguments, config), chosen_recipe(arguments, Recipe())
    given = {
        "interval_mm": arguments.interval,
        **{name: getattr(arguments, name) for name in ("min_pixels", "min_voxels", "max_per_slice")},
    }
    changes = {name: value for name, value in given.items() if value is not None}
    measured: list[float] = []

    def maker(part: Any, modality: Any, seed: int) -> tuple[Iterable[Any], dict[str, Any]]:
        masks = masks_by_slices(
            part.array,
            part.geometry.spacing_zyx,
            body_mask(part.array, modality, recipe),
            replace(with_channels(profile(arguments.profile, modality), arguments.channels), **changes),
            network,
            config=config,
            seed=seed,
            steps=Steps(arguments.terminal.progress),
            forewarn=None if measured else partial(_forewarn, arguments.terminal, measured),
        )
        columns = ("predicted_iou", "stability", "axis", "slice")
        return (mask.found for mask in masks), {"per_mask": {name: [getattr(mask, name) for mask in masks] for name in columns}}

    chosen = {name: getattr(arguments, name) for name in ("profile", "channels", "fill_holes")}
    settings = {"weights": str(arguments.weights), **chosen, **changes, **asdict(config)}
    return _as_stored(arguments, maker), settings


def _loaded(arguments: argparse.Namespace, config: "SliceConfig") -> "Sam2":
    """Load the network, compiled if requested."""
    try:
        from ..masks.slicewise.sam2 import load_sam2
    except ModuleNotFoundError as error:
        raise InputError(f"Masks by SAM2 need {error.name}, which is not installed.", "See docs/masks.md for installation.") from error
    network = load_sam2(arguments.weights, arguments.device, arguments.precision, arguments.fill_holes)
    if arguments.compile:
        network.compile()
    return network


def _forewarn(terminal: Output, measured: list[float], seconds: float, slices: int) -> None:
    """Warn where the first scan will take long, by the seconds of a slice, which are added to those measured."""
    measured.append(seconds)
    if seconds * slices > _PATIENCE_S:
        terminal.warn(
            f"On this device the 2D masks of this scan take about {seconds * slices / 3600:.1f} h: {slices} seed slices of "
            f"{seconds / 60:.1f} min. Propagation through the volume takes additional time. --crop-layers 0 and fewer "
            "--points-per-side are faster, --method slic needs no GPU."
        )
