"""Finetuning on another computer (--on): the scans go there over ssh, the folder of the run is copied back while it runs."""

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

from ..runs.run_folder import check_enter
from ..runs.state import saved
from ..runs.stopping import Signals

_BEST = "best.safetensors"


def run(request: Finetune, arguments: argparse.Namespace, output: Output) -> dict[str, Any]:
    """Have a request done; Ctrl-C stops it, and the best weights so far come back.

    Args:
        request: as for a run here.
        arguments: say where, whether to resume, and perhaps that scans may be sent there.
        output: receives progress and warnings.

    Returns:
        The outcome of the run (docs/formats.md).

    Raises:
        MassError: if it cannot be done.
        Cancelled: if it was stopped before there was anything to keep.
    """
    assert request.folder is not None
    folder, states = Path(request.folder), Path(request.folder) / "state"
    check_enter(folder, arguments.resume)
    if arguments.resume == "last" and not saved(states):
        raise InputError(f"There is no state to resume in {states}.", "Start without --resume, or with --resume auto.")
    target = folder / _BEST if request.output is None else Path(request.output)
    check_free([target], overwrite=request.overwrite or bool(arguments.resume), inputs=inputs(request))
    arguments.terminal = output
    with folders_ready([target, folder / _BEST]), client(arguments) as there, Signals() as signals:
        replies: list[Reply] = []
        errors: list[MassError] = []
        # The best weights come into the folder as they are found, so the result may replace them.
        params = {**asdict(request), "output": str(target), "overwrite": True, "resume": bool(arguments.resume)}
        call = there.request("finetune", params, progress=output.progress, done=replies.append, failed=errors.append)
        while call.state == "waiting":
            there.pump()
            if signals.stop_requested:
                call.cancel()
    if errors:
        if saved(states):
            output.warn(f"What was done until then is in {folder}; the same command with --resume continues it.")
        raise errors[0]
    if not replies:
        raise Cancelled
    result: dict[str, Any] = replies[0]["result"]
    for warning in result["warnings"]:
        output.warn(warning)
    return result
