"""The commands that run on another computer (--on): the same checks before, the same files and lines after."""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ..config import Modality
from ..errors import HostError, InputError
from ..jobs.checks import check_assess, check_references, task_file
from ..outputs import Job, amount, folders_ready
from ..remote.reasons import ENOUGH
from ..worker.requests import Adapt, Assess, Encode, Features, Load, Segment
from .common.batch import Batch
from .common.options import as_request
from .common.shards import Share
from .features import COMMON
from .features import begun as begun_features
from .remote import check_agreed
from .segment import begun, describe_predictions

if TYPE_CHECKING:
    from ..worker.transport import LocalClient

_NAMED = 8
"""Labels a summary line names."""
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


def segment(arguments: argparse.Namespace) -> int:
    """Segment every target."""
    first = _segment(arguments, str(arguments.target[0]), "")
    with begun(arguments, first) as (share, batch, table), client(arguments) as there:
        for job in share.left:
            with batch.target(job.target), share.noting(job) as note:
                values = _one(there, arguments, job)
                note(values["labels"])
                table.add(values)
                describe_predictions(arguments, {label["value"]: label["name"] for label in values["labels"]})
            if job.target in batch.failures:
                table.add_failure(job.target, batch.failures[job.target])
            _check_line(arguments.on, share, batch, job)
        share.close(arguments.terminal)
    return batch.exit_status


def encode(arguments: argparse.Namespace) -> int:
    """References to a task file."""
    return _learn(arguments, "encode", as_request(Encode, arguments))


def adapt(arguments: argparse.Namespace) -> int:
    """References to a task file whose embeddings are fitted to them."""
    request = as_request(Adapt, arguments)
    if request.seconds <= 0:
        raise InputError(f"--seconds is {request.seconds:g}.", "Give more than 0.")
    return _learn(arguments, "adapt", request)


def assess(arguments: argparse.Namespace) -> int:
    """Estimate the quality of an existing label map."""
    request = as_request(Assess, arguments)
    check_assess(request)
    with client(arguments) as there:
        result = _ask(there, arguments, "assess", request)["result"]
    for warning in result["warnings"]:
        arguments.terminal.warn(warning)
    text = "\n".join(_judged(label) for label in result["labels"])
    arguments.terminal.result(text, target=request.target, result=request.result, labels=result["labels"])
    return 0


def features(arguments: argparse.Namespace) -> int:
    """PCA colours of the network's features, common to all targets: those of the first ones, for all would have to be there at once."""
    with begun_features(arguments) as (first, jobs, share, batch), client(arguments) as there:
        common = [str(job.target) for job in jobs[:COMMON] if job.target.exists()] if len(jobs) > 1 else []
        for job in share.left:
            with batch.target(job.target), share.noting(job):
                _look(there, arguments, job, replace(first, target=str(job.target), output=str(job.output), common=common))
            _check_line(arguments.on, share, batch, job)
        share.close(arguments.terminal)
    return batch.exit_status


def _look(there: "LocalClient", arguments: argparse.Namespace, job: Job, request: Features) -> None:
    """Have the features of a target painted, draw them, tell."""
    began = time.monotonic()
    reply = _ask(there, arguments, "features", request)
    result = reply["result"]
    if job.picture is not None:
        _draw_colours(job, arguments.frame, result["modality"])
    for warning in result["warnings"]:
        arguments.terminal.warn(warning)
    shares = ", ".join(f"{colour} {share:.0%}" for colour, share in zip(("red", "green", "blue"), result["explained"], strict=True))
    picture = None if job.picture is None else str(job.picture)
    arguments.terminal.result(
        f"{job.output}: {shares} of what the features tell apart ({time.monotonic() - began:.1f} s on {arguments.on})",
        **{**result, "target": str(job.target), "output": str(job.output), "picture": picture},
        **_run_values(arguments, reply, began),
    )


def _ask(there: "LocalClient", arguments: argparse.Namespace, method: str, request: Load) -> dict[str, Any]:
    """Send a request, show its progress, wait for the reply."""
    return there.ask(method, asdict(request), progress=arguments.terminal.progress, timeout_s=_PATIENCE_S)


def _learn(arguments: argparse.Namespace, method: str, request: Encode) -> int:
    """encode and adapt."""
    check_references(request)
    output = task_file(request)
    with folders_ready([output]), client(arguments) as there:
        reply = _ask(there, arguments, method, request)
    result = reply["result"]
    for warning in result["warnings"]:
        arguments.terminal.warn(warning)
    names = ", ".join(f"{label['name']} ({label['value']})" for label in result["labels"])
    fitted = f"; {result['steps']} steps in {result['seconds']:.1f} s" if method == "adapt" else ""
    arguments.terminal.result(f"{output}: {names}{fitted} on {arguments.on}", **result, device=reply["device"], host=arguments.on)
    return 0


def _segment(arguments: argparse.Namespace, target: str, output: str) -> Segment:
    return as_request(Segment, arguments, target=target, output=output)


def _one(there: "LocalClient", arguments: argparse.Namespace, job: Job) -> dict[str, Any]:
    """Have a target segmented, draw it, tell; returns the result as JSON values."""
    began = time.monotonic()
    reply = _ask(there, arguments, "segment", _segment(arguments, str(job.target), str(job.output)))
    if job.picture is not None:
        _draw(job, arguments.frame, reply["result"])
    return _tell(arguments, job, reply, began)


def _draw(job: Job, frame: int | None, result: Mapping[str, Any]) -> None:
    """The picture of a target, whose result is here."""
    from ..pictures import label_map, panels
    from ..volumes.mask_files import read_label_map
    from ..volumes.volume import Volume

    assert job.picture is not None
    names = {label["value"]: label["name"] for label in result["labels"]}
    colors = {label["value"]: tuple(label["color"]) for label in result["labels"] if label["color"] is not None}
    scan, found = Volume.read(job.target, frame=frame), read_label_map(job.output)
    panels.write_png(job.picture, label_map.render(scan, found, names=names, colors=colors, modality=result["modality"]))


def _draw_colours(job: Job, frame: int | None, modality: Modality) -> None:
    """The picture of a target, whose colours are here."""
    import SimpleITK as sitk

    from ..pictures import colour_volume, panels
    from ..volumes.volume import Volume

    assert job.picture is not None
    rgb = sitk.GetArrayFromImage(sitk.ReadImage(str(job.output)))
    panels.write_png(job.picture, colour_volume.render(Volume.read(job.target, frame=frame), rgb, modality=modality))


def _check_line(host: str, share: Share, batch: Batch, job: Job) -> None:
    """Stop after a target if the other computer could not be reached for it and for those before it.

    Raises:
        HostError: saying so.
    """
    end = share.left.index(job) + 1
    failures = [batch.failures.get(one.target) for one in share.left[max(0, end - ENOUGH) : end]]
    if len(failures) == ENOUGH and all(isinstance(error, HostError) for error in failures):
        raise HostError(
            f"{host} could not be reached {ENOUGH} times in a row, so the other targets were not tried.",
            f"See what is wrong with mass remote {host}; then repeat the command for the targets that have no result.",
        )


def _tell(arguments: argparse.Namespace, job: Job, reply: Mapping[str, Any], began: float) -> dict[str, Any]:
    """Print warnings and the result; returns the result as JSON values."""
    result = reply["result"]
    labels = result["labels"]
    for warning in result["warnings"]:
        arguments.terminal.warn(f"{job.target.name}: {warning}")
    if missing := [label["name"] for label in labels if not label["ml"]]:
        arguments.terminal.warn(f"Nothing was found of {', '.join(missing)} in {job.target.name}.")
    for label in labels if arguments.assess else ():
        arguments.terminal.warn(_judged(label, f" in {job.target.name}"))
    found = [f"{label['name']} {amount(label['ml'])}" for label in labels]
    more = [f"{len(found) - _NAMED} more"] if len(found) > _NAMED else []
    picture = None if job.picture is None else str(job.picture)
    values = {**result, "target": str(job.target), "output": str(job.output), "picture": picture, "timings": reply["timings"]}
    text = f"{job.output}: {', '.join(found[:_NAMED] + more)} ({time.monotonic() - began:.1f} s on {arguments.on})"
    arguments.terminal.result(text, **values, **_run_values(arguments, reply, began))
    return values


def _run_values(arguments: argparse.Namespace, reply: Mapping[str, Any], began: float) -> dict[str, Any]:
    """Computer, device and duration of a run."""
    return {"seconds": round(time.monotonic() - began, 3), "device": reply["device"], "host": arguments.on}


def _judged(label: Mapping[str, Any], where: str = "") -> str:
    """The estimate of a label in a line."""
    quality = label["quality"]
    expected = "" if quality["expected_dice"] is None else f", expected Dice {quality['expected_dice']:.2f}"
    return " ".join([f"{label['name']}{where}: {quality['flag']}{expected}.", *quality["reasons"]])


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "segment": segment,
    "encode": encode,
    "adapt": adapt,
    "assess": assess,
    "features": features,
}
