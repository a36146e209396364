"""The labelled scans of a finetuning run: prepared if they come as files, chosen, checked, and encoded for the start."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mass_core.colors import LabelStyle
from mass_core.config import Recipe, to_dict
from mass_core.data.dataset import Dataset, finished_case
from mass_core.data.make_case import make_case
from mass_core.data.opening import open_dataset
from mass_core.encoding.task import Task
from mass_core.errors import InputError
from mass_core.evaluation.scoring import case_volumes, segmenter_for
from mass_core.files import fingerprint, states
from mass_core.inference.segmenter import Segmenter
from mass_core.outputs import read_with, stem
from mass_core.progress import Report, Steps
from mass_core.volumes.appearance import read_appearance
from mass_core.volumes.mask_files import How, read_mask
from mass_core.volumes.volume import Volume
from mass_core.weights.checkpoint import Model
from mass_core.worker.requests import Finetune, Reference

from ..runs.distributed import ProcessGroup
from .config import FinetuneConfig
from .crops import labels_of, voxels_by_plane

Planes = dict[str, dict[int, NDArray[np.int64]]]
"""Of each scan, for each value it shows, the voxels in each plane."""
_CURE = "Give scans with label maps, as cases or as a dataset prepared with --labels."


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Training scans, validation scans and classes."""

    dataset: Dataset
    planes: Planes
    """Of the training scans, classes that are not learned left out."""
    val: tuple[str, ...]
    labels: tuple[int, ...]
    styles: Mapping[int, LabelStyle] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Notes for the user about the choice."""


def gather(request: Finetune, model: Model, config: FinetuneConfig, folder: Path, group: ProcessGroup, steps: Steps) -> Cohort:
    """The scans a request names, those that come as files prepared into `folder`.

    Raises:
        MassError: if they cannot be used.
        Cancelled: if `steps` said so.
    """
    if bool(request.cases) == (request.dataset is not None):
        raise InputError("The training scans must be given exactly once.", "Give either cases or a dataset.")
    styles = {} if request.dataset else _styles(request.cases)
    if request.dataset is None and group.leads:
        dataset = _prepared(request.cases, model.recipe.changed(modality=request.modality), folder, steps)
        _with_splits(dataset, styles, config.seed, steps).write()
    group.wait()
    dataset = open_dataset(request.dataset or folder)
    styles = {value: LabelStyle(name) for value, name in dataset.label_names.items()} | styles
    styles |= {int(value): style for value, style in request.appearance.items()}
    return _chosen(request, config, dataset, styles, steps)


def recipe_of(model: Model, dataset: Dataset) -> Recipe:
    """The recipe of the weights, with the preparation the dataset's scans had: what finetuned weights do with a scan."""
    names = ("orientation", "interpolation", "ct_clip_hu", "percentiles", "body_crop", "body_threshold_hu")
    known: dict[str, Any] = {name: dataset.recipe[name] for name in names if name in dataset.recipe}
    changes = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    return model.recipe.changed(**changes, modality=dataset.modality)


def encode(
    model: Model, cohort: Cohort, config: FinetuneConfig, *, progress: Report | None = None, cancelled: Callable[[], bool] | None = None
) -> Task:
    """Initial task: tokens of the training scans, for each class a mean over `config.references` of them.

    Raises:
        MassError: if a scan cannot be used.
        Cancelled: if `cancelled` said so.
    """
    segmenter = segmenter_for(Segmenter(model, recipe_of(model, cohort.dataset)), cohort.dataset)
    left = dict.fromkeys(cohort.labels, config.references)
    references = []
    for name, shown in cohort.planes.items():
        if any(left[value] > 0 for value in shown):
            references.append(case_volumes(cohort.dataset, name))
            left = {value: count - (value in shown) for value, count in left.items()}
    task = segmenter.encode(references, cohort.labels, appearance=cohort.styles, progress=progress, cancelled=cancelled, to_finetune=True)
    return replace(task, recipe=recipe_of(model, cohort.dataset), warnings=())


def _styles(cases: Sequence[Reference]) -> dict[int, LabelStyle]:
    """Names and colours the label maps give; all must mean the same by a number.

    Raises:
        InputError: if they do not.
    """
    found: dict[int, tuple[LabelStyle, str]] = {}
    for case in cases:
        for value, style in read_appearance(case.mask).items():
            if case.labels is not None and value not in case.labels:
                continue
            before, file = found.setdefault(value, (style, case.mask))
            if before.name != style.name:
                raise InputError(
                    f"Label {value} is called {before.name!r} in {file}, {style.name!r} in {case.mask}.",
                    "Give a structure the same number in all label maps.",
                )
    return {value: style for value, (style, _) in sorted(found.items())}


def _check_names(styles: Mapping[int, LabelStyle], labels: Sequence[int]) -> None:
    """Check that classes have different names."""
    names = [styles[value].name for value in labels if value in styles]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        values = ", ".join(str(value) for value in labels if value in styles and styles[value].name == twice[0])
        raise InputError(f"Several labels are called {twice[0]!r}: {values}.", "Give each structure a name of its own.")


def _prepared(cases: Sequence[Reference], recipe: Recipe, folder: Path, steps: Steps) -> Dataset:
    """A dataset of scans that come as files, all of them for training; what is there already is not made again."""
    done, names = [], _names(cases)
    for number, (name, case) in enumerate(zip(names, cases, strict=True)):
        steps.at("prepare", number, len(names))
        for path in (case.image, case.mask):
            if not Path(path).exists():
                raise InputError(f"There is no file {path}.", "Check the spelling and the folder.")
        settings = _settings(case, recipe)
        if finished_case(folder, name, settings) is None:
            image = Volume.read(case.image, frame=case.frame)
            how = How(frame=case.frame, labels=case.labels, same_grid=case.same_grid, threshold=case.threshold)
            mask = read_mask(Path(case.mask), image, how)
            make_case(folder, name, image, recipe, patient=name, settings=settings, labels=(mask, Path(case.mask)))
        made = finished_case(folder, name, settings)
        assert made is not None
        done.append(made)
    steps.at("prepare", len(names), len(names))
    return Dataset(folder=folder, name=folder.name, cases=tuple(done), splits={"train": tuple(names)}, recipe=to_dict(recipe))


def _with_splits(dataset: Dataset, styles: Mapping[int, LabelStyle], seed: int, steps: Steps) -> Dataset:
    """The dataset with some scans held out for validation, and the names of the classes."""
    shown = {name: set(counts) for name, counts in _counted(dataset, [case.name for case in dataset.cases], steps).items()}
    train, val = hold_out(shown, seed)
    names = {value: style.name for value, style in styles.items()}
    return replace(dataset, splits={"train": train, "val": val, "test": ()}, label_names=names)


def hold_out(shown: Mapping[str, set[int]], seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split scans into training and validation: a fifth, at least one of two; never the only scan that shows a structure.

    Args:
        shown: by name, the values a scan shows.
        seed: another one chooses others.
    """
    train, val = set(shown), set[str]()
    for name in map(str, np.random.default_rng(seed).permutation(sorted(shown))):
        others = set[int]().union(*(shown[other] for other in train - {name}))
        if len(val) < max(len(shown) // 5, len(shown) > 1) and shown[name] and shown[name] <= others:
            train, val = train - {name}, val | {name}
    return tuple(sorted(train)), tuple(sorted(val))


def _chosen(request: Finetune, config: FinetuneConfig, dataset: Dataset, styles: Mapping[int, LabelStyle], steps: Steps) -> Cohort:
    """Training scans, validation scans and classes."""
    names = [name for name in dataset.splits["train"] if dataset.case(name).labels is not None]
    if request.train_cases is not None:
        if unknown := sorted(set(request.train_cases) - set(names)):
            raise InputError(f"{dataset.folder} has no labelled training scan {', '.join(unknown)}.", "Names are listed in dataset.json.")
        names = list(request.train_cases)
    planes = _counted(dataset, names, steps)
    vain = [style.name for value, style in request.appearance.items() if not any(int(value) in shown for shown in planes.values())]
    if request.labels:
        planes = {name: {value: counts for value, counts in shown.items() if value in request.labels} for name, shown in planes.items()}
    planes = drawn(planes, request.shots, request.draw, config.seed)
    labels = sorted({value for shown in planes.values() for value in shown})
    if not labels:
        raise InputError(f"None of the {len(names)} training scans of {dataset.folder} shows a structure to learn.", _CURE)
    if absent := sorted(set(request.labels or ()) - set(labels)):
        raise InputError(
            f"Label {', '.join(map(str, absent))} is in none of the {len(planes)} training scans; they show {', '.join(map(str, labels))}.",
            "Choose among those.",
        )
    _check_names(styles, labels)
    val = tuple(name for name in dataset.splits["val"] if dataset.case(name).labels is not None)[: config.validate_cases]
    val = tuple(name for name in val if set(voxels_by_plane(labels_of(dataset, name))) & set(labels))
    notes = _notes(planes, labels, val) + [f"No training scan shows {name}, although it is named." for name in vain]
    return Cohort(dataset=dataset, planes=planes, val=val, labels=tuple(labels), styles=styles, notes=tuple(notes))


def drawn(planes: Planes, shots: int | None, draw: int, seed: int) -> Planes:
    """`shots` of the scans; scans that show more of the classes come first.

    Raises:
        InputError: if there are fewer.
    """
    if shots is None:
        return planes
    if not 1 <= shots <= len(planes):
        raise InputError(f"{shots} training scans were requested, but there are {len(planes)}.", "Choose another number of --shots.")
    order = [str(name) for name in np.random.default_rng(seed).permutation(sorted(planes))]
    order = sorted(order, key=lambda name: -len(planes[name]))
    return {name: planes[name] for name in (order[(draw * shots + k) % len(order)] for k in range(shots))}


def _counted(dataset: Dataset, names: Sequence[str], steps: Steps) -> Planes:
    """Voxels of each value in each plane of these scans."""
    found: Planes = {}
    for number, name in enumerate(names):
        steps.at("labels", number, len(names))
        found[name] = voxels_by_plane(labels_of(dataset, name))
    steps.at("labels", len(names), len(names))
    return found


def _notes(planes: Planes, labels: Sequence[int], val: Sequence[str]) -> list[str]:
    """Notes about classes that only one scan shows, and about missing validation scans."""
    counts = {value: sum(value in shown for shown in planes.values()) for value in labels}
    rare = [value for value in labels if counts[value] == 1 < len(planes)]
    few = "There is one labelled scan" if len(planes) == 1 else "No labelled scan is held out (split val)"
    unjudged = [] if val else [f"{few}: there is no validation, and the last weights are kept."]
    return [f"Only one of the {len(planes)} training scans shows label {value}." for value in rare] + unjudged


def _names(cases: Sequence[Reference]) -> list[str]:
    """A name for each case: that of its image, numbered where several have it."""
    names: list[str] = []
    for case in cases:
        name, number = stem(Path(case.image)), 1
        while name in names:
            number += 1
            name = f"{stem(Path(case.image))}_{number}"
        names.append(name)
    return names


def _settings(case: Reference, recipe: Recipe) -> str:
    """Fingerprint of the files and settings a case is made from; the folder they lie in does not matter."""
    files = [file for path in (case.image, case.mask) for file in sorted(read_with(Path(path))) if file.exists()]
    return fingerprint(to_dict(recipe), states(files), case.labels, case.frame, case.same_grid, case.threshold)
