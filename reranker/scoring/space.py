"""Where a model's hidden states of texts are compared, and the states themselves, computed once a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reranker.errors import ConfigError
from reranker.protocols import Engine, ReadsStates
from reranker.scoring.store import Key, SpanStore
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence

DIMENSIONS = 128
POWER = 0.25
_SMALLEST = 1e-3  # of the mean variance: directions below it are noise of the model's arithmetic

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingSpace:
    """Hidden states of a causal LM share a large common part and a few loud directions; a space takes both out.

    Attributes:
        centre: (dim,) mean state of the catalogue.
        basis: (dim, n) principal directions, each divided by its variance to the power of `POWER`.
    """

    centre: Vectors
    basis: Vectors

    @classmethod
    def fit(cls, states: Vectors, dimensions: int = DIMENSIONS) -> "EmbeddingSpace":
        """From (n_texts, dim) states of a catalogue's texts.

        A power of 1/2 would whiten the directions, 0 would leave them as loud as they are; half way between was better
        than either on the mean of six domains (docs/training.md).
        """
        centre = states.mean(axis=0, dtype=np.float64)
        centred = states - centre
        variances, directions = np.linalg.eigh(centred.T @ centred / len(states))
        loudest = np.argsort(-variances, kind="stable")[:dimensions]
        floor = _SMALLEST * variances.mean() or 1.0  # 1 where all texts are the same: nothing to compare then
        scaled = directions[:, loudest] * np.maximum(variances[loudest], floor) ** -POWER
        return cls(centre=centre.astype(np.float32), basis=scaled.astype(np.float32))

    def place(self, states: Vectors) -> Vectors:
        """(..., dim) states -> (..., n_directions) vectors of unit length; their products are cosines."""
        return unit(((states - self.centre) @ self.basis).astype(np.float32))


def unit(vectors: Vectors) -> Vectors:
    """(..., n) vectors of length 1; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Vectors = vectors / np.where(lengths > 0, lengths, 1.0)
    return scaled


class StateStore(SpanStore[Vectors]):
    """Hidden states of texts (in half precision), and the space of the catalogue once it is known.

    Attributes:
        space: None compares the states as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.space: EmbeddingSpace | None = None
        self._placed: dict[Key, Vectors] = {}

    def learn(self, engine: Engine, prefix: TokenSequence, spans: Sequence[CandidateSpan]) -> None:
        """Learns the space from the states of these spans."""
        (states,) = self.values(engine, [(prefix, spans)])
        self.space = EmbeddingSpace.fit(np.asarray(states, dtype=np.float32))
        self._placed = {}

    def look_up(self, engine: Engine, prefix: TokenSequence, spans: Sequence[CandidateSpan]) -> Vectors:
        """(n_spans, n_directions) vectors of unit length.

        Raises:
            ConfigError: the engine gives no hidden states.
        """
        (keys,) = self._known(engine, [(prefix, spans)])
        for key in keys:
            if key not in self._placed:  # one by one: in a batch the last bits depend on the other rows
                state = self._values[key].astype(np.float32)
                self._placed[key] = unit(state) if self.space is None else self.space.place(state)
        return np.stack([self._placed[key] for key in keys])

    def save(self, path: Path) -> None:
        """Writes an npz file without pickle."""
        prompts, spans = zip(*self._values, strict=True) if self._values else ((), ())
        arrays = {
            "prompts": np.array(prompts, dtype="U32"),
            "spans": np.array(spans, dtype="U32"),
            "states": np.array(list(self._values.values()), dtype=np.float16),
        }
        if self.space is not None:
            arrays |= {"centre": self.space.centre, "basis": self.space.basis}
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> "StateStore":
        """Reads what `save` wrote."""
        store = cls()
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            keys = zip(arrays["prompts"].tolist(), arrays["spans"].tolist(), strict=True)
            store._values = dict(zip(keys, arrays["states"], strict=True))
            if "centre" in arrays:
                store.space = EmbeddingSpace(centre=arrays["centre"], basis=arrays["basis"])
        return store

    def _read(self, engine: Engine, requests: Sequence[ScoringRequest]) -> list[Sequence[Vectors]]:
        if not isinstance(engine, ReadsStates):
            raise ConfigError(
                f"the engine {engine.name!r} gives no hidden states, which the embedding read-out compares: take "
                "engine='torch' or 'vllm', or scoring='likelihood'"
            )
        return [list(states.astype(np.float16)) for states in engine.span_states(requests)]
