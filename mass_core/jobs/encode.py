"""From references to a task file, adapted to them on request."""

from dataclasses import dataclass

from ..encoding.task import Task
from ..inference.adapt import Adapted, adapt
from ..outputs import folders_ready
from ..worker.requests import Adapt, Encode
from .checks import check_references, task_file
from .session import Run, Session


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A task that was written."""

    task: Task
    fitted: Adapted | None
    """None: the task was not adapted."""


def encode(request: Encode, session: Session, run: Run) -> Encoded:
    """Encode references into a task, adapt it if the request says so, and write it.

    Args:
        request: references and the file to write.
        session: the network and what is kept.
        run: reports progress.

    Raises:
        MassError: if references or file cannot be used.
        Cancelled: if the run was cancelled.
    """
    check_references(request)
    output = task_file(request)
    with folders_ready([output]):
        segmenter = session.segmenter(request, run)
        references, appearance = session.references(request, run)
        task, fitted = session.encode(request, run, segmenter, references, appearance), None
        if isinstance(request, Adapt):
            with run.stage("adapt"):
                fitted = adapt(segmenter, references, task, seconds=request.seconds, seed=request.seed, **run.callbacks)
            task = fitted.task
        run.check()
        task.save(output, overwrite=request.overwrite, with_alignment=request.with_alignment)
        session.keep(task, output)
    return Encoded(task=task, fitted=fitted)
