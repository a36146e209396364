"""Training-ready scans in a folder: what `mass prepare` writes and training reads.

Layout (docs/formats.md): `dataset.json` and, for each case, `cases/<name>/` with `case.json`, `image.npy` (float16 [z,y,x], normalised),
`labels.npy` if there are any and `mask_set.masks` if there are any. All arrays of a case share one grid. `case.json` is written last: a
case is finished when it exists.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..config import Shape, Triple
from ..errors import InputError
from ..files import make_folder, read_json, write_bytes, write_json
from ..masks.mask_set import MaskSet
from ..progress import Steps
from ..volumes.label_maps import voxels_of
from ..volumes.volume import Geometry
from .splits import SPLITS, check_splits

VERSION = 1
_LABELS, _MASKS = "labels.npy", "mask_set.masks"
_CURE = "Prepare the dataset again with `mass prepare`."


@dataclass(frozen=True, kw_only=True)
class Case:
    """One scan of a dataset."""

    name: str
    patient: str
    modality: str
    shape_zyx: Shape
    spacing_zyx: Triple
    """Voxel edges in mm."""
    origin_xyz: Triple
    """Centre of the first voxel in LPS mm, as in `Geometry`."""
    direction: tuple[float, ...]
    image: str = "image.npy"
    """File in the case's folder."""
    masks: str | None = None
    labels: str | None = None
    settings: str = ""
    """Fingerprint of what the case was made from and how: another one means it has to be made anew."""

    @property
    def grid(self) -> Geometry:
        """Grid of image and labels."""
        z, y, x = self.spacing_zyx
        return Geometry(shape_zyx=self.shape_zyx, spacing_xyz=(x, y, z), origin_xyz=self.origin_xyz, direction=self.direction)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Scans with their masks, labels and splits."""

    folder: Path
    name: str
    cases: tuple[Case, ...]
    splits: dict[str, tuple[str, ...]]
    """Names of the cases in train, val and test."""
    label_names: dict[int, str] = field(default_factory=dict)
    """Names of the values in label maps."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Preparation of the images: the fields of a `Recipe`."""
    seed: int | None = None
    """Of the splits; None: they were not drawn at random, or it is not known."""

    _cure: ClassVar[str] = _CURE
    _shape_source: ClassVar[str] = "dataset.json says"

    def __post_init__(self) -> None:
        """Check that splits name known cases and share no patient."""
        check_splits(self.splits, {case.name: case.patient for case in self.cases})

    @classmethod
    def read(cls, folder: str | Path) -> "Dataset":
        """Open a dataset of ours; arrays are mapped into memory when accessed. `opening.open_dataset` reads other layouts too.

        Raises:
            InputError: if it is missing, damaged, of a newer version, or its splits share a patient.
        """
        folder = Path(folder)
        values = read_json(folder / "dataset.json", "Give a folder that `mass prepare` wrote.")
        if values.get("version", 0) > VERSION:
            raise InputError(f"{folder} has format version {values['version']}, this program reads up to {VERSION}.", "Update MASSSlicer.")
        try:
            return cls(
                folder=folder,
                name=values["name"],
                cases=tuple(case_from(case) for case in values["cases"]),
                splits={split: tuple(values["splits"].get(split, ())) for split in SPLITS},
                label_names={int(value): name for value, name in values["labels"].items()},
                recipe=values["recipe"],
                seed=values.get("seed"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{folder / 'dataset.json'} lacks fields or holds wrong ones: {error}.", _CURE) from error

    def write(self) -> None:
        """Write `dataset.json`; it appears complete or not at all."""
        values = {
            "version": VERSION,
            "name": self.name,
            "cases": [asdict(case) for case in self.cases],
            "labels": {str(value): name for value, name in self.label_names.items()},
            "splits": {split: list(self.splits.get(split, ())) for split in SPLITS},
            "recipe": self.recipe,
            "seed": self.seed,
        }
        write_json(self.folder / "dataset.json", values)

    @property
    def modality(self) -> str | None:
        """Modality of all scans; None: they are of several."""
        modalities = {case.modality for case in self.cases}
        return modalities.pop() if len(modalities) == 1 else None

    def case(self, name: str) -> Case:
        """A case by its name.

        Raises:
            InputError: if there is none.
        """
        for case in self.cases:
            if case.name == name:
                return case
        raise InputError(f"There is no case {name!r} in {self.folder}.", "Names are listed in dataset.json.")

    def spacing_zyx(self, name: str) -> Triple:
        """Voxel edges of a case in mm."""
        return self.case(name).spacing_zyx

    def image(self, name: str) -> NDArray[np.floating]:
        """Normalised intensities [z,y,x], mapped into memory: float16, of the released layout float32."""
        case = self.case(name)
        return self._mapped(case, case.image)

    def labels(self, name: str) -> NDArray[np.integer] | None:
        """Label map [z,y,x], mapped into memory; None where the case has none."""
        case = self.case(name)
        return None if case.labels is None else self._mapped(case, case.labels)

    def masks(self, name: str) -> MaskSet:
        """Class-agnostic masks of a case, on its image's grid; none where it has no file."""
        case = self.case(name)
        if case.masks is None:
            return MaskSet.of([], case.shape_zyx, case.spacing_zyx)
        masks = self._read_masks(case, case.masks)
        if masks.shape_zyx != case.shape_zyx:
            raise InputError(f"The masks of {name} have the grid {masks.shape_zyx}, its image has {case.shape_zyx}.", self._cure)
        return masks

    def _mapped(self, case: Case, file: str) -> NDArray[Any]:
        path = self._path(case, file)
        array = mapped(path, self._cure)
        if array.shape != case.shape_zyx:
            raise InputError(f"{path} has shape {array.shape}, {self._shape_source} {case.shape_zyx}.", self._cure)
        return array

    def _read_masks(self, case: Case, file: str) -> MaskSet:
        return MaskSet.read(self._path(case, file))

    def _path(self, case: Case, file: str) -> Path:
        return case_folder(self.folder, case.name) / file


def shown_labels(dataset: Dataset, names: Sequence[str], steps: Steps | None = None) -> dict[str, frozenset[int]]:
    """The structures each scan shows; scans without a label map are left out.

    Args:
        dataset: of the scans.
        names: of the scans.
        steps: counts them: every label map is read once.
    """
    shown: dict[str, frozenset[int]] = {}
    steps = steps or Steps()
    for number, name in enumerate(names):
        steps.at("labels", number, len(names))
        if (labels := dataset.labels(name)) is not None:
            shown[name] = frozenset(voxels_of(labels))
    steps.at("labels", len(names), len(names))
    return shown


def case_folder(folder: Path, name: str) -> Path:
    """Folder of a case."""
    return folder / "cases" / name


def case_from(values: Mapping[str, Any]) -> Case:
    """Rebuild a case from JSON values."""
    names = [f.name for f in fields(Case) if f.name in values]
    known: dict[str, Any] = {name: tuple(values[name]) if isinstance(values[name], list) else values[name] for name in names}
    return Case(**known)


def finished_case(folder: Path, name: str, settings: str) -> Case | None:
    """The record of a case already prepared with the same settings; None: it has to be prepared."""
    try:
        case = case_from(read_json(case_folder(folder, name) / "case.json", _CURE))
    except (InputError, TypeError):
        return None
    return case if case.settings == settings else None


def write_case(
    folder: Path, case: Case, image: NDArray[np.float16], labels: NDArray[np.integer] | None = None, masks: MaskSet | None = None
) -> None:
    """Write the files of a case, the record last, which gets the names of the files of labels and masks.

    Raises:
        OutputError: if that is not possible.
    """
    place = case_folder(folder, case.name)
    case = replace(case, labels=None if labels is None else _LABELS, masks=None if masks is None else _MASKS)
    make_folder(place)
    (place / "case.json").unlink(missing_ok=True)
    write_array(place / case.image, image)
    if labels is not None:
        write_array(place / _LABELS, labels)
    if masks is not None:
        masks.write(place / _MASKS)
    write_json(place / "case.json", asdict(case))


def mapped(path: Path, cure: str) -> NDArray[Any]:
    """The array of a .npy file, mapped into memory.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.", cure) from error


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write .npy; the file appears complete or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    write_bytes(path, buffer.getvalue())
