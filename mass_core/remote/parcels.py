"""Files of a request in transfer, identified by their content so that none is sent twice."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..outputs import check_free, check_no_input, folders_ready, read_with, stem
from ..weights.store import BUNDLED, locate
from .run_copy import files_of
from .stream import run_place

_READ = ("image", "mask", "target", "task", "result", "common")
_CHUNK = 1 << 20
_DIGITS = 32


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A file, with those that belong to it, or a folder."""

    path: Path
    """As the user named it."""
    files: tuple[Path, ...]
    root: Path
    """The files lie in it."""
    fixed: str = ""
    """Path on the other computer of the folder of a run, which goes on there; of inputs it goes by the content."""

    @classmethod
    def of(cls, path: Path, *, tree: bool = False) -> "Parcel":
        """The files read where a path is named.

        Args:
            path: of a file or a folder.
            tree: of a folder, also the files in its subfolders.

        Raises:
            InputError: if there is nothing, or parts lie elsewhere.
        """
        if not path.exists():
            raise InputError(f"There is no file {path}.", "Check the spelling and the folder.")
        found = (file for file in path.rglob("*") if file.is_file()) if tree else read_with(path)
        files = tuple(sorted({file.absolute() for file in found if file.exists()}))
        root = path.absolute() if path.is_dir() else path.absolute().parent
        if not files:
            raise InputError(f"There are no files in {path}.", "Check the spelling and the folder.")
        if any(not Path(os.path.normpath(file)).is_relative_to(root) for file in files):
            raise InputError(f"The voxels of {path} lie in another folder.", "Save it as one file, a .nrrd, say.")
        return cls(path=path, files=files, root=root)

    @property
    def alone(self) -> bool:
        """A single file; its own name stays here."""
        return len(self.files) == 1 and not self.fixed and not self.path.is_dir()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files)

    def state(self) -> tuple[Any, ...]:
        """A value that changes when the files do."""
        states = [(str(file), file.stat()) for file in self.files]
        return tuple((name, state.st_size, state.st_mtime_ns, state.st_ino) for name, state in states)

    def digest(self) -> Iterator[str]:
        """Of the contents, and of the names of several files; an empty text after each block that was read, and the digest at the end."""
        total = hashlib.sha256()
        for file in self.files:
            own = hashlib.sha256()
            with file.open("rb") as data:
                while block := data.read(_CHUNK):
                    own.update(block)
                    yield ""
            name = "" if self.alone else self._inside(file)
            total.update(f"{name}\0{own.hexdigest()}\n".encode("utf-8", "surrogateescape"))
        yield total.hexdigest()[:_DIGITS]

    def place(self, digest: str) -> str:
        """Path of the files on the other computer."""
        if self.fixed:
            return self.fixed
        ending = self.path.name[len(stem(self.path)) :] if self.alone else ""
        return f"in/{digest}{ending if ending.isascii() else ''}"

    def names(self, place: str) -> Iterator[tuple[Path, str]]:
        """The files, and the name of each there."""
        for file in self.files:
            yield file, place if self.alone else f"{place}/{self._inside(file)}"

    def named(self, place: str) -> str:
        """Name in a request on the other computer."""
        return place if self.alone or self.fixed or self.path.is_dir() else f"{place}/{self.path.name}"

    def _inside(self, file: Path) -> str:
        return Path(os.path.normpath(file)).relative_to(self.root).as_posix()


@dataclass(frozen=True, kw_only=True)
class Result:
    """The file a request writes, and where it is written meanwhile on the other computer."""

    path: Path
    place: str
    """All names that begin so become names that begin like the file's."""

    @classmethod
    def of(cls, path: Path, number: int) -> "Result":
        """The result of a request of this number."""
        # A .mhd names its data file inside, so it has its name from the beginning; of others the name stays here.
        base = stem(path) if path.suffix.lower() == ".mhd" else "result"
        return cls(path=path, place=f"out/{number}/{base}")

    @property
    def named(self) -> str:
        """Name in a request on the other computer."""
        return self.place + self.path.name[len(stem(self.path)) :]

    def here(self, there: str) -> Path:
        """Path here of a file written on the other computer."""
        if not there.startswith(self.place):
            raise InputError(f"The other computer sent {there}, which was not requested.", "Install the same version there as here.")
        return self.path.parent / Path(stem(self.path) + there[len(self.place) :]).name


@dataclass(frozen=True, kw_only=True)
class Packing:
    """A request's params, and the files in them."""

    params: Mapping[str, Any]
    parcels: tuple[Parcel, ...]
    result: Result | None
    run: Path | None = None
    """Folder of the run, a copy of the one on the other computer."""

    @classmethod
    def of(cls, params: Mapping[str, Any], number: int) -> "Packing":
        """Look at the params of a request; every reason not to begin is found here.

        Raises:
            MassError: if a file is missing, or the result may not be written.
        """
        found: list[Parcel | None] = []
        each_text("", params, lambda key, value: found.append(_parcel(key, value)))
        parcels = tuple(parcel for parcel in found if parcel is not None)
        inputs = [parcel.path for parcel in parcels]
        run = Path(params["folder"]).absolute() if params.get("folder") else None
        if run is not None:
            files = tuple(files_of(run).values())
            check_no_input(files, inputs)
            if any(run.glob("state/*.pt")) and not params.get("resume"):
                raise InputError(f"{run} already contains a run.", "Resume it (resume), or choose another folder.")
            if params.get("resume"):
                parcels += (Parcel(path=run, files=files, root=run, fixed=run_place(number)),)
        output = params.get("output")
        if not isinstance(output, str):
            return cls(params=params, parcels=parcels, result=None, run=run)
        path = Path(output)
        check_free([path], overwrite=bool(params.get("overwrite")), inputs=inputs)
        with folders_ready([path]):
            return cls(params=params, parcels=parcels, result=Result.of(path, number), run=run)

    def renamed(self, places: Mapping[Path, str], number: int) -> dict[str, Any]:
        """The params of the request of this number with the names files have there."""

        def text(key: str, value: str) -> str:
            if key == "output" and self.result is not None:
                return self.result.named
            if key == "folder":
                return run_place(number)
            if key == "weights":
                return _weights(value) or places[locate(value)]
            return places[Path(value)] if key in (*_READ, "dataset") else value

        return {key: each_text(key, value, text) for key, value in self.params.items()}


def _parcel(key: str, value: str) -> Parcel | None:
    """The files a text in params names; None: it names none."""
    if key == "weights":
        return None if _weights(value) else Parcel.of(locate(value))
    if key == "dataset":
        return Parcel.of(Path(value), tree=True)
    return Parcel.of(Path(value)) if key in _READ else None


def _weights(value: str) -> str:
    """Name of weights that every installation has; empty: it is a file of this computer."""
    path = locate(value)
    return path.stem if path.parent == BUNDLED else ""


def each_text(key: str, value: Any, change: Callable[[str, str], object]) -> Any:
    """The same value with its texts replaced by what this function makes of their key and them."""
    if isinstance(value, str):
        return change(key, value)
    if isinstance(value, Mapping):
        return {name: each_text(str(name), one, change) for name, one in value.items()}
    return [each_text(key, one, change) for one in value] if isinstance(value, list) else value
