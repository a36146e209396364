"""From a target and a task to a label map with the other outputs requested."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..evaluation.quality import Quality
from ..inference.segmenter import Segmentation
from ..outputs import Job, all_or_none, check_free
from ..volumes.appearance import write_labels
from ..volumes.boxes import Box, bounding_box
from ..volumes.volume import Geometry, Volume
from ..worker.requests import Segment
from .assess import assess_labels
from .checks import inputs
from .session import Run, Session, Tools


@dataclass(frozen=True, kw_only=True)
class Segmented:
    """A target that was segmented and written."""

    found: Segmentation
    tools: Tools
    maps: dict[int, Path]
    """Files of probabilities by label."""
    quality: dict[int, Quality]
    """By label; empty if it was not requested."""

    def labels(self, *facts: str) -> list[dict[str, Any]]:
        """The labels as JSON values: these facts, the volume, what decided, and the quality if it is known."""
        found = self.found
        return [
            {
                **{name: getattr(label, name) for name in facts},
                "ml": found.volumes_ml[label.value],
                "decision": asdict(found.decisions[label.value]),
                **({"quality": self.quality[label.value].to_json()} if self.quality else {}),
            }
            for label in self.tools.task.labels
        ]

    def to_json(self, *facts: str) -> dict[str, Any]:
        """The result as JSON values, with these facts about the labels."""
        return {
            "labels": self.labels(*facts),
            "probabilities": {str(value): str(path) for value, path in self.maps.items()},
            "modality": self.found.modality,
            "warnings": self.found.warnings,
        }


def tools_for(request: Segment, session: Session, run: Run, files: Sequence[Job]) -> Tools:
    """Segmenter and task for the targets of a request.

    Args:
        request: of any of the targets.
        session: the network and what is kept.
        run: reports progress.
        files: of all targets; those of probabilities, whose names are known only now, are checked too.

    Raises:
        MassError: if what says what to segment cannot be used, or a file of probabilities exists.
    """
    tools = session.tools(request, run)
    tools = tools if request.output_label is None else tools.renumbered(request.output_label)
    maps = [path for job in files for path in _maps(request, tools, job).values()]
    check_free(maps, overwrite=request.overwrite, inputs=[*inputs(request), *(job.target for job in files)])
    return tools


def segment(request: Segment, session: Session, run: Run, tools: Tools, files: Job) -> Segmented:
    """Segment a target and write all files of it, or none.

    Args:
        request: names the target.
        session: reads the target.
        run: reports progress.
        tools: from `tools_for`.
        files: to write.

    Raises:
        MassError: if the target cannot be used, memory does not suffice, or files cannot be written.
        Cancelled: if the run was cancelled.
    """
    with run.stage("read"):
        target = session.scans.read(files.target, request.frame)
    before = tools.segmenter.preparations
    found = tools.segmenter.segment(target, tools.task, probabilities=request.probabilities, **run.callbacks)
    run.seconds.update(found.timings)
    run.reused["target"] = tools.segmenter.preparations == before
    quality = assess_labels(tools, target, found.labels, run, found.decisions) if request.assess else {}
    made = Segmented(found=found, tools=tools, maps=_maps(request, tools, files), quality=quality)
    with run.stage("write"):
        _write(request, run, files, target, made)
    return made


def _maps(request: Segment, tools: Tools, files: Job) -> dict[int, Path]:
    """The file of probabilities of each label."""
    return {number: files.probability(value) for number, value in tools.mask_values.items()} if request.probabilities else {}


def _write(request: Segment, run: Run, files: Job, target: Volume, made: Segmented) -> None:
    found, task = made.found, made.tools.task
    with all_or_none([*made.maps.values(), *files.files]) as place:
        for number, volume in (found.probabilities or {}).items():
            volume.write(place[made.maps[number]])
        write_labels(_placed(found.labels, request), task.styles, place[files.output])
        if files.picture is not None:
            from ..pictures import label_map, panels

            names = {label.value: label.name for label in task.labels}
            colors = {label.value: label.color for label in task.labels if label.color is not None}
            page = label_map.render(target, found.labels, names=names, colors=colors, modality=found.modality)
            panels.write_png(place[files.picture], page)
        run.check()  # the last moment at which nothing has been left behind


def _placed(labels: Volume, request: Segment) -> Volume:
    """The label map, cropped and with another geometry if the request says so."""
    if request.grid is not None:
        labels = Volume(labels.array, Geometry(shape_zyx=labels.geometry.shape_zyx, **vars(request.grid)))
    if request.crop:
        labels = labels.cropped(bounding_box(labels.array > 0) or Box((0, 0, 0), (1, 1, 1)))
    return labels
