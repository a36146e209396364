"""Datasets under the names of the paper's, made once, and what spares the start of processes."""

import contextlib
import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mass_core.evaluation import trials
from mass_core.volumes.volume import Geometry, Volume
from mass_core.worker.requests import Finetune
from training.finetune.command import main as tune

from ..balls import scan, write_dataset
from ..classify_rows import write_csv
from .miniature import SPLITS


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets with balls, prepared, under the names of the paper's."""
    place = tmp_path_factory.mktemp("reproduce")
    for name in ("bcv", "amos_mr", "ss_hn", "acdc", "pelvic"):
        write_dataset(place / "data" / name, SPLITS, masked=True)
    write_classified(place / "data" / "rsna_ich", "labels.csv")
    return place


def linked(template: Path, place: Path) -> Path:
    (place / "data").mkdir()
    for folder in (template / "data").iterdir():
        (place / "data" / folder.name).symlink_to(folder)
    return place


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Path:
    return linked(template, tmp_path)


@pytest.fixture(scope="module")
def common(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place whose runs the tables share, as they do in use; each test makes what is not there yet."""
    return linked(template, tmp_path_factory.mktemp("common"))


@pytest.fixture
def tuned_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are finetuned by this process, which spares the start of another one for each."""

    def finetune(request: Finetune, progress: object) -> dict[str, Any]:
        file, text = tmp_path / "request.json", io.StringIO()
        file.write_text(json.dumps(asdict(replace(request, folder=f"{request.output}.run"))))
        with contextlib.redirect_stdout(text):
            assert tune(["--config", str(file), "--json"]) == 0
        return json.loads(text.getvalue().splitlines()[-1])

    monkeypatch.setattr(trials, "finetune", finetune)


def write_classified(folder: Path, name: str) -> None:
    (folder / "images").mkdir(parents=True)
    rows = [{"filename": f"s{n}", "label": n % 2, "split": "train" if n < 40 else "val" if n < 42 else "test"} for n in range(44)]
    for n, row in enumerate(rows):
        image, _ = scan(n, (n % 2 + 1,))
        Volume((image * 100).astype(np.int16), Geometry(shape_zyx=image.shape, spacing_xyz=(1, 1, 2))).write(
            folder / f"images/{row['filename']}.nii.gz"
        )
    write_csv(folder / name, rows)
