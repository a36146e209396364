"""Segmentation: references to a task, then target and task to a label map on the target's own grid."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from .. import config
from ..alignment.atlas import Atlas, make_atlas, modality_of
from ..alignment.fusion import reliability
from ..alignment.locate import aligned_labels, locate
from ..alignment.prior import Prior
from ..alignment.trust import LEAST_TRUST, OUTSIDE
from ..cache import LruCache
from ..colors import LabelStyle
from ..config import Modality, Recipe, Triple, to_dict
from ..devices import check_compiler
from ..encoding.location import closeness
from ..encoding.reference_encoder import ReferenceEncoder, content_key, preparation, unique
from ..encoding.task import Task, TaskLabel
from ..errors import InputError, known_failures
from ..model.compute import Compute, choose_compute, with_one_retry
from ..progress import Report, Steps
from ..volumes.boxes import Box, label_boxes
from ..volumes.intensity import check_intensities
from ..volumes.label_maps import as_label_map, voxels_of
from ..volumes.preprocess import Prepared, Record, prepare, restore_probabilities
from ..volumes.volume import Geometry, Volume
from ..weights.other_encoders import refuse_unlearned
from .decision import WorkingResult, interpolated, keep_largest_parts, kind_of, mapped, nearest, network_evidence
from .sliding_window import sliding_window_inference, split_passes

if TYPE_CHECKING:
    from ..weights.checkpoint import Model

_PREPARED_BYTES = 1 << 30
"""Bytes of prepared targets kept for the next run."""
_ATLAS_BYTES = 1 << 29
"""Bytes of references made ready for alignment and kept for the next run."""
_NO_ATLAS = (
    "The task holds no images to align with the scan. The same scans given as references, or encoded with --with-alignment, would give "
    "better results."
)
_WORTH_SAYING = 0.1
"""Share of a structure's box beyond the end of the references' scans from which a message says so: a spine is always cut off somewhere."""
_GOES_ON = "beyond their ends the network alone decided"
_ENDS = "the result ends there as well, because the network is not reliable enough to continue alone"
_ABSENT = "its expected position, given the other structures, lies outside the scan"
_MIRRORED = "the scan fits the reference far better mirrored {}, so its orientation may be stored wrongly"
_MIRRORED_NOTE = (
    "The scan fits the reference far better mirrored {}: its orientation may be stored wrongly. The scan was not reoriented, and "
    "alignment was skipped. Check the scan's orientation, left and right included, before you use the result."
)
_SURPLUS, _MUCH = 0.01, 0.4
"""Shares of a label that are reported, and warned of, if they lie in more parts than the references have."""
_AGREEING = ("orientation", "spacing_zyx", "ct_clip_hu", "percentiles")
"""Fields of a recipe in which references and targets must not differ."""


class Probabilities(Mapping[int, Volume]):
    """Probability maps on the target's own grid by label, each made on request."""

    def __init__(self, groups: Sequence[WorkingResult]) -> None:
        self._maps = {number: (values, group.record) for group in groups for number, values in zip(group.numbers, group.maps, strict=True)}

    def __getitem__(self, value: int) -> Volume:
        return restore_probabilities(*self._maps[value])

    def __iter__(self) -> Iterator[int]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The decision about a label: by alignment, by the network, or by both."""

    by: Literal["alignment and network", "alignment", "network"]
    trust: float | None = None
    """Of the alignment, from 0 to 1; None: the references were not aligned, or not with this part of the body."""
    reason: str = ""
    """The reason the alignment was not trusted; empty where it was, or was not computed."""
    network_dice: float | None = None
    """Estimated Dice of what the network finds there; None where the alignment was not trusted, or decided alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """Result of segmenting a target."""

    labels: Volume
    """Label map on the target's grid, uint8 or, with a label above 255, uint16."""
    probabilities: Probabilities | None
    """Float32 maps on the target's grid, if they were requested."""
    volumes_ml: dict[int, float]
    """Volume of each label of the task."""
    passes: tuple[tuple[int, ...], ...]
    """Labels that were decoded together and so could influence each other."""
    decisions: dict[int, Decision]
    """By label what decided about it."""
    modality: Modality
    """The target was processed as."""
    warnings: tuple[str, ...]
    """Notes for the user, one sentence each."""
    timings: dict[str, float]
    """Seconds by stage: prepare, segment, place."""


class Segmenter:
    """Segments targets by references, with one model and one recipe; caches what it prepared and encoded lately.

    Args:
        model: from `load_model`.
        recipe: `default`, `released`, or a recipe of one's own made from `model.recipe`.
        precision: auto, float32, bfloat16 or float16; auto is bfloat16 on CUDA devices that have it, else float32.
        compile: compile the pass of the network over windows when it is first used, and again for another number of labels: about a
            minute each, less once it was done on this computer. For many scans with the same labels.

    Raises:
        InputError: if the window is too small for the network.
        DeviceError: if the device is none PyTorch compiles for.
    """

    def __init__(self, model: "Model", recipe: str | Recipe = "default", *, precision: str = "auto", compile: bool = False) -> None:
        self.model = model
        self.recipe = config.recipe(recipe, model.recipe) if isinstance(recipe, str) else recipe
        self.precision = precision
        self.compile = compile
        self._compiled: dict[int, Compute] = {}
        if compile:
            check_compiler("the network", model.device)
        least = 2 * model.network.config.stride
        if min(self.recipe.window_zyx) < least:
            raise InputError(f"The window is {self.recipe.window_zyx} voxels.", f"Choose at least {least} for each side.")
        self._encoder = ReferenceEncoder(model.network, self.recipe, model.fingerprint)
        self._prepared: LruCache[Prepared] = LruCache(_PREPARED_BYTES)
        self._atlases: LruCache[Atlas] = LruCache(_ATLAS_BYTES)
        self.preparations = 0
        """Number of targets prepared because they were not at hand."""

    @property
    def encodings(self) -> int:
        """Number of encodings of a reference's label that were not in the cache."""
        return self._encoder.encodings

    def with_recipe(self, recipe: Recipe) -> "Segmenter":
        """A segmenter with another recipe; it shares the caches if both recipes prepare scans alike."""
        other = Segmenter(self.model, recipe, precision=self.precision, compile=self.compile)
        if preparation(recipe) == preparation(self.recipe):
            other._prepared, other._atlases = self._prepared, self._atlases
            if recipe.aligns == self.recipe.aligns:  # else it lacks, or need not compute, what alignment needs of the network
                other._encoder = self._encoder
        return other

    def encode(
        self,
        references: Sequence[tuple[Volume, Volume]],
        labels: Sequence[int] | None = None,
        *,
        appearance: Mapping[int, LabelStyle] | None = None,
        spacings: Mapping[int, Triple] | None = None,
        progress: Report | None = None,
        cancelled: Callable[[], bool] | None = None,
        to_finetune: bool = False,
    ) -> Task:
        """Encode references into a task.

        Args:
            references: images with their label maps; labels that occur in several are averaged.
            labels: values to learn; None: all that occur.
            appearance: names and colours by value, where known.
            spacings: working voxel size in mm by value; None: what suits the references.
            progress: called for every encoded label.
            cancelled: called between labels; true stops the run.
            to_finetune: the task is where finetuning starts, so the network need not have learned more than to look at images.

        Raises:
            MassError: if a reference cannot be used, or the network cannot learn from any.
            Cancelled: if `cancelled` said so.
        """
        if not references:
            raise InputError("No reference is given.", "Give at least one image with its mask.")
        if not to_finetune:
            refuse_unlearned(self.model.provenance, self.model.name)
        compute, steps = self.compute(labels=1), Steps(progress, cancelled)
        with known_failures():
            encoded, modality, warnings = self._encoder.encode(references, labels, appearance or {}, compute, steps, spacings or {})
        return Task(
            labels=encoded,
            fingerprint=self.model.fingerprint,
            weights=self.model.name,
            recipe=self.recipe,
            modality=modality,
            warnings=warnings,
            atlases=tuple(self._atlases_of(references, [label.value for label in encoded], steps)) if self.recipe.aligns else (),
        )

    def _atlases_of(self, references: Sequence[tuple[Volume, Volume]], values: Sequence[int], steps: Steps) -> Iterator[Atlas]:
        """The references that show some of the labels, ready for alignment."""
        for number, (image, labels) in enumerate(references):
            steps.at("encode", number, len(references))
            labels = as_label_map(labels)
            shown = sorted(set(values) & set(label_boxes(labels.array)))
            key = f"{content_key(image)}{content_key(labels)}{shown}{self.recipe.ct_clip_hu}{self.recipe.percentiles}{self.recipe.modality}"
            atlas = self._atlases.get(key)
            if atlas is None and shown:
                atlas = make_atlas(image, labels, shown, self.recipe, self.model.device)
                self._atlases.put(key, atlas, atlas.size_bytes)
            if atlas is not None:
                yield atlas

    def segment(
        self,
        target: Volume,
        task: Task,
        *,
        progress: Report | None = None,
        cancelled: Callable[[], bool] | None = None,
        probabilities: bool = False,
        near: Sequence[Box] | None = None,
    ) -> Segmentation:
        """Find a task's labels in a scan.

        Args:
            target: the scan as stored.
            task: encoded with the same weights and preprocessing.
            progress: called for every window.
            cancelled: called between windows; true stops the run.
            probabilities: also keep every label's probabilities, those of the network alone; takes a volume of memory for each.
            near: boxes of the target's voxels (z, y, x); windows that touch none of them are left out. Inside the boxes the result
                is the same as without. None: all of the target.

        Raises:
            MassError: if the target or the task cannot be used, or memory does not suffice.
            Cancelled: if `cancelled` said so.
        """
        self.check(task)
        if probabilities and self.recipe.align == "only":
            raise InputError("Alignment alone gives no probabilities.", "Leave out --save-probabilities, or choose --align auto or off.")
        steps = Steps(progress, cancelled)
        priors, decisions, unaligned = self._located(target, task, steps)
        if self.recipe.align == "only":
            return _aligned_only(target, task, priors, decisions, unaligned, steps)
        compute = self.compute(labels=len(task.labels))
        trusted = {value: prior for value, prior in priors.items() if prior.trust >= LEAST_TRUST}
        absent = frozenset(value for value, decision in decisions.items() if decision.by == "alignment")
        run = _Run(segmenter=self, target=target, task=task, steps=steps, maps=probabilities, near=near, priors=trusted, absent=absent)
        groups, notes = with_one_retry(run.found, compute)
        weighed = _weighed(groups, trusted, task, self.recipe.threshold)
        decisions |= {value: replace(decisions[value], network_dice=round(prior.reliability, 3)) for value, prior in weighed.items()}
        array, surplus = self._decided(groups, task, steps, weighed)
        labels = Volume(array, target.geometry)
        steps.stop_clock()
        records = [group.record for group in groups]
        seen = [warning for record in records for warning in record.warnings]
        return Segmentation(
            labels=labels,
            probabilities=Probabilities(groups) if probabilities else None,
            volumes_ml=_volumes_ml(labels, [label.value for label in task.labels]),
            passes=run.passes(),
            decisions=decisions,
            modality=records[0].modality,
            warnings=unique([*task.warnings, *seen, *notes, *unaligned, *_cut_off(weighed, task), *surplus]),
            timings=steps.seconds,
        )

    def _located(self, target: Volume, task: Task, steps: Steps) -> tuple[dict[int, Prior], dict[int, Decision], tuple[str, ...]]:
        """Align the references with the target: priors and decisions by label, and warnings."""
        values = [label.value for label in task.labels]
        if not self.recipe.aligns:
            return {}, {value: Decision(by="network") for value in values}, ()
        if not task.atlases:
            if self.recipe.align == "only":
                raise InputError("The task holds no images to align with the scan.", "Give the references themselves.")
            return {}, {value: Decision(by="network") for value in values}, (_NO_ATLAS,)
        check_intensities(target)
        atlases = [atlas.to(self.model.device) for atlas in task.atlases]
        priors, mirrored = locate(atlases, values, target, self.recipe, self.model.device, steps)
        if mirrored:
            decision = Decision(by=_alone(self.recipe), reason=_MIRRORED.format(mirrored))
            return {}, dict.fromkeys(values, decision), (_MIRRORED_NOTE.format(mirrored),)
        trusted = any(prior.trust >= LEAST_TRUST for prior in priors.values())
        decisions = {value: _decision(priors.get(value), self.recipe, trusted=trusted) for value in values}
        return priors, decisions, tuple(_not_aligned(decisions, {label.value: label.name for label in task.labels}))

    def prepared(self, target: Volume, key: str, spacing_zyx: Triple) -> Prepared:
        """The target as the network sees it, from memory if it was prepared lately; `key` identifies its content."""
        key = f"{key}{spacing_zyx}"
        kept = self._prepared.get(key)
        if kept is None:
            kept = prepare(target, self.recipe, spacing_zyx)
            self.preparations += 1
            self._prepared.put(key, kept, kept.array.nbytes)
        return kept

    def compute(self, labels: int) -> Compute:
        """Device, precision and batch size for so many labels at once."""
        chosen = choose_compute(self.model.device, self.precision, self.model.network, self.recipe, labels, self.model.use)
        # What is compiled is compiled for one number of windows, whatever memory there is next time.
        return self._compiled.setdefault(labels, replace(chosen, compile=True)) if self.compile else chosen

    def check(self, task: Task) -> None:
        """Refuse a task of other weights or another preprocessing.

        Raises:
            MassError: naming both.
        """
        task.require(self.model.fingerprint, self.model.name)
        ours, theirs = to_dict(self.recipe), to_dict(task.recipe)
        for name in _AGREEING:
            if ours[name] != theirs[name]:
                raise InputError(
                    f"The task was encoded with {name} {theirs[name]}, this run uses {ours[name]}.",
                    "Leave that option out, or encode the references again with it.",
                )

    def _decided(
        self, groups: Sequence[WorkingResult], task: Task, steps: Steps, priors: Mapping[int, Prior]
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """The label map on the target's grid, with notes."""
        steps.at("place", 0, 1)
        one = self.recipe.parts == "largest"
        if not self.recipe.smooth_restore:
            labels = nearest(groups, self.recipe.threshold, keep_largest=one)
        else:
            labels = interpolated(groups, self.recipe.threshold, lambda done, total: steps.at("place", done, total), priors)
            if one:
                keep_largest_parts(labels, {})
        notes = self._without_surplus(labels, task, groups[0].record.target) if self.recipe.parts == "reference" else ()
        steps.at("place", 1, 1)
        return labels, notes

    def _without_surplus(self, labels: np.ndarray, task: Task, target: Geometry) -> tuple[str, ...]:
        """Take out, in place, the parts of each label beyond as many as its references have; returns notes of how much that was."""
        found = voxels_of(labels)
        counts = {label.value: label.parts for label in task.labels}
        near = {label.value: closeness(label.place, target, self.recipe.place_mm) for label in task.labels}
        if not keep_largest_parts(labels, counts, near):
            return ()
        left = voxels_of(labels)
        shares = {label: 1 - left.get(label.value, 0) / found[label.value] for label in task.labels if label.value in found}
        return tuple(_surplus(label, share) for label, share in shares.items() if share >= _SURPLUS)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """One target and one task: every group of labels with a working spacing of its own is gone over."""

    segmenter: Segmenter
    target: Volume
    task: Task
    steps: Steps
    maps: bool
    near: Sequence[Box] | None
    priors: Mapping[int, Prior]
    """By label, those that are trusted."""
    absent: frozenset[int]
    """Labels that are not in the target."""

    def passes(self) -> tuple[tuple[int, ...], ...]:
        """Values of the labels decoded together."""
        size = self.segmenter.recipe.classes_per_pass
        values = [[self.task.labels[i].value for i in indices] for indices in self.task.groups().values()]
        return tuple(tuple(some[i : i + (size or len(some))]) for some in values for i in range(0, len(some), size or len(some)))

    def found(self, compute: Compute) -> list[WorkingResult]:
        """Network output for every group of labels."""
        segmenter, task = self.segmenter, self.task
        key, groups = content_key(self.target), task.groups()
        found = []
        # Windows, and so time, grow with the inverse volume of the working voxels.
        efforts = [1 / float(np.prod(spacing)) for spacing in groups]
        for number, (spacing, indices) in enumerate(groups.items()):
            self.steps.at("prepare", number, len(groups))
            prepared = segmenter.prepared(self.target, key, spacing)
            values = tuple(task.labels[i].value for i in indices)
            result = sliding_window_inference(
                segmenter.model.network,
                prepared.array,
                split_passes(task.tokens(indices), segmenter.recipe.classes_per_pass),
                segmenter.recipe,
                compute=compute,
                step=self._counted(sum(efforts[:number]), efforts[number], sum(efforts)),
                near=self._near_on(prepared.record, values),
                maps=self.maps,
            )
            best, maps = result.best, result.maps
            found.append(WorkingResult(best=best, maps=maps, numbers=values, record=prepared.record, absent=self.absent))
        return found

    def _near_on(self, record: Record, values: Sequence[int]) -> list[Box] | None:
        """The boxes to search for some labels, in voxels of the prepared array: those requested, or where alignment puts all of them."""
        near = self.near
        sought = [value for value in values if value not in self.absent]
        if near is None and all(value in self.priors for value in sought) and not self.maps:
            near = [self.priors[value].box for value in sought]
        return None if near is None else [mapped(box, record.target, record.working) for box in near]

    def _counted(self, before: float, own: float, total: float) -> Callable[[int, int], None]:
        """Reports the windows of one group as a share of those of all groups."""
        return lambda done, count: self.steps.at("segment", before + own * done / count, total)


def _alone(recipe: Recipe) -> Literal["alignment", "network"]:
    """The single decider for a label that alignment and network do not decide together."""
    return "alignment" if recipe.align == "only" else "network"


def _decision(prior: Prior | None, recipe: Recipe, *, trusted: bool) -> Decision:
    """The decision about a label with this prior; `trusted`: the alignment of some label is, so this one's position is known as well."""
    reason = OUTSIDE if prior is None else prior.reason
    if trusted and reason == OUTSIDE:
        return Decision(by="alignment", trust=None if prior is None else round(prior.trust, 3), reason=_ABSENT)
    if prior is None:
        return Decision(by=_alone(recipe), reason=reason)
    both = prior.trust >= LEAST_TRUST and recipe.align == "auto"
    return Decision(by="alignment and network" if both else _alone(recipe), trust=round(prior.trust, 3), reason=reason)


def _weighed(groups: Sequence[WorkingResult], priors: Mapping[int, Prior], task: Task, threshold: float) -> dict[int, Prior]:
    """The priors with how reliable the network is for each."""
    owners = {number: group for group in groups for number in group.numbers}
    selves = {label.value: 1.0 if label.self_dice is None else label.self_dice for label in task.labels}
    facts = {number: network_evidence(owners[number], prior, number, selves[number], threshold) for number, prior in priors.items()}
    return {number: replace(prior, reliability=reliability(facts[number])) for number, prior in priors.items()}


def _not_aligned(decisions: Mapping[int, Decision], names: Mapping[int, str]) -> Iterator[str]:
    """A sentence for each reason not to trust the alignment, with the labels it holds for."""
    for reason in dict.fromkeys(decision.reason for decision in decisions.values() if decision.reason):
        labels = ", ".join(names[value] for value, decision in decisions.items() if decision.reason == reason)
        yield f"{'Not in this scan' if reason == _ABSENT else 'Not aligned'}: {labels}; {reason}."


def _cut_off(priors: Mapping[int, Prior], task: Task) -> Iterator[str]:
    """Messages about structures that the references' scans cut off."""
    cut = {value: prior for value, prior in priors.items() if prior.beyond > _WORTH_SAYING}
    for continued, then in ((True, _GOES_ON), (False, _ENDS)):
        names = [label.name for label in task.labels if label.value in cut and cut[label.value].continued is continued]
        if names:
            yield f"The references' scans end within {', '.join(names)}; {then}."


def _aligned_only(
    target: Volume, task: Task, priors: dict[int, Prior], decisions: dict[int, Decision], unaligned: tuple[str, ...], steps: Steps
) -> Segmentation:
    """The result of alignment without the network."""
    values = [label.value for label in task.labels]
    labels = Volume(aligned_labels(priors, target, kind_of(values)), target.geometry)
    alone = {value: replace(prior, reliability=0.0) for value, prior in priors.items() if prior.trust >= LEAST_TRUST}
    steps.stop_clock()
    return Segmentation(
        labels=labels,
        probabilities=None,
        volumes_ml=_volumes_ml(labels, values),
        passes=(),
        decisions=decisions,
        modality=modality_of(target, task.recipe),
        warnings=unique([*task.warnings, *unaligned, *_cut_off(alone, task)]),
        timings=steps.seconds,
    )


def _volumes_ml(labels: Volume, values: Sequence[int]) -> dict[int, float]:
    """Volume of each label."""
    voxel_ml = float(np.prod(labels.geometry.spacing_xyz)) / 1000
    counts = voxels_of(labels.array)
    return {value: counts.get(value, 0) * voxel_ml for value in values}


def _surplus(label: TaskLabel, share: float) -> str:
    """Message about the parts of a label that were left out."""
    parts = "1 component" if label.parts == 1 else f"{label.parts} components"
    check = " Check the result: this is more than a stray component." if share >= _MUCH else ""
    return f"{label.name}: {share:.0%} of the segmented volume was removed because the reference has only {parts}.{check}"
