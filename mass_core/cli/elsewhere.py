"""The commands that run on another computer (--on): the same checks before, the same files and lines after."""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import HostError, InputError
from ..jobs.checks import check_assess, check_order, check_references, inputs, task_file
from ..outputs import Job, all_or_none, amount, check_free, folders_ready, plan
from ..remote.reasons import ENOUGH
from ..worker.requests import Adapt, Assess, Encode, Features, Load, Segment
from .batch import Batch
from .options import as_request
from .remote import check_agreed
from .segment import check_predictions, describe_predictions
from .shards import Share, shard_of

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
    check_order(_segment(arguments, str(arguments.target[0]), ""))
    jobs = plan(arguments.target, arguments.output, arguments.output_dir, arguments.picture, form=arguments.format)
    check_predictions(arguments)
    share = Share(shard_of(arguments), jobs, overwrite=arguments.overwrite)
    files = [path for job in share.left for path in (job.output, job.picture) if path is not None]
    used = inputs(_segment(arguments, str(arguments.target[0]), ""))
    check_free(files, overwrite=arguments.overwrite, inputs=[*used, *arguments.target])
    with folders_ready([*files, share.table]), client(arguments) as there:
        batch, broken = Batch(arguments.terminal, len(jobs), len(share.left)), 0
        for job in share.left:
            before = broken
            with batch.target(job.target), share.noting(job) as note:
                try:
                    labels = _one(there, arguments, job)
                    note(labels)
                    describe_predictions(arguments, {label["value"]: label["name"] for label in labels})
                except HostError:
                    broken += 1
                    raise
            broken = broken if broken > before else 0
            if broken == ENOUGH:
                raise _given_up(arguments.on)
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
    """PCA colours of the network's features."""
    jobs = plan(arguments.target, arguments.output, arguments.output_dir, arguments.picture, what="features")
    if len(jobs) > 1 or arguments.picture is not None:
        raise InputError(
            "Another computer looks at one scan at a time, and draws no picture: scans of one call would share their colours.",
            "Give one scan without --picture, or leave out --on.",
        )
    (job,) = jobs
    began, request = time.monotonic(), as_request(Features, arguments, target=str(job.target), output=str(job.output))
    check_free([job.output], overwrite=arguments.overwrite, inputs=inputs(request))
    with folders_ready([job.output]), client(arguments) as there:
        reply = _ask(there, arguments, "features", request)
    result = reply["result"]
    for warning in result["warnings"]:
        arguments.terminal.warn(warning)
    shares = ", ".join(f"{colour} {share:.0%}" for colour, share in zip(("red", "green", "blue"), result["explained"], strict=True))
    arguments.terminal.result(
        f"{job.output}: {shares} of what the features tell apart ({time.monotonic() - began:.1f} s on {arguments.on})",
        target=str(job.target),
        **result,
        **_run_values(arguments, reply, began),
    )
    return 0


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


def _one(there: "LocalClient", arguments: argparse.Namespace, job: Job) -> list[dict[str, Any]]:
    """Have a target segmented, draw it, tell; returns its labels."""
    began = time.monotonic()
    reply = _ask(there, arguments, "segment", _segment(arguments, str(job.target), str(job.output)))
    if job.picture is not None:
        _draw(job, arguments.frame, reply["result"])
    _tell(arguments, job, reply["result"], reply, began)
    labels: list[dict[str, Any]] = reply["result"]["labels"]
    return labels


def _draw(job: Job, frame: int | None, result: Mapping[str, Any]) -> None:
    """The picture of a target, whose result is here."""
    from ..pictures.label_map import draw
    from ..volumes.mask_files import read_label_map
    from ..volumes.volume import Volume

    assert job.picture is not None
    names = {label["value"]: label["name"] for label in result["labels"]}
    colors = {label["value"]: tuple(label["color"]) for label in result["labels"] if label["color"] is not None}
    scan, found = Volume.read(job.target, frame=frame), read_label_map(job.output)
    with all_or_none([job.picture]) as place:
        draw(place[job.picture], scan, found, names=names, colors=colors, modality=result["modality"])


def _given_up(host: str) -> HostError:
    return HostError(
        f"{host} could not be reached {ENOUGH} times in a row, so the other targets were not tried.",
        f"See what is wrong with mass remote {host}; then repeat the command for the targets that have no result.",
    )


def _tell(arguments: argparse.Namespace, job: Job, result: dict[str, Any], reply: Mapping[str, Any], began: float) -> None:
    """The outcome of a target."""
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
    arguments.terminal.result(
        f"{job.output}: {', '.join(found[:_NAMED] + more)} ({time.monotonic() - began:.1f} s on {arguments.on})",
        **{**result, "target": str(job.target), "output": str(job.output), "picture": picture, "timings": reply["timings"]},
        **_run_values(arguments, reply, began),
    )


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
