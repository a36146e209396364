"""mass masks: unlabelled scans to mask sets."""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import InputError
from .outputs import folders_ready
from .scans import Scan, add_scans, find_scans, scan_recipe, work_through

if TYPE_CHECKING:
    from ..masks.generator import Backend


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "masks",
        help="make class-agnostic masks of unlabelled scans",
        description="Writes DIR/<case>.masks for each scan. A case is done when its file exists, so a stopped run goes on where it was.",
    )
    add_scans(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--method", choices=("slic",), default="slic", help="slic: supervoxels in 3D (default: %(default)s)")
    parser.add_argument("--max-masks", type=int, metavar="N", help="at most this many masks a scan")
    parser.add_argument("--min-voxels", type=int, metavar="N", help="smallest mask, on the grid the masks are made on")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same masks (default: %(default)s)")
    parser.add_argument(
        "--spacing",
        dest="grid",
        nargs=3,
        type=float,
        metavar=("X", "Y", "Z"),
        help="voxel size in mm of the grid masks are made on (default: the scan's own; cubes where its voxels are flat or too many)",
    )
    parser.add_argument("--overwrite", action="store_true", help="make masks anew where the file exists")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the masks of every scan."""
    from ..masks.generator import masks_of
    from ..masks.mask_set import SUFFIX
    from ..volume import Volume

    scans = find_scans(arguments.images)
    backend, settings = _slic(arguments)
    recipe, folder, terminal = scan_recipe(arguments), arguments.output, arguments.terminal
    spacing_zyx = tuple(arguments.grid[::-1]) if arguments.grid else None
    if spacing_zyx is not None and min(spacing_zyx) <= 0:
        raise InputError(f"The spacing is {arguments.grid} mm.", "All three must be above zero.")

    def make(scan: Scan) -> None:
        began = time.monotonic()
        masks, record = masks_of(Volume.read(scan.path), recipe, backend, arguments.seed, spacing_zyx)
        masks.meta.update(source=scan.path.name, method=arguments.method, settings=settings, made_by=f"mass {__version__}")
        masks.write(folder / f"{scan.name}{SUFFIX}")
        for warning in record.warnings:
            terminal.warn(warning)
        seconds = round(time.monotonic() - began, 2)
        terminal.result(f"{scan.name}: {len(masks)} masks, {seconds:.1f} s", case=scan.name, masks=len(masks), seconds=seconds)

    with folders_ready([folder / "x"]):
        outcome = work_through(
            scans, lambda scan: not arguments.overwrite and (folder / f"{scan.name}{SUFFIX}").exists(), make, "masks", terminal
        )
    outcome.tell(terminal, folder)
    return outcome.exit_code


def _slic(arguments: argparse.Namespace) -> tuple["Backend", dict[str, Any]]:
    """Supervoxels with the settings of the command line, and these settings."""
    try:
        from ..masks.slic_backend import SlicConfig, generate
    except ModuleNotFoundError as error:
        raise InputError("Making masks needs scikit-image, which is not installed.", "Run: pip install 'mass-core[masks]'") from error
    given = {"masks": arguments.max_masks, "min_voxels": arguments.min_voxels}
    config = SlicConfig(**{name: value for name, value in given.items() if value is not None})
    return lambda array, spacing_zyx, seed: generate(array, spacing_zyx, None, config, seed), asdict(config)
