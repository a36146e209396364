"""Volumes of the scene as files for the worker, written again only after a change."""

from __future__ import annotations

import shutil
import tempfile
from collections import OrderedDict
from pathlib import Path

import slicer

from . import exchange as scene

KEPT_BYTES = 4 << 30
"""Most bytes of exported volumes on disk: the longest unused ones go first, the last one stays whatever its size."""


class Exports:
    """A private folder of files, removed with `close`."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._files: OrderedDict[str, tuple[tuple, Path]] = OrderedDict()
        self._number = 0

    @property
    def folder(self) -> Path:
        """Path of the folder, made on first use and readable by this user only."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="mass-", dir=slicer.app.temporaryPath or None))
        return self._folder

    def volume(self, node: slicer.vtkMRMLScalarVolumeNode) -> Path:
        """The file of a volume as it is now.

        Raises:
            MassError: if the volume cannot be used or written.
        """
        scene.check_volume(node)
        state = scene.state(node)
        known = self._files.get(node.GetID())
        if known is not None and known[0] == state and known[1].is_file():
            self._files.move_to_end(node.GetID())
            return known[1]
        self.discard(node.GetID())
        path = self.new(".nrrd")
        scene.write_volume(node, path)
        self._files[node.GetID()] = (state, path)
        self._make_room()
        return path

    def new(self, ending: str) -> Path:
        """Path of a new file."""
        self._number += 1
        return self.folder / f"{self._number:05d}{ending}"

    def discard(self, node_id: str) -> None:
        """Delete the file of a volume that is no longer needed."""
        if node_id in self._files:
            self._files.pop(node_id)[1].unlink(missing_ok=True)

    def close(self) -> None:
        """Delete everything."""
        self._files.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _make_room(self) -> None:
        while len(self._files) > 1 and sum(path.stat().st_size for _, path in self._files.values()) > KEPT_BYTES:
            self.discard(next(iter(self._files)))
