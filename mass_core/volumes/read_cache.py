"""Cache of scans: a file that has not changed is not read again."""

from pathlib import Path

from ..cache import LruCache
from .volume import Volume

_SELF_CONTAINED = (".nii", ".nii.gz", ".nrrd", ".mha")
"""Files that hold all that is read from them, so that their own date shows every change."""


class Scans:
    """Reads scans and keeps the latest.

    Args:
        limit_bytes: most memory of all scans kept.
    """

    def __init__(self, limit_bytes: int = 1 << 30) -> None:
        self._kept: LruCache[Volume] = LruCache(limit_bytes)

    def read(self, path: Path, frame: int | None = None) -> Volume:
        """A scan, from memory if its file is as it was.

        Raises:
            MassError: as `Volume.read`.
        """
        if not (path.is_dir() or path.name.lower().endswith(_SELF_CONTAINED)):
            return Volume.read(path, frame)
        key = f"{state_of(path)}{frame}"
        volume = self._kept.get(key)
        if volume is None:
            volume = Volume.read(path, frame)
            self._kept.put(key, volume, volume.array.nbytes)
        return volume


def state_of(path: Path) -> str:
    """Changes when a file, or a file of a folder, is replaced or written to."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    facts = [(file, file.stat()) for file in files if file.exists()]
    return repr([(str(file), s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for file, s in facts])
