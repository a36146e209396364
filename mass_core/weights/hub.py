"""Weights shared as a model repository of the Hugging Face Hub has them: `config.json`, `model.safetensors`, `README.md`.

A folder serves as well as a repository, which is written `hf:<owner>/<name>`. Of the Hub only `push` and `pull` know, with the library
`huggingface_hub`; who the user is, that library finds out by itself (`hf auth login`): no token passes through here.
"""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError, WeightsError
from ..files import write_by, write_bytes
from ..outputs import check_free, folders_ready
from . import store
from .download import sha256

CONFIG, TENSORS, CARD = "config.json", "model.safetensors", "README.md"
FILES = (CONFIG, TENSORS, CARD)
_HUB = "hf:"
_LICENCES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "bsd-3-clause")
"""Those the Hub knows by the lower-case SPDX name."""


def push(weights: str | Path, target: str, *, public: bool = False, overwrite: bool = False) -> str:
    """Share weights.

    Args:
        weights: a `.safetensors` of ours, or the name of such weights.
        target: a folder, or `hf:<owner>/<name>`.
        public: a repository that is made for this can be seen by everybody; else by its owner only. One that is there stays as it is.
        overwrite: replace files in a folder.

    Returns:
        Where they are now.

    Raises:
        InputError: if the target is none, or the library of the Hub is missing.
        WeightsError: if the weights are of another form, or the Hub refuses.
        OutputError: if files cannot be written or exist.
    """
    path = shareable(weights)
    config = _config(path)
    if (repository := _repository(target)) is None:
        _write(path, config, Path(target), overwrite=overwrite)
        return target
    hub = _library()
    with tempfile.TemporaryDirectory(prefix="mass-") as folder, _hub_errors(hub, target):
        _write(path, config, Path(folder), overwrite=True)
        api = hub.HfApi()
        api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Weights of MASSSlicer {__version__}")
    return f"https://huggingface.co/{repository}"


def shareable(weights: str | Path) -> Path:
    """The file of weights that can be shared.

    Raises:
        WeightsError: if they are of another form than ours.
    """
    path = store.locate(weights)
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"{path} is not in the file format of MASSSlicer.", f"Run `mass weights convert {path} OUT.safetensors` and share that."
        )
    return path


def pull(source: str, name: str | None = None, *, revision: str | None = None, overwrite: bool = False) -> Path:
    """Fetch shared weights into the user's folder, from where they are used by name.

    Args:
        source: a folder, or `hf:<owner>/<name>`.
        name: they shall have; None: that of the folder or repository.
        revision: of the repository: a branch, a tag or a commit; None: its newest.
        overwrite: replace weights of this name.

    Raises:
        InputError: if there is no such folder or repository name, or the library of the Hub is missing.
        WeightsError: if files are missing, damaged or of another form, or the Hub refuses.
        OutputError: if the file cannot be written or exists.
    """
    repository = _repository(source)
    target = store.place_of(name or (repository or str(Path(source).resolve())).replace("\\", "/").rpartition("/")[2])
    check_free([target], overwrite=overwrite, inputs=[Path(source)] if repository is None else [])
    if repository is None:
        return _take(Path(source), target, source)
    hub = _library()
    with tempfile.TemporaryDirectory(prefix="mass-") as folder:
        with _hub_errors(hub, source):
            hub.snapshot_download(repository, revision=revision, allow_patterns=[CONFIG, TENSORS], local_dir=folder)
        return _take(Path(folder), target, source)


def _repository(text: str) -> str | None:
    """The repository of the Hub that is meant; None: a folder is."""
    if not text.startswith(_HUB):
        return None
    name = text[len(_HUB) :]
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"{text!r} is not the name of a repository of the Hugging Face Hub.", "Write hf:<owner>/<name>.")
    return name


def _config(path: Path) -> dict[str, Any]:
    """Content of config.json: the header of the weights, and the checksum of the file."""
    header = store.header(path)
    kind = "classifier" if store.is_classifier(path) else "segmentation"
    return {"library_name": "mass-core", "kind": kind, "file": TENSORS, "sha256": sha256(path), **header}


def _write(path: Path, config: dict[str, Any], folder: Path, *, overwrite: bool) -> None:
    """The three files; config.json last: with it the folder is complete."""
    check_free([folder / name for name in FILES], overwrite=overwrite, inputs=[path])
    with folders_ready([folder / CONFIG]), path.open("rb") as file:
        (folder / CONFIG).unlink(missing_ok=True)
        write_by(folder / TENSORS, lambda copy: shutil.copyfileobj(file, copy, 1 << 20))
        write_bytes(folder / CARD, _card(path.stem, config).encode())
        write_bytes(folder / CONFIG, json.dumps(config, indent=1).encode())


def _card(name: str, config: dict[str, Any]) -> str:
    """The page people see."""
    licence = config.get("licence") or "not stated"
    known = licence.lower() if licence.lower() in _LICENCES else "other"
    named = f"license_name: {json.dumps(licence)}\n" if known == "other" else ""
    use = "mass classify --weights" if config["kind"] == "classifier" else "mass segment --weights"
    return (
        f"---\nlicense: {known}\n{named}library_name: mass-core\ntags: [medical, image-segmentation, 3d]\n---\n"
        f"# {name}\n\nWeights of MASSSlicer {__version__}, licence {licence}. `config.json` describes network, preparation and origin.\n\n"
        f"```\nmass weights pull hf:OWNER/NAME --name {name}\n{use} {name} ...\n```\n"
    )


def _take(folder: Path, target: Path, source: str) -> Path:
    """Weights out of a folder, checked, under their new name."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Give a folder, or hf:<owner>/<name>.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        wanted = str(config["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{source} holds no weights of MASSSlicer: its {CONFIG} gives no checksum.", "See `mass weights push`."
        ) from error
    tensors = folder / TENSORS
    if not tensors.is_file():
        raise WeightsError(f"{source} lacks {TENSORS}.", "Fetch it again.")
    store.header(tensors)
    if (found := sha256(tensors)) != wanted:
        raise WeightsError(f"{TENSORS} of {source} is damaged or a different one: SHA-256 {found}, not {wanted}.", "Fetch it again.")
    store.make_folder(target.parent)
    with tensors.open("rb") as file:
        write_by(target, lambda copy: shutil.copyfileobj(file, copy, 1 << 20))
    store.record(target, url=source, sha256=wanted, checked_against=CONFIG, licence=config.get("licence", ""))
    return target


def _library() -> Any:
    """`huggingface_hub`.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(
            "The Hugging Face Hub needs the library huggingface_hub.", "Run pip install huggingface_hub, or give a folder."
        ) from error
    return huggingface_hub


@contextmanager
def _hub_errors(hub: Any, where: str) -> Iterator[None]:
    """Turn what the Hub's library raises into an error that says what to do."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, hub.errors.HfHubHTTPError, *_network_errors()) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise WeightsError(
            f"{where}: {reason}", "Check the name, the network, and your login there: hf auth whoami, hf auth login."
        ) from error


def _network_errors() -> tuple[type[Exception], ...]:
    """Errors that newer versions of the library let through where there is no network; those of older ones are OSErrors."""
    loaded = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    return tuple(module.HTTPError for module in loaded)
