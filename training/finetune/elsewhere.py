"""Finetuning on another computer (--on): the scans go there over ssh, the weights come back."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mass_core.cli.elsewhere import client
from mass_core.console import Output
from mass_core.errors import Cancelled, InputError, MassError
from mass_core.outputs import check_free, folders_ready
from mass_core.worker.client import Reply
from mass_core.worker.finetuning import inputs
from mass_core.worker.requests import Finetune

from ..runs.stopping import Signals

_BEST = "best.safetensors"


def run(request: Finetune, arguments: argparse.Namespace, output: Output) -> dict[str, Any]:
    """Have a request done; Ctrl-C stops it, and the best weights so far come back.

    Args:
        request: as for a run here. Of its folder there will be the best weights only.
        arguments: say where, and perhaps that scans may be sent there.
        output: hears how far it is.

    Returns:
        The outcome of the run (docs/formats.md).

    Raises:
        MassError: if it cannot be done.
        Cancelled: if it was stopped before there was anything to keep.
    """
    assert request.folder is not None
    if arguments.resume:
        raise InputError("A run on another computer cannot be resumed: it leaves nothing there.", "Leave out --resume, or --on.")
    target = Path(request.output or Path(request.folder) / _BEST)
    check_free([target], overwrite=request.overwrite, inputs=inputs(request))
    arguments.terminal = output
    with folders_ready([target]), client(arguments) as there, Signals() as signals:
        replies: list[Reply] = []
        errors: list[MassError] = []
        params = {**asdict(request), "folder": None, "output": str(target)}
        call = there.request("finetune", params, progress=output.progress, done=replies.append, failed=errors.append)
        while call.state == "waiting":
            there.pump()
            if signals.asked:
                call.cancel()
    if errors:
        if target.exists() and not request.overwrite:
            output.warn(f"The best weights until then are in {target}.")
        raise errors[0]
    if not replies:
        raise Cancelled
    result: dict[str, Any] = replies[0]["result"]
    for warning in result["warnings"]:
        output.warn(warning)
    return result
