"""A cache of what was made of texts, bounded by bytes, whatever texts came."""

import hashlib
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from cachetools import LRUCache

Value = TypeVar("Value")

_LONGEST_KEY = 512  # characters; longer arguments go by their hash, for texts of clients may have megabytes
_ENTRY_BYTES = 500  # of an entry's key, tuples and array headers, about


class ByteCache(Generic[Value]):
    """Remembers what `make` gave for its arguments; the least recently used go when there is no room for more.

    Args:
        make: called with texts, None and tuples of such.
        size_of: a value -> its bytes, about.
        most_bytes: held, at most.
    """

    def __init__(self, make: Callable[..., Value], size_of: Callable[[Value], int], most_bytes: int) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._kept: LRUCache[Any, Value] = LRUCache(most_bytes, lambda value: _ENTRY_BYTES + size_of(value))

    @property
    def held_bytes(self) -> int:
        """That are held now, about."""
        return int(self._kept.currsize)

    def __call__(self, *arguments: Any) -> Value:
        found = self._get(arguments)  # most are short, and writing a key takes longer than all else here
        if found is None and (key := _key(arguments)) is not arguments:
            found = self._get(key)
        if found is None:
            found = self._make(*arguments)
            with self._lock:
                if self._kept.getsizeof(found) <= self._kept.maxsize:
                    self._kept[key] = found
        return found

    def _get(self, key: Any) -> Value | None:
        with self._lock:
            return self._kept.get(key)


def _key(arguments: tuple[Any, ...]) -> Any:
    written = repr(arguments)  # different arguments are written differently
    return arguments if len(written) <= _LONGEST_KEY else hashlib.sha256(written.encode()).digest()
