"""Store of named weights: bundled with the package, or downloaded on request into the user's folder.

Standard library only: the program can say what there is without loading PyTorch.
"""

import json
import os
import re
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from .. import files
from ..colors import LabelStyle
from ..errors import InputError, WeightsError
from ..progress import Report
from ..schema import suggestion
from .published import PUBLISHED

BUNDLED = Path(__file__).parent
SUFFIXES = (".safetensors", ".pth", ".pt")
CLASSIFIER = "mass-classifier"
"""Entry of a safetensors file's metadata that tells a classifier of whole scans from weights for segmentation."""
_MOST_HEADER = 100_000_000
"""Bytes; what the safetensors library allows."""


@dataclass(frozen=True, kw_only=True)
class Remote:
    """Weights that can be downloaded."""

    url: str
    licence: str
    use: Literal["segment", "masks"] = "segment"
    """Purpose of the weights: our own network, or another one that makes masks."""
    about: str
    sha256: str | None = None
    """None: not known beforehand; the server's own checksum is taken, and recorded."""

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.url.rsplit("/", 1)[1]


REMOTE: dict[str, Remote] = {
    "mass_base": Remote(
        url="https://huggingface.co/StanfordAIMI/MASS/resolve/main/mass_base.pth",
        licence="MIT",
        about="released weights of the paper, 120 M parameters (https://huggingface.co/StanfordAIMI/MASS)",
    ),
    **{
        f"sam2.1_hiera_{size}": Remote(
            url=f"https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_{size}.pt",
            licence="Apache-2.0",
            use="masks",
            about=f"SAM2.1 of Meta, {size}: makes masks with `mass masks --method sam2`",
            sha256=checksum,
        )
        for size, checksum in {
            "tiny": "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
            "small": "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
            "base_plus": "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
            "large": "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
        }.items()
    },
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Weights this program knows by name."""

    name: str
    where: str
    """bundled, downloaded, or available (for download)."""
    path: Path | None
    about: str = ""


def home() -> Path:
    """The user's folder for weights: `MASS_HOME`, else the system's place for such files."""
    if os.environ.get("MASS_HOME"):
        return Path(os.environ["MASS_HOME"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local")) / "MASSSlicer"
    if sys.platform == "darwin":
        return Path.home() / "Library/Application Support/MASSSlicer"
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local/share")) / "massslicer"


def keep_compiled() -> None:
    """Let PyTorch's compiler keep its kernels for later runs beside the weights, unless another folder is set.

    To be called early: parts of PyTorch, its optimisers too, load the compiler, which then takes a temporary folder.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home() / "compiled"))


def folder() -> Path:
    """Folder of downloads, and of files placed by hand."""
    return home() / "weights"


def make_folder(place: Path) -> None:
    """Make a folder of `home`, if it is not there.

    Raises:
        OutputError: if it cannot be made.
    """
    files.make_folder(place, "Set MASS_HOME to a folder you may write to.")


def entries() -> list[Entry]:
    """All weights known by name: bundled, downloaded, then available ones."""
    found = [
        Entry(name=path.stem, where=where, path=path, about=REMOTE[path.stem].about if path.stem in REMOTE else "")
        for where, place in (("bundled", BUNDLED), ("downloaded", folder()))
        for path in sorted(place.glob("*"))
        if path.suffix in SUFFIXES
    ]
    present = {entry.name for entry in found}
    return found + [Entry(name=n, where="available", path=None, about=r.about) for n, r in REMOTE.items() if n not in present]


def locate(weights: str | Path) -> Path:
    """The file that `weights` means: a path, or a name of bundled or downloaded weights.

    Raises:
        WeightsError: if there is none, naming what there is.
    """
    path = Path(weights)
    if path.is_file():
        return path
    known = {entry.name: entry for entry in entries()}
    entry = known.get(str(weights))
    if entry is not None and entry.path is not None:
        return entry.path
    if entry is not None:
        raise WeightsError(f"The weights {entry.name!r} are not on this computer.", f"Run `mass weights download {entry.name}`.")
    if str(weights) in PUBLISHED:
        raise WeightsError(*PUBLISHED[str(weights)].absence(str(weights), folder()))
    if path.is_dir():
        raise WeightsError(f"{path} is a folder, not a weights file.", "Give the file in it.")
    raise WeightsError(
        f"There are no weights {str(weights)!r}.", f"Give a file, or a name. {suggestion(str(weights), [*known, *PUBLISHED])}"
    )


def classes(path: Path) -> dict[int, LabelStyle]:
    """The fixed classes of a `.safetensors` of ours, by their number in label maps; empty where references define the task.

    Raises:
        WeightsError: if the file cannot be read.
    """
    with _refused(path):
        metadata = read_metadata(path)
        refuse_classifier(path, metadata)
        task = json.loads(metadata["mass"]).get("task") or {"labels": ()}
        return {label["value"]: LabelStyle(label["name"], label["color"] and tuple(label["color"])) for label in task["labels"]}


def is_classifier(path: Path) -> bool:
    """True if a file is a classifier of whole scans.

    Raises:
        WeightsError: if it ends in .safetensors and cannot be read.
    """
    return path.suffix == ".safetensors" and CLASSIFIER in read_metadata(path)


def header(path: Path) -> dict[str, Any]:
    """Metadata of a `.safetensors` of ours, for segmentation or a classifier.

    Raises:
        WeightsError: if it is another file.
    """
    with _refused(path):
        metadata = read_metadata(path)
        values: dict[str, Any] = json.loads(metadata[CLASSIFIER] if CLASSIFIER in metadata else metadata["mass"])
        return values


def place_of(name: str) -> Path:
    """File of weights in the user's folder.

    Raises:
        InputError: if bundled weights have that name, or it is not a valid file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise InputError(f"{name!r} is not a valid name for weights.", "Use letters, digits, dots, hyphens and underscores.")
    if any(entry.name == name and entry.where == "bundled" for entry in entries()):
        raise InputError(f"Weights called {name!r} come with this program.", "Choose another --name.")
    return folder() / f"{name}.safetensors"


def record(path: Path, *, url: str, sha256: str, checked_against: str, licence: str) -> None:
    """Keep beside downloaded weights where they came from, with their SHA-256.

    Args:
        path: of the weights.
        url: they were fetched from.
        sha256: of the file.
        checked_against: source of the checksum it was compared with.
        licence: of the weights.
    """
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    origin = {"url": url, "sha256": sha256, "checked_against": checked_against, "bytes": path.stat().st_size}
    files.write_json(_record_path(path), {**origin, "licence": licence, "downloaded": when})


def read_metadata(path: Path) -> Mapping[str, str]:
    """Metadata of a safetensors file, read without the library.

    Raises:
        WeightsError: if it is not such a file.
    """
    with _refused(path), open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _MOST_HEADER:
            raise ValueError("it does not begin with the length of a header")
        header: Mapping[str, Mapping[str, str]] = json.loads(file.read(length))
        return header["__metadata__"]


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turn what a damaged file leads to into an error that names the file."""
    try:
        yield
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is damaged or not from MASSSlicer: {error}.", "Choose weights written by MASSSlicer.") from error


def refuse_classifier(path: Path, metadata: Mapping[str, str]) -> None:
    """Refuse to segment with a classifier of whole scans.

    Args:
        path: of the file.
        metadata: of the safetensors file.

    Raises:
        WeightsError: saying so.
    """
    if CLASSIFIER in metadata:
        raise WeightsError(f"{path} is a classifier of whole scans; it cannot segment.", "Use it with `mass classify`.")


def may_have_classes(path: Path) -> bool:
    """True if weights may do without references; of a `.pth` that is known only when its tensors are read."""
    return path.suffix != ".safetensors" or bool(classes(path))


def download(name: str, *, progress: Report | None = None, cancelled: Callable[[], bool] | None = None) -> Path:
    """Fetch weights into the user's folder; an interrupted download continues where it stopped.

    Args:
        name: one of `REMOTE`.
        progress: called while the file is received.
        cancelled: called for every megabyte; true stops the download.

    Returns:
        The file, with the checksum it was found to have recorded beside it.

    Raises:
        InputError: if nothing of this name can be downloaded.
        WeightsError: if the server cannot be reached, breaks off or sends something else.
        OutputError: if the file cannot be written.
        Cancelled: if the user stopped it.
    """
    from .download import fetch  # here: the network's part of the standard library takes long to load

    if name not in REMOTE:
        raise InputError(f"There is nothing to download called {name!r}.", f"Choose one of: {', '.join(REMOTE)}.")
    remote = REMOTE[name]
    target = folder() / remote.file
    if target.is_file():
        return target
    make_folder(target.parent)
    received = fetch(remote.url, target, expected=remote.sha256, progress=progress, cancelled=cancelled)
    record(target, url=remote.url, sha256=received.sha256, checked_against=received.checked_against, licence=remote.licence)
    return target


def verify_checksum(path: Path) -> bool | None:
    """True if a downloaded file still has the checksum recorded for it; None: none is recorded."""
    from .download import sha256

    try:
        recorded = json.loads(_record_path(path).read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return bool(recorded == sha256(path))


def remove(name: str) -> Path:
    """Delete downloaded weights.

    Raises:
        InputError: if nothing of this name was downloaded.
    """
    path = next((entry.path for entry in entries() if entry.name == name and entry.where == "downloaded"), None)
    if path is None:
        raise InputError(f"No downloaded weights are called {name!r}.", f"See `mass weights list`; downloads are in {folder()}.")
    path.unlink()
    _record_path(path).unlink(missing_ok=True)
    return path


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
