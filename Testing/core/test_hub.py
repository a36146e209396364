"""mass weights push and pull: shared weights come back byte for byte, checked; a folder stands in for the Hub."""

import importlib
import inspect
import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mass_core.cli import main
from mass_core.weights import hub, store

HEADER = {"format": 1, "model": {}, "preprocess": {}, "provenance": {"data": ["clinic_7"]}, "licence": "CC-BY-SA-4.0"}


def mass(*arguments: object) -> int:
    return main(["weights", *map(str, arguments)])


def write_weights(path: Path, entry: str = "mass") -> Path:
    """A safetensors file of one number."""
    named = {"__metadata__": {entry: json.dumps(HEADER)}, "one": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header = json.dumps(named).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", 1.5))
    return path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MASS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "best.safetensors")


class Library:
    """The part of `huggingface_hub` in use, with a folder for the Hub."""

    class errors:  # noqa: N801 - a module there
        class HfHubHTTPError(Exception):
            pass

    def __init__(self, place: Path) -> None:
        self.place, self.private = place, True

    def HfApi(self) -> "Library":  # noqa: N802 - a class there
        return self

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        (self.place / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        self.private = private

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        shutil.copytree(folder_path, self.place / repo_id, dirs_exist_ok=True)

    def snapshot_download(self, repo_id: str, *, revision: str | None, allow_patterns: list[str], local_dir: str) -> None:
        if not (self.place / repo_id).is_dir():
            raise self.errors.HfHubHTTPError("401 Client Error.\nRepository Not Found for url")
        for name in allow_patterns:
            shutil.copy(self.place / repo_id / name, local_dir)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    found = Library(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(**{name: getattr(found, name) for name in NAMES}))
    return found


NAMES = ("errors", "HfApi", "snapshot_download")


@pytest.mark.parametrize("target", ["folder", "hub"])
def test_what_is_pushed_is_pulled_byte_for_byte(
    target: str, weights: Path, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_the_user")
    where = tmp_path / "shared/liver" if target == "folder" else "hf:clinic/liver"
    assert mass("push", weights, where) == mass("pull", where) == 0
    told = capsys.readouterr()
    assert "discloses the training data: clinic_7" in told.err
    pulled = store.folder() / "liver.safetensors"
    assert pulled.read_bytes() == weights.read_bytes() and store.verify_checksum(pulled) is True and store.locate("liver") == pulled
    folder = where if isinstance(where, Path) else tmp_path / "hub/clinic/liver"
    assert sorted(path.name for path in folder.iterdir()) == sorted(hub.FILES)
    config = json.loads((folder / "config.json").read_text())
    assert HEADER.items() <= config.items() and config["kind"] == "segmentation"
    assert (folder / "README.md").read_text().startswith("---\nlicense: cc-by-sa-4.0\n")
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"hf_secret" in text for text in texts) and "hf_secret" not in told.out + told.err
    assert library.private  # only --public shows weights to everybody
    assert mass("push", weights, "hf:clinic/liver", "--public") == 0 and not library.private


def damage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1] + b"x")


def without_checksum(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (damage, "is damaged or a different one"),
        (without_checksum, "gives no checksum"),
        (lambda folder: os.remove(folder / "model.safetensors"), "lacks model.safetensors"),
        (shutil.rmtree, "There is no folder"),
    ],
)
def test_what_is_not_whole_is_not_taken(
    harm: Callable[[Path], Any], told: str, weights: Path, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture
) -> None:
    assert mass("push", weights, tmp_path / "liver") == 0
    harm(tmp_path / "liver")
    assert mass("pull", tmp_path / "liver") == 2
    assert told in capsys.readouterr().err and not any(home.rglob("*.safetensors"))


def test_what_cannot_be_shared_or_fetched_is_told(
    weights: Path, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "released.pth").touch()
    assert mass("push", weights, tmp_path / "liver") == mass("pull", tmp_path / "liver") == 0
    for arguments, told in (
        (("push", weights, tmp_path / "liver"), "exist already"),
        (("pull", tmp_path / "liver"), "exists already"),
        (("pull", tmp_path / "liver", "--name", "small"), "come with this program"),
        (("pull", tmp_path / "liver", "--name", "a/b"), "not a valid name for weights"),
        (("push", tmp_path / "released.pth", tmp_path / "other"), "mass weights convert"),
        (("push", weights, "hf:liver"), "Write hf:<owner>/<name>"),
        (("pull", "hf:clinic/absent"), "hf auth login"),
    ):
        assert mass(*arguments) == 2
        assert told in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert mass("push", weights, "hf:clinic/liver") == 2
    assert "pip install huggingface_hub" in capsys.readouterr().err


def test_a_classifier_is_shared_too(tmp_path: Path, home: Path) -> None:
    write_weights(tmp_path / "sex.safetensors", store.CLASSIFIER)
    assert mass("push", tmp_path / "sex.safetensors", tmp_path / "shared") == mass("pull", tmp_path / "shared", "--name", "sex") == 0
    assert store.is_classifier(home / "weights/sex.safetensors")
    assert "mass classify" in (tmp_path / "shared/README.md").read_text()


def test_the_library_takes_what_it_is_given() -> None:
    """The stand-in's signatures are those of the library, where that is installed."""
    real = pytest.importorskip("huggingface_hub")
    inspect.signature(real.snapshot_download).bind("a/b", revision=None, allow_patterns=[], local_dir="")
    api = real.HfApi()
    inspect.signature(api.create_repo).bind("a/b", private=True, exist_ok=True)
    inspect.signature(api.upload_folder).bind(repo_id="a/b", folder_path="", commit_message="")
    assert issubclass(importlib.import_module("huggingface_hub.errors").HfHubHTTPError, Exception)
