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
_RIDGE = 1.0  # in units of the directions' mean variance

Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingSpace:
    """Hidden states of a causal LM share a large common part and a few loud directions; a space takes both out.

    Attributes:
        centre: (dim,) mean state of the catalogue.
        basis: (dim, dim) principal directions, loudest first, each divided by its variance to the power of `POWER`.
    """

    centre: Vectors
    basis: Vectors

    @classmethod
    def fit(cls, states: Vectors) -> "EmbeddingSpace":
        """From (n_texts, dim) states of a catalogue's texts.

        A power of 1/2 would whiten the directions, 0 would leave them as loud as they are; half way between was better
        than either on the mean of six domains (docs/training.md).
        """
        centre = states.mean(axis=0, dtype=np.float64)
        centred = states - centre
        variances, directions = np.linalg.eigh(centred.T @ centred / len(states))
        loudest = np.argsort(-variances, kind="stable")
        floor = _SMALLEST * variances.mean() or 1.0  # 1 where all texts are the same: nothing to compare then
        scaled = directions[:, loudest] * np.maximum(variances[loudest], floor) ** -POWER
        return cls(centre=centre.astype(np.float32), basis=scaled.astype(np.float32))

    def place(self, states: Vectors, directions: int | None = DIMENSIONS) -> Vectors:
        """(..., dim) states -> (..., n) vectors of unit length along the loudest directions; products are cosines.

        Args:
            directions: how many; None for all.
        """
        return unit(((states - self.centre) @ self.basis[:, :directions]).astype(np.float32))


@dataclass(frozen=True, kw_only=True, eq=False)
class TasteSpace:
    """What an item's text says of who chooses it: hidden states, mapped to the recall stage's item vectors.

    A linear map from content to collaborative vectors (the idea of CB2CF, Barkan et al. 2019), learned from the items
    that were chosen. It places every text, those of items that nobody chose yet included.

    Attributes:
        texts: where the states are placed first.
        weights: (dim, n_factors) from there to the recall space, whose mean is taken out.
    """

    texts: EmbeddingSpace
    weights: Vectors

    @classmethod
    def fit(cls, texts: EmbeddingSpace, states: Vectors, vectors: Vectors, counts: NDArray[np.float64]) -> "TasteSpace":
        """By ridge regression, an item weighing as the root of how often it was chosen.

        Args:
            texts: the space of the catalogue.
            states: (n_items, dim) of the items' texts.
            vectors: (n_items, n_factors) of the items in the recall space; only their directions count.
            counts: (n_items,) how often each was chosen, above 0.
        """
        placed = texts.place(states, None).astype(np.float64)
        weighted = placed * np.sqrt(counts)[:, None]
        gram = weighted.T @ placed
        directions = unit(vectors)
        targets = directions - np.average(directions, axis=0, weights=np.sqrt(counts))
        ridge = _RIDGE * (np.trace(gram) / len(gram) or 1.0) * np.eye(len(gram))  # 1 where all texts are the same
        return cls(texts=texts, weights=np.linalg.solve(gram + ridge, weighted.T @ targets).astype(np.float32))

    def place(self, states: Vectors) -> Vectors:
        """(..., dim) states -> (..., n_factors) vectors of unit length; their products are cosines."""
        return unit(self.texts.place(states, None) @ self.weights)


def unit(vectors: Vectors) -> Vectors:
    """(..., n) vectors of length 1; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Vectors = vectors / np.where(lengths > 0, lengths, 1.0)
    return scaled


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """Texts where they are compared.

    Attributes:
        near: (n, n_directions) unit vectors in the space of texts.
        taste: (n, n_factors) unit vectors in the space of tastes; (n, 0) where none was learned.
    """

    near: Vectors
    taste: Vectors


class StateStore(SpanStore[Vectors]):
    """Hidden states of texts (in half precision), and the spaces of the catalogue once they are known.

    Attributes:
        space: None compares the states as they are.
        taste: None where the recall stage has no item vectors, or none were shown.
    """

    def __init__(self) -> None:
        super().__init__()
        self.space: EmbeddingSpace | None = None
        self.taste: TasteSpace | None = None
        self._placed: dict[Key, tuple[Vectors, Vectors]] = {}

    def learn(self, engine: Engine, prefix: TokenSequence, spans: Sequence[CandidateSpan]) -> None:
        """Learns the space of texts from the states of these spans; that of tastes is to be learned anew."""
        self.space = EmbeddingSpace.fit(self._states(engine, prefix, spans))
        self.forget_taste()

    def forget_taste(self) -> None:
        """There is no space of tastes from now on; what was placed is placed anew."""
        self.taste = None
        self._placed = {}

    def learn_taste(
        self,
        engine: Engine,
        prefix: TokenSequence,
        spans: Sequence[CandidateSpan],
        vectors: Vectors,
        counts: NDArray[np.float64],
    ) -> None:
        """Learns the space of tastes, as `TasteSpace.fit`, from these spans.

        Raises:
            ConfigError: the space of texts was not learned before.
        """
        if self.space is None:
            raise ConfigError("the space of tastes stands on that of the catalogue's texts: call learn first")
        self.taste = TasteSpace.fit(self.space, self._states(engine, prefix, spans), vectors, counts)
        self._placed = {}

    def look_up(self, engine: Engine, prefix: TokenSequence, spans: Sequence[CandidateSpan]) -> Placed:
        """Where the spans' texts lie.

        Raises:
            ConfigError: the engine gives no hidden states.
        """
        with self._lock:
            (keys,) = self._known(engine, [(prefix, spans)])
            for key in keys:
                if key not in self._placed:  # one by one: in a batch the last bits depend on the other rows
                    self._placed[key] = self._place(self._values[key].astype(np.float32))
            near, taste = zip(*(self._placed[key] for key in keys), strict=True)
        return Placed(near=np.stack(near), taste=np.stack(taste))

    def _drop(self, key: Key) -> None:
        super()._drop(key)
        self._placed.pop(key, None)

    def _place(self, state: Vectors) -> tuple[Vectors, Vectors]:
        near = unit(state) if self.space is None else self.space.place(state)
        return near, np.zeros(0, dtype=np.float32) if self.taste is None else self.taste.place(state)

    def _states(self, engine: Engine, prefix: TokenSequence, spans: Sequence[CandidateSpan]) -> Vectors:
        (states,) = self.values(engine, [(prefix, spans)])
        return np.asarray(states, dtype=np.float32)

    def save(self, path: Path) -> None:
        """Writes an npz file without pickle."""
        values = dict(self._values)
        prompts, spans = zip(*values, strict=True) if values else ((), ())
        arrays = {
            "prompts": np.array(prompts, dtype="U32"),
            "spans": np.array(spans, dtype="U32"),
            "states": np.array(list(values.values()), dtype=np.float16),
        }
        if self.space is not None:
            arrays |= {"centre": self.space.centre, "basis": self.space.basis}
        if self.taste is not None:
            arrays["weights"] = self.taste.weights
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
                if "weights" in arrays:
                    store.taste = TasteSpace(texts=store.space, weights=arrays["weights"])
        return store

    def _read(self, engine: Engine, requests: Sequence[ScoringRequest]) -> list[Sequence[Vectors]]:
        if not isinstance(engine, ReadsStates):
            raise ConfigError(
                f"the engine {engine.name!r} gives no hidden states, which the embedding read-out compares: take "
                "engine='torch' or 'vllm', or scoring='likelihood'"
            )
        return [list(states.astype(np.float16)) for states in engine.span_states(requests)]
