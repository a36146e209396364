"""A scan's slices as network input."""

from collections.abc import Callable
from typing import Any

from ...cache import LruCache
from ...errors import InputError
from .channels import Bytes


class Frames:
    """Pictures of slices, and features of them that are computed once and then kept.

    Args:
        images: [n,h,w,3] pictures.
        encode: computes the features of one.
        most: how many features are kept; the ones not used for longest go first. None: all.
    """

    def __init__(self, images: Bytes, encode: Callable[[Bytes], Any], most: int | None = None) -> None:
        if images.ndim != 4 or images.shape[-1] != 3:
            raise InputError(f"Slices have the shape {images.shape}.", "Give pictures [n,h,w,3].")
        self.images = images
        self._encode = encode
        self._kept: LruCache[Any] = LruCache(len(images) if most is None else max(most, 1))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a slice."""
        return self.images.shape[1], self.images.shape[2]

    def __getitem__(self, index: int) -> Any:
        """Features of a slice."""
        features = self._kept.get(str(index))
        if features is None:
            features = self._encode(self.images[index])
            self._kept.put(str(index), features, 1)
        return features
