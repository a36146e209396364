"""Answers the worker's requests: each method is a use case, its outcome becomes JSON values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..config import to_dict
from ..devices import Peak, choose_device
from ..outputs import check_free, folders_ready, plan
from ..schema import read
from ..weights.checkpoint import Model
from ..worker.finetuning import finetune
from ..worker.requests import Adapt, Assess, Encode, Features, Finetune, Load, Segment
from ..worker.server import Job
from .assess import assess_file
from .checks import check_task_source, inputs
from .encode import encode
from .features import features
from .segment import segment, tools_for
from .session import Run, Session, label_facts

_LABEL = ("value", "name", "color", "terminology", "kept")
"""Facts about a label in every reply."""


class Service:
    """Answers the requests that need PyTorch, one session long."""

    def __init__(self) -> None:
        self._session = Session()
        self._methods: dict[str, tuple[type[Load | Finetune], Callable[[Any, Run], dict[str, Any]]]] = {
            "load": (Load, lambda request, run: _facts(self._session.model(request, run))),
            "encode": (Encode, self._encode),
            "adapt": (Adapt, self._encode),
            "segment": (Segment, self._segment),
            "assess": (Assess, self._assess),
            "features": (Features, self._features),
            "finetune": (Finetune, self._finetune),
        }

    def answer(self, job: Job) -> dict[str, Any]:
        """Run a job.

        Returns:
            `result`, `timings`, `device` and `peak_memory` of the reply.

        Raises:
            MassError: if its params or files cannot be used.
            Cancelled: if it was cancelled.
        """
        kind, act = self._methods[job.request.method]
        request = read(kind, job.request.params)
        device = _numbered(choose_device(request.device))
        peak, run = Peak(device), Run(device, job.progress, job.cancelled, job.log)
        result = act(request, run)
        timings = {stage: round(seconds, 3) for stage, seconds in run.seconds.items()}
        return {"result": result, "timings": timings, "device": str(device), "peak_memory": peak.measured()}

    def unload(self) -> None:
        """Release everything that is kept, and its memory."""
        self._session.release()

    def _encode(self, request: Encode, run: Run) -> dict[str, Any]:
        made = encode(request, self._session, run)
        return {
            "output": str(Path(request.output)),
            "labels": label_facts(made.task, *_LABEL, "spacing_zyx", "references", "parts"),
            "modality": made.task.modality,
            "warnings": made.task.warnings,
            "reused": run.reused,
            **(made.fitted.facts() if made.fitted else {}),
        }

    def _segment(self, request: Segment, run: Run) -> dict[str, Any]:
        check_task_source(request)
        (files,) = plan([Path(request.target)], Path(request.output), None, None)
        check_free([files.output], overwrite=request.overwrite, inputs=inputs(request))
        with folders_ready([files.output]):
            tools = tools_for(request, self._session, run, [files])
            made = segment(request, self._session, run, tools, files)
        return {"output": str(files.output), **made.to_json(*_LABEL), "reused": run.reused}

    def _assess(self, request: Assess, run: Run) -> dict[str, Any]:
        made = assess_file(request, self._session, run)
        return {"labels": made.labels(), "warnings": list(made.notes)}

    def _features(self, request: Features, run: Run) -> dict[str, Any]:
        (files,) = plan([Path(request.target)], Path(request.output), None, None)
        check_free([files.output], overwrite=request.overwrite, inputs=inputs(request))
        with folders_ready([files.output]):
            painting, _ = features(request, self._session, run, files)
        facts = {name: getattr(painting, name) for name in ("explained", "modality", "warnings")} | {"seed": request.seed}
        return {"output": str(files.output), **facts}

    def _finetune(self, request: Finetune, run: Run) -> dict[str, Any]:
        self.unload()  # the process that trains gets the memory
        return finetune(request, log=run.log, **run.callbacks)


def _numbered(device: torch.device) -> torch.device:
    """The same device under one name: cuda is cuda:0."""
    return torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" and device.index is None else device


def _facts(model: Model) -> dict[str, Any]:
    """The reply to `load`."""
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "recipe": to_dict(model.recipe),
        "licence": model.licence,
        "device": str(model.device),
        "classes": [] if model.task is None else label_facts(model.task, "value", "name", "color"),
    }
