"""Finetuning on another computer (--on): the scans go there over ssh, the folder of the run comes back while it goes on."""

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


def run(order: Finetune, arguments: argparse.Namespace, output: Output) -> dict[str, Any]:
    """Have an order done; Ctrl-C stops it, and the best weights so far come back.

    Args:
        order: as for a run here.
        arguments: say where, whether to resume, and perhaps that scans may be sent there.
        output: hears how far it is.

    Returns:
        What is told about the run (docs/formats.md).

    Raises:
        MassError: if it cannot be done.
        Cancelled: if it was stopped before there was anything to keep.
    """
    assert order.folder is not None
    folder, states = Path(order.folder), Path(order.folder) / "state"
    check_enter(folder, arguments.resume)
    if arguments.resume == "last" and not saved(states):
        raise InputError(f"There is no state to resume in {states}.", "Start without --resume, or with --resume auto.")
    target = folder / _BEST if order.output is None else Path(order.output)
    check_free([target], overwrite=order.overwrite or bool(arguments.resume), inputs=inputs(order))
    arguments.terminal = output
    with folders_ready([target, folder / _BEST]), client(arguments) as there, Signals() as signals:
        replies: list[Reply] = []
        errors: list[MassError] = []
        # The best weights come into the folder as they are found, so the result may replace them.
        params = {**asdict(order), "output": str(target), "overwrite": True, "resume": bool(arguments.resume)}
        call = there.request("finetune", params, progress=output.progress, done=replies.append, failed=errors.append)
        while call.state == "waiting":
            there.pump()
            if signals.asked:
                call.cancel()
    if errors:
        if saved(states):
            output.warn(f"What was done until then is in {folder}; the same command with --resume goes on.")
        raise errors[0]
    if not replies:
        raise Cancelled
    result: dict[str, Any] = replies[0]["result"]
    for warning in result["warnings"]:
        output.warn(warning)
    return result
