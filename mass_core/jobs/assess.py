"""The quality of a label map, just made or from a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.quality import Quality, assess
from ..inference.segmenter import Decision
from ..volumes.label_maps import check_belongs
from ..volumes.mask_files import read_label_map
from ..volumes.volume import Volume
from ..worker.requests import Assess
from .checks import check_assess
from .session import Run, Session, Tools


@dataclass(frozen=True, kw_only=True)
class Assessed:
    """The quality of a label map from a file."""

    tools: Tools
    quality: dict[int, Quality]
    """By label of the task."""
    notes: tuple[str, ...]
    """Notes about the position of the label map, one sentence each."""

    def labels(self) -> list[dict[str, Any]]:
        """The labels with their quality as JSON values."""
        return [{"value": x.value, "name": x.name, "quality": self.quality[x.value].to_json()} for x in self.tools.task.labels]


def assess_labels(
    tools: Tools, target: Volume, labels: Volume, run: Run, decisions: Mapping[int, Decision] | None = None
) -> dict[int, Quality]:
    """Estimate the quality of every label of a scan's label map; `decisions` of the segmentation it is from."""
    with run.stage("assess"):
        return assess(tools.segmenter, tools.task, target, labels, tools.references, decisions=decisions, **run.callbacks)


def assess_file(request: Assess, session: Session, run: Run) -> Assessed:
    """Read a scan and its label map, and estimate how good it is.

    Args:
        request: names both, and what the label map should show.
        session: the network and what is kept.
        run: reports progress.

    Raises:
        MassError: if a file cannot be used, or the label map lies elsewhere than the scan.
        Cancelled: if the run was cancelled.
    """
    check_assess(request)
    with run.stage("read"):
        target = session.scans.read(Path(request.target), request.frame)
        result = read_label_map(Path(request.result), session.scans.read)
    result = result.on_grid_of(target) if request.same_grid else result
    notes = check_belongs(target.geometry, result, image_is="scan", labels_are="result")
    tools = session.tools(request, run)
    return Assessed(tools=tools, quality=assess_labels(tools, target, result, run), notes=notes)
