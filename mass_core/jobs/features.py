"""Features of scans in colours they share."""

from contextlib import suppress
from pathlib import Path

from ..config import Triple
from ..errors import InputError, MassError
from ..inference.features import Basis, Painting, look, paint, sample, view, view_spacing
from ..inference.segmenter import Segmenter
from ..outputs import Job, all_or_none
from ..progress import Steps
from ..volumes.read_cache import state_of
from ..worker.requests import Features
from .session import Colours, Run, Session


def common_colours(request: Features, session: Session, segmenter: Segmenter, steps: Steps) -> Colours:
    """The colours of a request's common scans, from the session if it has them; a scan that cannot be used does not contribute to them.

    Args:
        request: names them.
        session: reads them, and keeps the colours.
        segmenter: computes.
        steps: counts the steps of its stages.

    Raises:
        InputError: if none of the scans can be used.
    """
    files = [state_of(Path(path)) for path in request.common]
    key = f"{segmenter.model.fingerprint} {segmenter.recipe} {segmenter.precision} {request.frame} {request.seed} {files}"
    if session.colours is not None and session.colours.key == key:
        return session.colours
    samples, spacing = [], None
    for path in request.common:
        with suppress(MassError):
            scan = session.scans.read(Path(path), request.frame)
            spacing = spacing or view_spacing(scan.geometry, segmenter.recipe)
            samples.append(sample(segmenter, view(segmenter, scan, spacing, steps), steps, request.seed))
    if not samples or spacing is None:
        raise InputError("None of the scans that share their colours can be used.", "Run each scan alone to see its error.")
    session.colours = Colours(key=key, spacing_zyx=spacing, basis=Basis.of(samples))
    return session.colours


def features(request: Features, session: Session, run: Run, files: Job) -> tuple[Painting, Triple]:
    """Paint the features of a target, in the colours of the request's common scans or its own, and write all files of it, or none.

    Args:
        request: names the common scans.
        session: the network, and the colours of the request before.
        run: gets progress.
        files: the target, and the files to write.

    Returns:
        The colours of every voxel, and the working voxel size in mm, z y x.

    Raises:
        MassError: if the scans cannot be used, memory does not suffice, or files cannot be written.
        Cancelled: if the run was cancelled.
    """
    segmenter, steps = session.segmenter(request, run), Steps(*run.callbacks.values())
    # Before the target is read, so that one scan is in memory at a time.
    colours = common_colours(request, session, segmenter, steps) if request.common else None
    with run.stage("read"):
        target = session.scans.read(files.target, request.frame)
    if colours is not None:
        spacing = colours.spacing_zyx
        painting = paint(segmenter, view(segmenter, target, spacing, steps), colours.basis, steps)
    else:
        spacing, painting = view_spacing(target.geometry, segmenter.recipe), look(segmenter, target, steps, request.seed)
    run.seconds.update(steps.seconds)
    with run.stage("write"), all_or_none(files.files) as place:
        painting.write(place[files.output])
        if files.picture is not None:
            from ..pictures import colour_volume, panels

            panels.write_png(place[files.picture], colour_volume.render(target, painting.rgb, modality=painting.modality))
        run.check()
    return painting, spacing
