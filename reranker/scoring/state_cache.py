"""Hidden states of texts on disk, by content: what one program read of a catalogue, the next one need not read."""

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reranker.errors import ConfigError
from reranker.hub import cache_dir
from reranker.protocols import Engine
from reranker.scoring.span_cache import Key
from reranker.utils.blob_cache import BlobCache

SIZE_VARIABLE = "RERANKER_STATES_GIB"
"""How large the file may grow; 0 keeps nothing on disk."""

DEFAULT_GIB = 4.0
"""Some 3.5 million states of 576 dimensions."""

_FILE = "states.sqlite"


@dataclass(frozen=True, kw_only=True)
class TextsRead:
    """Where states of texts came from.

    Attributes:
        read: texts that the model read.
        kept: texts whose states were on disk.
        directory: where; None without a cache.
    """

    read: int = 0
    kept: int = 0
    directory: Path | None = None

    def more(self, read: int = 0, kept: int = 0) -> "TextsRead":
        """With so many more."""
        return replace(self, read=self.read + read, kept=self.kept + kept)

    def summary(self) -> str:
        """One line."""
        line = f"read {self.read:,} of {self.read + self.kept:,} texts"
        return line if self.directory is None else f"{line}; {self.kept:,} from the cache {self.directory}"


class StateCache:
    """States by base model, its arithmetic, layer, template and text, in half precision.

    Only hashes of texts are kept, never the texts. An engine has to be one that it `takes`: a model whose weights have
    no hash may be another one tomorrow.

    Args:
        blobs: where they are kept.
    """

    def __init__(self, blobs: BlobCache) -> None:
        self._blobs = blobs

    @classmethod
    def of_user(cls) -> "StateCache | None":
        """The user's own, in the cache directory; None where `SIZE_VARIABLE` is 0.

        Raises:
            ConfigError: `SIZE_VARIABLE` is no size.
        """
        given = os.environ.get(SIZE_VARIABLE, "")
        try:
            gib = float(given) if given.strip() else DEFAULT_GIB
        except ValueError:
            gib = math.nan
        if not 0 <= gib < math.inf:
            raise ConfigError(f"{SIZE_VARIABLE}={given!r} is no size in GiB: set a number, or 0 to keep nothing")
        return cls(BlobCache(cache_dir() / _FILE, int(gib * 2**30))) if gib else None

    @staticmethod
    def takes(engine: Engine) -> bool:
        """Whether the engine says what its numbers rest on: weights and arithmetic."""
        return bool(engine.model.sha256 and getattr(engine, "arithmetic", ""))

    @property
    def directory(self) -> Path:
        """Where the file is."""
        return self._blobs.path.parent

    def get(self, engine: Engine, keys: Sequence[Key]) -> dict[Key, NDArray[np.floating]]:
        """key -> (dim,) state, of those that are there."""
        names = _names(engine, keys)
        size = engine.model.dim * np.dtype(np.float16).itemsize
        found = self._blobs.get(list(names))
        return {names[name]: np.frombuffer(value, "<f2") for name, value in found.items() if len(value) == size}

    def put(self, engine: Engine, states: dict[Key, NDArray[np.floating]]) -> None:
        """Keeps states."""
        self._blobs.put({name: states[key].astype("<f2").tobytes() for name, key in _names(engine, states).items()})


def _names(engine: Engine, keys: Sequence[Key] | dict[Key, NDArray[np.floating]]) -> dict[bytes, Key]:
    """Name on disk -> key."""
    arithmetic = str(getattr(engine, "arithmetic", ""))
    return {hashlib.sha256("\0".join((arithmetic, *key)).encode()).digest(): key for key in keys}
