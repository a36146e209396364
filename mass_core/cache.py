"""A least-recently-used cache bounded by memory."""

from collections import OrderedDict
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LruCache(Generic[Value]):
    """Results by key; the least recently used ones are dropped when the limit is reached.

    Args:
        limit_bytes: most memory of all results together. A result larger than that is not kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held: OrderedDict[str, tuple[Value, int]] = OrderedDict()

    def get(self, key: str) -> Value | None:
        """A cached result, which counts as used now; None: not in the cache."""
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

    def put(self, key: str, value: Value, size_bytes: int) -> None:
        """Keep a result."""
        self._held.pop(key, None)
        self._held[key] = (value, size_bytes)
        while self._held and sum(size for _, size in self._held.values()) > self._limit:
            self._held.popitem(last=False)
