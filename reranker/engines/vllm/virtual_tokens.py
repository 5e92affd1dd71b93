"""Ids beyond the vocabulary: vectors in slots of the worker's embedding table, and other names of tokens."""

from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from reranker.errors import EngineError
from reranker.types import TokenSequence

_MAX_ID = 2**31 - 1  # vLLM keeps ids in 32 bits


class SlotTable:
    """Gives equal vectors equal ids, so that the prefix cache knows them again.

    A slot is never rewritten while cached blocks may refer to it: when the table is full it is emptied whole, and the
    prefix cache with it.

    Args:
        first_slot: id of the first slot; the ids below are tokens.
        size: number of slots.
        write: (first slot's index, rows (n, dim)) puts vectors into consecutive slots.
        forget: empties the prefix cache.
    """

    def __init__(
        self, first_slot: int, size: int, write: Callable[[int, NDArray[np.float32]], None], forget: Callable[[], None]
    ) -> None:
        self.size = size
        self._first = first_slot
        self._write = write
        self._forget = forget
        self._slots: dict[bytes, int] = {}

    def load(self, sequences: Sequence[TokenSequence]) -> None:
        """Makes sure that every vector of `sequences` has a slot.

        Raises:
            EngineError: more distinct vectors than slots.
        """
        wanted = {row.tobytes(): row for sequence in sequences for row in _rows(sequence)}
        if len(wanted) > self.size:
            raise EngineError(
                f"one request uses {len(wanted)} different vectors, the engine has {self.size} slots; "
                f"load it with slots={len(wanted)} or more"
            )
        missing = [key for key in wanted if key not in self._slots]
        if len(self._slots) + len(missing) > self.size:
            self._forget()  # first: if it fails, the slots are still taken
            self._slots.clear()
            missing = list(wanted)
        if missing:
            begin = len(self._slots)
            self._write(begin, np.stack([wanted[key] for key in missing]))
            self._slots.update({key: begin + offset for offset, key in enumerate(missing)})

    def token_ids(self, sequence: TokenSequence) -> list[int]:
        """Ids with each vector's placeholder replaced by the id of its slot; `load` comes first."""
        ids: list[int] = sequence.token_ids.tolist()
        for position, row in zip(sequence.vector_positions.tolist(), _rows(sequence), strict=True):
            ids[position] = self._first + self._slots[row.tobytes()]
        return ids


class Aliases:
    """Further ids of the same tokens, each given once.

    The prefix cache goes by ids. A candidate that begins with an id of its own finds the shared prefix in the cache,
    and never the blocks of a candidate that begins alike, for which no log-probabilities would be computed.

    Args:
        vocab_size: tokens; id `first + i * vocab_size + token` is the i-th other name of a token.
        first: the first id that is neither token nor slot.
    """

    def __init__(self, vocab_size: int, first: int) -> None:
        self._vocab_size, self._first = vocab_size, first
        self._names = cycle(range((_MAX_ID - first) // vocab_size))

    def fresh(self, token_id: int) -> int:
        """Another id of a token; a slot's id stays. Names begin again after some ten thousand."""
        return (
            token_id if token_id >= self._vocab_size else self._first + next(self._names) * self._vocab_size + token_id
        )


def _rows(sequence: TokenSequence) -> NDArray[np.float32]:
    return np.ascontiguousarray(sequence.vectors, dtype=np.float32)
