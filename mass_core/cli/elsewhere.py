"""Another computer (--on): what the commands have computed by a worker there; the same files are made as here."""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ..config import Modality
from ..errors import HostError
from ..outputs import Job
from ..remote.reasons import ENOUGH
from ..worker.requests import Features, Load, Segment
from .common.batch import Batch
from .common.shards import Share
from .remote import check_agreed

if TYPE_CHECKING:
    from ..worker.transport import LocalClient

Ask = Callable[[str, Load], dict[str, Any]]
"""Sends a request of this method and returns the reply."""
Outcome = tuple[dict[str, Any], Sequence[str]]
"""JSON values of a segmented target, and the warnings among them that concern all targets alike."""

_PATIENCE_S = 7 * 86400.0


@contextmanager
def client(arguments: argparse.Namespace) -> Iterator["LocalClient"]:
    """A client of a worker there.

    Raises:
        InputError: if the user has not agreed that scans are sent there.
    """
    from ..remote.ssh import SshTransport
    from ..worker.transport import LocalClient

    check_agreed(arguments)
    there = LocalClient(transport=lambda: SshTransport(arguments.on))
    try:
        yield there
    finally:
        there.close()


@contextmanager
def asking(arguments: argparse.Namespace) -> Iterator[Ask]:
    """A function that sends a request of this method there, shows its progress, and waits for the reply."""
    with client(arguments) as there:
        yield lambda method, request: there.ask(method, asdict(request), progress=arguments.terminal.progress, timeout_s=_PATIENCE_S)


def segment_there(ask: Ask, arguments: argparse.Namespace, request: Segment, job: Job) -> Outcome:
    """Have a target segmented there, and draw it."""
    reply = ask("segment", replace(request, target=str(job.target), output=str(job.output)))
    _draw(job, arguments.frame, reply["result"])
    return {**reply["result"], "timings": reply["timings"], "device": reply["device"], "host": arguments.on}, ()


def paint_there(ask: Ask, arguments: argparse.Namespace, request: Features, job: Job) -> dict[str, Any]:
    """Have the features of a target painted there, draw them, and return JSON values of the result."""
    reply = ask("features", request)
    _draw_colours(job, arguments.frame, reply["result"]["modality"])
    return {**reply["result"], "device": reply["device"], "host": arguments.on}


def check_line(arguments: argparse.Namespace, share: Share, batch: Batch, job: Job) -> None:
    """Stop after a target if the other computer could not be reached for it and for those before it.

    Raises:
        HostError: saying so.
    """
    end = share.left.index(job) + 1
    failures = [batch.failures.get(one.target) for one in share.left[max(0, end - ENOUGH) : end]]
    if len(failures) == ENOUGH and all(isinstance(error, HostError) for error in failures):
        raise HostError(
            f"{arguments.on} could not be reached {ENOUGH} times in a row, so the other targets were not tried.",
            f"Find the cause with mass remote {arguments.on}; then repeat the command for the targets without a result.",
        )


def _draw(job: Job, frame: int | None, result: Mapping[str, Any]) -> None:
    """Draw the picture of a target, whose result is here, if one is wanted."""
    if job.picture is None:
        return
    from ..pictures import label_map, panels
    from ..volumes.mask_files import read_label_map
    from ..volumes.volume import Volume

    names = {label["value"]: label["name"] for label in result["labels"]}
    colors = {label["value"]: tuple(label["color"]) for label in result["labels"] if label["color"] is not None}
    scan, found = Volume.read(job.target, frame=frame), read_label_map(job.output)
    panels.write_png(job.picture, label_map.render(scan, found, names=names, colors=colors, modality=result["modality"]))


def _draw_colours(job: Job, frame: int | None, modality: Modality) -> None:
    """Draw the picture of a target, whose colours are here, if one is wanted."""
    if job.picture is None:
        return
    import SimpleITK as sitk

    from ..pictures import colour_volume, panels
    from ..volumes.volume import Volume

    rgb = sitk.GetArrayFromImage(sitk.ReadImage(str(job.output)))
    panels.write_png(job.picture, colour_volume.render(Volume.read(job.target, frame=frame), rgb, modality=modality))
