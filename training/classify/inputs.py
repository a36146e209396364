"""Inputs of classifier training: every scan is checked, then prepared once; inputs or features stay in the run folder.

Files are named after all that decides on their content (file of the scan, preparation, encoder), so what a run finds there is right.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from mass_core.augmentation.appearance import appearance
from mass_core.config import Recipe, to_dict
from mass_core.data.dataset import write_array
from mass_core.errors import InputError, MassError
from mass_core.files import write_json
from mass_core.inference.classifier import ClassifierConfig, ClassifierNetwork, as_input, cells_of, classifier_input, padded
from mass_core.volumes.preprocess import working_image
from mass_core.volumes.read_cache import state_of
from mass_core.volumes.resample import orient
from mass_core.volumes.volume import Volume
from mass_core.weights.checkpoint import fingerprint

from ..runs.distributed import ProcessGroup
from ..runs.loading import own_numbers
from ..runs.logbook import progress_bar
from .config import ClassifyConfig
from .table import Row, Table

_FITTING = 95
"""Percentage of the training scans that should fit into the input whole."""
Sample = tuple[Tensor, Tensor, Tensor]
"""Input of the network or the head, the cells that see the scan, and the target."""


# Every scan, once ------------------------------------------------------------------------------------------------------------


def survey(table: Table, recipe: Recipe, output: Path, group: ProcessGroup) -> dict[str, float]:
    """Read every scan, before anything is computed from one.

    Args:
        table: names the scans.
        recipe: its window is the input.
        output: run folder; keeps in `scans.json` what was found, so that a resumed run reads only what changed.
        group: shares the work.

    Returns:
        By name, the voxel edge in mm at which the body in the scan just fits into the input.

    Raises:
        InputError: naming all scans that cannot be used.
    """
    record = output / "scans.json"
    recipe_key = _hash(to_dict(recipe))
    before = _recorded(record, recipe_key)
    mine = table.rows[group.rank :: group.size]
    found: list[tuple[str, dict[str, Any], str | None]] = []
    for row in progress_bar(mine, desc="check", unit="scan", disable=not group.leads):
        state = state_of(row.path)
        known = before.get(row.name)
        if known is not None and known["state"] == state:
            found.append((row.name, known, None))
            continue
        try:
            found.append((row.name, {"state": state, "spacing_mm": _fitting(Volume.read(row.path), recipe)}, None))
        except MassError as error:
            found.append((row.name, {}, error.message))
    every = group.gather(found)
    faults = [f"- {name}: {fault}" for name, _, fault in every if fault is not None]
    if faults:
        raise InputError(f"{len(faults)} of {len(table.rows)} scans cannot be used:\n" + "\n".join(faults), "Correct or leave them out.")
    if group.leads:
        output.mkdir(parents=True, exist_ok=True)
        write_json(record, {"recipe": recipe_key, "scans": {name: facts for name, facts, _ in every}})
    return {name: facts["spacing_mm"] for name, facts, _ in every}


def _recorded(path: Path, recipe_key: str) -> dict[str, dict[str, Any]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return dict(values["scans"]) if values["recipe"] == recipe_key else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _fitting(volume: Volume, recipe: Recipe) -> float:
    """Voxel edge in mm at which the body just fits into the window."""
    geometry = orient(volume, recipe.orientation).geometry
    whole = max(n * mm / w for n, mm, w in zip(geometry.shape_zyx, geometry.spacing_zyx, recipe.window_zyx, strict=True))
    start, stop = working_image(volume, recipe, (whole, whole, whole), crop_body=True).region
    return whole * max((b - a) / w for a, b, w in zip(start, stop, recipe.window_zyx, strict=True))


def input_recipe(config: ClassifyConfig, recipe: Recipe, fitting: Sequence[float]) -> Recipe:
    """The recipe of the weights with the size and the one spacing of the classifier's input.

    Args:
        config: says the size, and the spacing unless it is 0.
        recipe: of the weights.
        fitting: what `survey` found of the training scans.
    """
    spacing = recipe.spacing_zyx
    if config.spacing_mm or spacing is None:
        edge = config.spacing_mm or max(recipe.spacing_limits_mm[0], math.ceil(100 * float(np.percentile(fitting, _FITTING))) / 100)
        spacing = (edge, edge, edge)
    return replace(recipe, spacing_zyx=spacing, window_zyx=config.size_zyx)


# Kept in the run folder ------------------------------------------------------------------------------------------------------


def prepared(
    table: Table, network: ClassifierNetwork, settings: ClassifyConfig, config: ClassifierConfig, output: Path, group: ProcessGroup
) -> dict[str, list[Path]]:
    """Files of every scan, by its name: features (`.npy` [C,d,h,w]) if the encoder is frozen, else the input before padding ([z,y,x]).

    A training scan has one for each of `settings.copies` as well. Processes share the work and wait for each other.
    """
    folder = output / ("features" if settings.frozen else "inputs")
    if group.leads:
        folder.mkdir(parents=True, exist_ok=True)
    group.any(False)  # until the folder is there
    kind: list[Any] = [to_dict(config.recipe)]
    if settings.frozen:
        kind += [fingerprint(network.encoder), to_dict(config.model)]
    training = {row.name for row in table.splits["train"]}
    files = {}
    for row in table.rows:
        copies = settings.copies if settings.frozen and row.name in training else 0
        changes = [[], *([settings.seed, copy, asdict(settings.appearance)] for copy in range(1, copies + 1))]
        files[row.name] = [folder / f"{_hash([*kind, state_of(row.path), change])}.npy" for change in changes]
    mine = table.rows[group.rank :: group.size]
    for row in progress_bar(mine, desc="prepare", unit="scan", disable=not group.leads):
        _make(row, files[row.name], network, settings, config)
    group.any(False)  # until the others have made theirs
    return files


def _make(row: Row, files: Sequence[Path], network: ClassifierNetwork, settings: ClassifyConfig, config: ClassifierConfig) -> None:
    """Make the missing files of a scan."""
    if all(file.exists() for file in files):
        return
    array = classifier_input(Volume.read(row.path), config.recipe).array
    for copy, file in enumerate(files):
        if not settings.frozen:
            write_array(file, array)
        elif not file.exists():
            seen = _changed(array, settings, int(_hash([settings.seed, row.name, copy])[:15], 16)) if copy else array
            write_array(file, _features(seen, network, config))


@torch.inference_mode()
def _features(array: np.ndarray, network: ClassifierNetwork, config: ClassifierConfig) -> np.ndarray:
    """The part of the deepest map that sees the scan, float32 [C,d,h,w]."""
    image, box = padded(array, config.recipe.window_zyx)
    device = next(network.parameters()).device
    whole = network.deepest(torch.from_numpy(image)[None, None].to(device))[0].float().cpu().numpy()
    return np.stack([channel[cells_of(box, config.model.stride).slices()] for channel in whole])


def _changed(array: np.ndarray, settings: ClassifyConfig, seed: int) -> np.ndarray:
    """The same scan, its intensities changed."""
    generator = torch.Generator().manual_seed(seed)
    return appearance(torch.from_numpy(np.array(array))[None, None], settings.appearance, generator)[0, 0].numpy()


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


# As the steps take them ------------------------------------------------------------------------------------------------------


class Samples(Dataset[Sample]):
    """Scans as the head, or the whole network, takes them; items are requested by scan and number of the draw."""

    def __init__(
        self, files: Sequence[Sequence[Path]], targets: Tensor, settings: ClassifyConfig, config: ClassifierConfig, *, learning: bool
    ) -> None:
        """Take the files of `prepared`; `learning` draws copies and changes intensities."""
        self.files, self.targets, self.settings, self.config, self.learning = files, targets, settings, config, learning

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        scan, draw = item
        files = self.files[scan]
        seed = int(_hash([self.settings.seed, draw])[:15], 16)
        array = np.load(files[seed % len(files) if self.learning else 0], allow_pickle=False)
        if self.settings.frozen:
            return (*_padded_features(array, self.config), self.targets[scan])
        image, inside = as_input(_changed(array, self.settings, seed) if self.learning else array, self.config)
        return torch.from_numpy(image)[None], torch.from_numpy(inside), self.targets[scan]


def _padded_features(features: np.ndarray, config: ClassifierConfig) -> tuple[Tensor, Tensor]:
    """Features filled up to one size, and where they are; to attention pooling it is all the same where a place lies."""
    inside = torch.zeros(config.cells_zyx, dtype=torch.bool)
    depth, height, width = features.shape[1:]
    inside[:depth, :height, :width] = True
    d, h, w = config.cells_zyx
    return F.pad(torch.from_numpy(features), (0, w - width, 0, h - height, 0, d - depth)), inside


def draws(scans: int, settings: ClassifyConfig, steps: range, group: ProcessGroup) -> Iterator[list[tuple[int, int]]]:
    """Scans and numbers of the draws of this process's share of every step: all scans in a random order, then again in another one.

    Every batch is full; where scans and batches do not come out even, a batch begins the next order.
    """

    @lru_cache(2)
    def order(number: int) -> list[int]:
        return torch.randperm(scans, generator=torch.Generator().manual_seed(settings.seed * 1_000_003 + number)).tolist()

    for share in own_numbers(steps, settings.batch_size, group):
        yield [(order(draw // scans)[draw % scans], draw) for draw in share]
