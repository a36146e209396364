"""A segmentation run: references are encoded, or adapted to, once; then the targets are segmented one by one, while Slicer stays usable.

It works without a window: progress is reported by callbacks.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from mass_core.colors import LabelStyle
from mass_core.errors import HostError, InputError, MassError, MemoryShort
from mass_core.files import write_bytes
from mass_core.outputs import check_no_input, serious
from mass_core.remote.reasons import ENOUGH
from mass_core.worker.client import Client
from mass_core.worker.protocol import error_of, failure

from ..scene import dicom, grids, node_files, sequences
from ..scene import exchange as scene
from ..scene.exports import Exports
from . import cases as c
from .cases import Case
from .order import Destination, Progress, Reference, Settings, host_of, place_of
from .quality import Quality
from .reference_files import Written, write_references
from .worker_run import WorkerRun

_STAGES = {
    "send": (0.0, 0.3),
    "load": (0.0, 0.02),
    "read": (0.02, 0.05),
    "prepare": (0.05, 0.1),
    "segment": (0.1, 0.95),
    "place": (0.95, 0.99),
    "write": (0.99, 1.0),
    "receive": (0.99, 1.0),
}
"""Begin and end of the worker's stages within a target's share of the bar."""
_CHECKED = {**_STAGES, "encode": (0.04, 0.05), "segment": (0.1, 0.5), "place": (0.5, 0.52), "assess": (0.52, 0.99)}
"""With results that are checked."""
_REFERENCES, _ADAPTED = 0.05, 0.4
"""The references' share of the bar: looked at, and adapted to."""


class Run(WorkerRun):
    """One press of the button.

    Args:
        client: to the worker.
        exports: files of volumes, kept from run to run.
        task: references to encode, or a task file; None: the weights have fixed classes.
        cases: targets in order; their status is kept here.
        adapt_s: seconds of adapting to the references; 0: none.
        settings: how to segment.
        destination: where results go.
        log: gets the traceback of a defect of the program.
        changing: called with an existing segmentation before segments are added to it: the moment to save a state for undo.
        changed: called with a case whenever something about it changed.
        flat: called with the ID of a new segmentation that is to get the surface its references have: later, for that takes Slicer seconds.
        progressed: called with a `Progress`.
        finished: called once, with the error that stopped the whole run or None.
    """

    def __init__(
        self,
        client: Client,
        exports: Exports,
        *,
        task: Sequence[Reference] | Path | None,
        cases: Sequence[Case],
        adapt_s: float = 0.0,
        settings: Settings,
        destination: Destination,
        log: Callable[[str], None] = lambda text: None,
        changing: Callable[[slicer.vtkMRMLSegmentationNode], None] = lambda segmentation: None,
        changed: Callable[[Case], None] = lambda case: None,
        flat: Callable[[str], None] = lambda segmentation_id: None,
        progressed: Callable[[Progress], None] = lambda progress: None,
        finished: Callable[[MassError | None], None] = lambda error: None,
    ) -> None:
        super().__init__(client, log)
        self.cases = list(cases)
        self.settings = settings
        self.destination = destination
        self.task_file: Path | None = task if isinstance(task, Path) else None
        self.adapted: dict[str, Any] | None = None
        """The worker's result of adapting, once that is done."""
        self.found: dict[int, LabelStyle] = {}
        self.warnings: tuple[str, ...] = ()
        self.device = ""
        self.memory_short = False
        """True if something failed for lack of memory."""
        self._exports = exports
        self._references = () if task is None or isinstance(task, Path) else tuple(task)
        self._adapt_s = adapt_s
        self._share = _ADAPTED if adapt_s else _REFERENCES
        self._changing, self._changed, self._flat, self._progressed, self._finished = changing, changed, flat, progressed, finished
        self._reference_files: Written | None = None
        """The references as files, if the task was encoded from them without adapting."""
        self._far = 0.0
        """Of the target under way."""
        self._broken = 0
        """Targets in a row for which another computer could not be reached."""
        self._outputs: dict[int, Path] = {}
        self._reference_ids = {reference.volume.GetID() for reference in self._references}
        self._surface = any(r.segmentation.GetSegmentation().ContainsRepresentation("Closed surface") for r in self._references)

    def start(self) -> None:
        """Begin; returns at once.

        Raises:
            MassError: if a reference or the destination cannot be used; nothing has begun then.
        """
        if not self.cases:
            raise InputError(_("There is no target."), _("Choose at least one volume or folder to segment."))
        if self.destination.folder is not None:
            paths = c.output_paths(self.cases, self.destination.folder, self.destination.ending)
            self._outputs = {id(case): path for case, path in zip(self.cases, paths, strict=True)}
        self.active = True
        try:
            self._encode() if self._references and self.task_file is None else self._next()
        except BaseException:  # whatever it is, the run did not begin; it is raised again
            self.active = False
            raise

    def resume(self) -> None:
        """Continue with the targets that are not done: stopped, failed or never begun.

        Raises:
            MassError: as `start`.
        """
        self.memory_short, self._broken = False, 0
        for case in self.cases:
            if not case.over:
                case.reset()
                self._changed(case)
        self.start()

    def _encode(self) -> None:
        """Send the references; their task then serves every target."""
        written = write_references(self._references, self._exports)
        self.found, self.warnings = written.found, tuple(written.warnings)
        output = self._exports.new(".masstask")
        self._reference_files = None if self._adapt_s else written
        params = {**self.settings.params(), **written.params(self._exports), "output": str(output)}
        method = "encode"
        if self._adapt_s:
            method, params = "adapt", {**params, "seconds": self._adapt_s}
        self._encoding("read", 0.0, None)
        self._call = self._client.request(method, params, progress=self._encoding, done=self._encoded, failed=self._end)

    def _encoding(self, stage: str, fraction: float, eta_s: float | None) -> None:
        text = _("Adapting to the references") if stage == "adapt" else _("Encoding the references")
        if stage == "send":
            text = _("Sending the references to {host}: {percent:.0%}").format(host=host_of(self._client), percent=fraction)
        last = "adapt" if self._adapt_s else "encode"
        self._progressed(Progress(text, self._share * fraction if stage == last else 0.0, eta_s if stage in ("send", "adapt") else None))

    def _encoded(self, reply: dict[str, Any]) -> None:
        result = reply["result"]
        self.task_file = Path(result["output"])
        self.adapted = result if self._adapt_s else None
        self.warnings = (*self.warnings, *result["warnings"])
        self._next()

    def _next(self) -> None:
        """Send the next waiting target; one that cannot be used is marked as failed and skipped."""
        self._call = None
        while self.active:
            case = next((case for case in self.cases if case.status == c.WAITING), None)
            if case is None:
                self._end()
                return
            try:
                if not self._begun(case):
                    continue
                return
            except Exception as error:  # noqa: BLE001  # whatever happens to one target, the others get their turn
                self._fail(case, error_of(failure(error)))

    def _begun(self, case: Case) -> bool:
        """Send a target to the worker; False: it is done already."""
        output = self._outputs.get(id(case))
        if output is not None and output.exists() and self.destination.skip_done:
            case.output = output
            self._set(case, c.SKIPPED, _("Its result file already exists."))
            return False
        if output is not None and output.exists():
            check_no_input([output], self._inputs())
        target = self._file_of(case)
        label_file = self._exports.new(".nrrd" if output is None else self.destination.ending)
        params = {**self.settings.params(), **self._task_params(), "target": str(target), "output": str(label_file)}
        params |= {"crop": output is None, "grid": grids.own(self._volume(case)) if output is not None and case.volume_id else None}
        began = time.monotonic()
        self._far = 0.0
        self._set(case, c.RUNNING)

        def progress(stage: str, fraction: float, eta_s: float | None) -> None:
            self._advance(case, stage, fraction, eta_s, time.monotonic() - began)

        def done(reply: dict[str, Any]) -> None:
            case.seconds = time.monotonic() - began
            self._let_go(case, target)
            self._done(case, label_file, reply)

        def failed(error: MassError) -> None:
            label_file.unlink(missing_ok=True)
            self._let_go(case, target)
            self._fail(case, error)
            self._broken = self._broken + 1 if isinstance(error, HostError) else 0
            self._end(error) if self._broken == ENOUGH else self._next()

        self._call = self._client.request(
            "segment", params, progress=progress, done=done, failed=failed, cancelled=lambda: self._let_go(case, target)
        )
        return True

    def _inputs(self) -> list[Path]:
        """The user's files of references and targets."""
        nodes = [node for reference in self._references for node in (reference.volume, reference.segmentation)]
        nodes += [slicer.mrmlScene.GetNodeByID(case.volume_id) for case in self.cases if case.volume_id]
        return [*node_files.own_files(nodes), *(case.path for case in self.cases if case.path)]

    def _task_params(self) -> dict[str, Any]:
        """Task parameters for the worker: a task file; references, where results are checked; or nothing, with a model."""
        checked = {"assess": True} if self.settings.assess else {}
        if checked and self._reference_files is not None and self._reference_files.there:
            return {**checked, **self._reference_files.params(self._exports)}
        return checked | ({"task": str(self.task_file)} if self.task_file is not None else {})

    def _done(self, case: Case, label_file: Path, reply: dict[str, Any]) -> None:
        """Store a result."""
        result, self._broken = reply["result"], 0
        self.device = place_of(reply.get("device", ""), host_of(self._client))
        for label in result["labels"]:
            self.found.setdefault(label["value"], LabelStyle.of(label))
        case.volumes_ml = {label["name"]: label["ml"] for label in result["labels"]}
        case.quality = {label["name"]: Quality.of(label["quality"]) for label in result["labels"] if label.get("quality")}
        missing = [name for name, ml in case.volumes_ml.items() if not ml]
        nothing = (_("Not found: {names}.").format(names=", ".join(missing)),) if missing else ()
        itself = (_("This scan is itself a reference."),) if case.volume_id in self._reference_ids else ()
        case.serious = (*nothing, *serious(result["warnings"]))
        case.warnings = tuple(dict.fromkeys((*case.serious, *itself, *result["warnings"])))
        try:
            self._keep(case, label_file)
            self._set(case, c.DONE)
            self._summarise()
        except Exception as error:  # noqa: BLE001  # whatever happens to one target, the others get their turn
            self._fail(case, error_of(failure(error)))
        finally:
            label_file.unlink(missing_ok=True)
        self._next()

    def _keep(self, case: Case, label_file: Path) -> None:
        """Store a result in the scene or in a file."""
        output = self._outputs.get(id(case))
        if output is not None:
            write_bytes(output, label_file.read_bytes())
            case.output = output
        elif case.frame is not None:
            self._keep_frame(case, label_file)
        else:
            self._keep_volume(case, label_file)

    def _keep_volume(self, case: Case, label_file: Path) -> None:
        """Store a result in the scene, beside the target."""
        into = self.destination.into
        if into is not None and into.GetScene() is None:
            raise InputError(_("The segmentation for the results was removed."), _("Choose another one, and segment this target again."))
        if into is not None:
            self._changing(into)
        volume = self._volume(case)
        case.volume_id = volume.GetID()
        name = self.destination.name.replace("{target}", case.name)
        placed = scene.place_result(volume, label_file, self.found, into=into, name=name)
        case.segmentation_id, case.segment_ids = placed.segmentation.GetID(), placed.segment_ids
        if self._surface and into is None:
            self._flat(case.segmentation_id)

    def _keep_frame(self, case: Case, label_file: Path) -> None:
        """Store a result in the sequence of results beside that of the volume."""
        shown = self._volume(case)
        name = self.destination.name.replace("{target}", shown.GetName())
        with sequences.frame_volume(shown, case.frame) as frame:
            placed = scene.place_result(frame, label_file, self.found, name=name, surface=self._surface)
        case.segment_ids = placed.segment_ids
        case.segmentation_id = sequences.add_frame(shown, case.frame, placed.segmentation, name)

    def _file_of(self, case: Case) -> Path:
        """File or folder of the target for the worker."""
        if case.series:
            return dicom.series_folder(case.series, self._exports.new(""))
        if case.frame is not None:
            path = self._exports.new(".nrrd")
            with sequences.frame_volume(self._volume(case), case.frame) as frame:
                scene.write_volume(frame, path)
            return path
        return case.path or self._exports.volume(self._volume(case))

    def _let_go(self, case: Case, target: Path) -> None:
        """Delete the links to a series or the file of a frame; a volume's file is kept for the next run."""
        if case.series:
            shutil.rmtree(target, ignore_errors=True)
        elif case.frame is not None:
            target.unlink(missing_ok=True)

    def _volume(self, case: Case) -> slicer.vtkMRMLScalarVolumeNode:
        """The volume of a target; a file or series is loaded into the scene."""
        if case.volume_id:
            return scene.volume_by_id(case.volume_id, case.name)
        return dicom.load_series(case.series) if case.series else scene.load_volume(case.path)

    def _advance(self, case: Case, stage: str, fraction: float, eta_s: float | None, spent_s: float) -> None:
        """Report the progress of the whole run."""
        begin, end = (_CHECKED if self.settings.assess else _STAGES).get(stage, (0.0, 1.0))
        own = self._far = max(self._far, begin + (end - begin) * fraction)  # some stages come twice
        number, count = self.cases.index(case), len(self.cases)
        share = self._share + (1 - self._share) * (number + own) / count
        text = _("{name}: {percent:.0%}").format(name=case.name, percent=own)
        if stage == "send":
            text = _("Sending {name} to {host}: {percent:.0%}").format(name=case.name, host=host_of(self._client), percent=fraction)
        if count > 1:
            text = _("{number} of {count}, {text}").format(number=number + 1, count=count, text=text)
        left = None if eta_s is None else eta_s + (count - number - 1) * self._usual_s(spent_s + eta_s)
        self._progressed(Progress(text, share, left))

    def _usual_s(self, guess_s: float) -> float:
        """Seconds a target takes: the mean of those done, else a guess."""
        known = [case.seconds for case in self.cases if case.status == c.DONE]
        return sum(known) / len(known) if known else guess_s

    def _fail(self, case: Case, error: MassError) -> None:
        self._log_details(error)
        self.memory_short |= isinstance(error, MemoryShort)
        self._set(case, c.FAILED, str(error))
        self._summarise()

    def _set(self, case: Case, status: str, message: str = "") -> None:
        case.status, case.message = status, message
        self._changed(case)

    def _summarise(self) -> None:
        """Update the table beside the files, so that a crash loses only the target under way."""
        if self.destination.folder is None:
            return
        try:
            c.write_summary(self.cases, self.destination.folder / c.SUMMARY)
        except MassError as error:
            self.warnings = tuple(dict.fromkeys((*self.warnings, str(error))))

    def _finish(self, error: MassError | None) -> None:
        self.memory_short |= isinstance(error, MemoryShort)
        for case in self.cases:
            if case.status in (c.RUNNING, c.WAITING):
                self._set(case, c.STOPPED)
        if any(case.status != c.STOPPED for case in self.cases):
            self._summarise()
        self._finished(error)
