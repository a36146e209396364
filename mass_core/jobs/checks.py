"""Checks of a request before anything is read or computed. Standard library only, so that a command fails at once."""

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError, OutputError
from ..outputs import check_free
from ..weights.store import locate, may_have_classes
from ..worker.requests import Assess, Encode, Load, ReferenceRequest, TargetRequest


def inputs(request: Load) -> list[str]:
    """The files a request reads, which are never written over."""
    pairs = [path for reference in getattr(request, "references", []) for path in (reference.image, reference.mask)]
    common = getattr(request, "common", [])
    return [request.weights, *pairs, *common, *filter(None, [getattr(request, "target", None), getattr(request, "task", None)])]


def check_task_source(request: TargetRequest) -> None:
    """Check that exactly one of references, task or fixed classes defines what to segment, and that files exist.

    Raises:
        InputError: saying what can say it.
    """
    # Only weights of ours tell their classes without PyTorch; of others the network is asked once it is read.
    fixed = not (request.references or request.task) and may_have_classes(locate(request.weights))
    if bool(request.references) + (request.task is not None) + fixed != 1:
        raise ambiguous_task_source()
    if request.references:
        check_references(request)


def ambiguous_task_source() -> InputError:
    """The error for a request that does not define what to segment exactly once."""
    return InputError(
        "What to segment must be given exactly once.",
        "Give either references (--reference IMAGE MASK) or a task (--task FILE); finetuned weights need neither.",
    )


def check_references(request: ReferenceRequest) -> None:
    """Check that there are references and that their files exist.

    Raises:
        InputError: if there are none, or naming the missing file.
    """
    if not request.references:
        raise InputError("No reference is given.", "Give at least one image with its mask (--reference IMAGE MASK).")
    check_files(path for reference in request.references for path in (reference.image, reference.mask))


def check_files(paths: Iterable[str | Path]) -> None:
    """Check that these files exist.

    Raises:
        InputError: naming it.
    """
    for path in paths:
        if not os.path.exists(path):
            raise InputError(f"There is no file {path}.", "Check the spelling and the folder.")


def check_assess(request: Assess) -> None:
    """Check that a request to assess defines what the label map should show, and that files exist.

    Raises:
        InputError: naming what is missing.
    """
    check_task_source(request)
    check_files([request.target, request.result])


def task_file(request: Encode) -> Path:
    """The task file a request writes.

    Raises:
        OutputError: if its name is none for a task, or taken.
    """
    output = Path(request.output)
    if output.suffix != ".masstask":
        raise OutputError(f"{output} is not a valid file name for a task.", "End it with .masstask.")
    check_free([output], overwrite=request.overwrite, inputs=inputs(request))
    return output
