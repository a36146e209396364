"""mass features: PCA colours of the network's task-free features of scans."""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..command_help import examples, seed_number
from ..config import Triple
from ..errors import MassError
from ..jobs.checks import inputs
from ..outputs import Job, all_or_none, check_free, folders_ready, plan
from ..progress import Steps
from ..worker.requests import Features
from .common.batch import Batch
from .common.options import add_preparation, add_weights, as_request, begin
from .common.shards import Share, add_shard, shard_of
from .remote import add_on

if TYPE_CHECKING:
    import numpy as np

    from ..inference.features import Basis, Painting, View
    from ..inference.segmenter import Segmenter
    from ..volumes.volume import Volume


COMMON = 8
"""Number of targets, the first of all, that make the colours where several processes share a run, or another computer does it."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `mass`."""
    parser = subparsers.add_parser(
        "features",
        help="show the features of the network as colours (PCA)",
        description="Three principal components of the decoder's output become red, green and blue. Scans of one call share their "
        "colours, so similar tissue looks alike.",
        **examples(
            "mass features --target ct1.nii.gz --output ct1_features.nii.gz --picture ct1_features.png",
            "mass features --target ct1.nii.gz ct2.nii.gz --output-dir features",
        ),
    )
    add_weights(parser)
    targets = parser.add_argument_group("targets")
    targets.add_argument("--target", nargs="+", required=True, type=Path, metavar="IMAGE", help="scans: files or DICOM folders")
    targets.add_argument("--frame", type=int, metavar="N", help="volume of 4D targets, from 0")
    add_shard(targets)
    results = parser.add_argument_group("results")
    results.add_argument("--output", type=Path, metavar="FILE", help="colour volume of a single target, .nrrd or .nii.gz")
    results.add_argument("--output-dir", type=Path, metavar="DIR", help="folder for <target>_features.nii.gz")
    results.add_argument("--picture", type=Path, metavar="FILE.png", help="also draw three planes, in grey and in colour")
    results.add_argument("--overwrite", action="store_true", help="replace files that exist")
    add_preparation(parser)
    parser.add_argument(
        "--seed", type=seed_number, default=0, metavar="N", help="of the voxels that make the colours (default: %(default)s)"
    )
    parser.add_argument("--overlap", type=float, metavar="F", help="share of a window its neighbour covers too, from 0 to below 1")
    add_on(parser, "features")
    parser.set_defaults(run=run)


@contextmanager
def begun(arguments: argparse.Namespace) -> Iterator[tuple[Features, list[Job], Share, Batch]]:
    """Context of a run: everything that can be checked before is, and the folders of its results are there.

    Returns:
        The request of the first target, all targets, those of this process, and their failures.

    Raises:
        MassError: if what is asked for cannot be done, or a file may not be written.
    """
    jobs = plan(arguments.target, arguments.output, arguments.output_dir, arguments.picture, what="features")
    share = Share(shard_of(arguments), jobs, overwrite=arguments.overwrite)
    files = [path for job in share.left for path in (job.output, job.picture) if path is not None]
    request = as_request(Features, arguments, target=str(arguments.target[0]), output=str(arguments.output or arguments.output_dir))
    check_free(files, overwrite=arguments.overwrite, inputs=[*inputs(request), *arguments.target])
    with folders_ready([*files, share.table]):
        visits = 2 * len(share.left) if len(jobs) > 1 else 1  # sampled, then painted
        yield request, jobs, share, Batch(arguments.terminal, len(jobs), visits)


def run(arguments: argparse.Namespace) -> int:
    """Paint the features of every target, in colours common to all."""
    with begun(arguments) as (request, jobs, share, batch):
        if share.left:  # no network is loaded for nothing
            _paint(arguments, request, share, jobs[:COMMON] if share.asked else share.left, batch)
        share.close(arguments.terminal)
    return batch.exit_status


def _paint(arguments: argparse.Namespace, request: Features, share: Share, common: Sequence[Job], batch: Batch) -> None:
    """Paint the targets of a share, in the colours of some of the run's."""
    from ..inference.features import Basis

    session, run = begin(request, arguments.terminal)
    targets = _Targets(arguments, session.segmenter(request, run))
    samples, painted = [], list(share.left)
    for job in common:
        if job in share.left:
            painted.remove(job)
            with batch.target(job.target), share.noting(job, begun=True):
                samples.append(targets.sample(job))
                painted.append(job)
        else:
            with suppress(MassError):  # its own share tells
                samples.append(targets.sample(job))
    if not samples:
        return
    basis = Basis.of(samples)
    for job in painted:
        with batch.target(job.target), share.noting(job):
            targets.paint(job, basis)


class _Targets:
    """The targets of a run, one in memory at a time."""

    def __init__(self, arguments: argparse.Namespace, segmenter: "Segmenter") -> None:
        self._arguments, self._segmenter = arguments, segmenter
        self._spacing: Triple | None = None
        # One is kept, so that a single target is prepared once; several are read anew to be painted, for memory holds one.
        self._seen = lru_cache(maxsize=1)(self._read)

    def sample(self, job: Job) -> "np.ndarray":
        """Feature vectors of a target."""
        from ..inference.features import sample

        return sample(self._segmenter, self._seen(job.target)[1], self._steps(), self._arguments.seed)

    def paint(self, job: Job, basis: "Basis") -> None:
        """Paint a target, write it and report."""
        from ..inference.features import paint

        began = time.monotonic()
        scan, seen = self._seen(job.target)
        painting = paint(self._segmenter, seen, basis, self._steps())
        with all_or_none([job.output] + ([job.picture] if job.picture is not None else [])) as place:
            painting.write(place[job.output])
            if job.picture is not None:
                from ..pictures import colour_volume, panels

                panels.write_png(place[job.picture], colour_volume.render(scan, painting.rgb, modality=painting.modality))
        for warning in painting.warnings:
            self._arguments.terminal.warn(warning)
        self._report(job, painting, time.monotonic() - began)

    def _report(self, job: Job, painting: "Painting", seconds: float) -> None:
        shares = ", ".join(f"{colour} {share:.0%}" for colour, share in zip(("red", "green", "blue"), painting.explained, strict=True))
        self._arguments.terminal.result(
            f"{job.output}: {shares} of what the features tell apart ({seconds:.1f} s)",
            target=str(job.target),
            output=str(job.output),
            picture=None if job.picture is None else str(job.picture),
            explained=[round(share, 4) for share in painting.explained],
            spacing_zyx=self._spacing,
            modality=painting.modality,
            seed=self._arguments.seed,
            warnings=painting.warnings,
            seconds=round(seconds, 3),
            device=str(self._segmenter.model.device),
        )

    def _read(self, target: Path) -> "tuple[Volume, View]":
        """A scan, read and prepared; the first one says at which voxel size all are looked at."""
        from ..inference.features import view, view_spacing
        from ..volumes.volume import Volume

        scan = Volume.read(target, frame=self._arguments.frame)
        self._spacing = self._spacing or view_spacing(scan.geometry, self._segmenter.recipe)
        return scan, view(self._segmenter, scan, self._spacing, self._steps())

    def _steps(self) -> Steps:
        return Steps(self._arguments.terminal.progress)
