"""Where a model's hidden states of texts are compared, and the states themselves, computed once a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reranker.engines.slices import in_slices
from reranker.errors import ConfigError, ModelError
from reranker.prompting import TEXT_PARTS, ItemTexts
from reranker.protocols import Engine, ReadsStates
from reranker.scoring.span_cache import Key, SpanStore
from reranker.types import CandidateSpan, ScoringRequest
from reranker.utils.untrusted import read_npz

DIMENSIONS = 128
POWER = 0.25
_SMALLEST = 1e-3  # of the mean variance: directions below it are noise of the model's arithmetic
_CF_RIDGE = 1.0  # in units of the directions' mean variance
_POPULARITY_RIDGE = 10.0  # as good as 100

_NAMES = 2  # parts that make up an item's name: title and category

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
        than either on the mean of six domains (research/2026-11-experiments.md).
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
class ItemSpaces:
    """Where items lie by what is read of them.

    Parts are kept apart for the projection because in one mean a long description, or many categories, drown the title.

    Attributes:
        names: of title and category in one.
        parts: of each part by itself; None where no item has it.
    """

    names: EmbeddingSpace
    parts: tuple[EmbeddingSpace | None, ...]

    @classmethod
    def fit(cls, states: Vectors) -> "ItemSpaces":
        """From (n_items, 1 + n_parts, dim) states of `StateStore.states`.

        Raises:
            ModelError: they are no numbers, or all of them zero.
        """
        if not np.isfinite(states).all() or not states.any():
            raise ModelError(
                "the model's hidden states of all texts are zero, or not finite: its weights are damaged or were not "
                "loaded; load it anew, or try dtype 'float32'"
            )
        names, *parts = np.moveaxis(states, 1, 0)
        there = [part[part.any(axis=-1)] for part in parts]
        return cls(
            names=EmbeddingSpace.fit(names),
            parts=tuple(EmbeddingSpace.fit(part) if len(part) else None for part in there),
        )

    def near(self, states: Vectors) -> Vectors:
        """(..., 1 + n_parts, dim) states -> (..., n) unit vectors of the names; products are cosines."""
        return self.names.place(states[..., 0, :])

    def whole(self, states: Vectors) -> Vectors:
        """(..., 1 + n_parts, dim) states -> (..., n): a unit vector a part, zeros where an item has none."""
        placed = [
            space.place(states[..., 1 + number, :], None) * states[..., 1 + number, :].any(axis=-1, keepdims=True)
            for number, space in enumerate(self.parts)
            if space is not None
        ]
        return np.concatenate(placed, axis=-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class CFProjection:
    """What is read of an item says who chooses it: hidden states, mapped to the candidate generator's item vectors.

    A linear map from content to collaborative vectors (the idea of CB2CF, Barkan et al. 2019), learned from the items
    that were chosen. It places every item, those that nobody chose yet included.

    Attributes:
        weights: (n, n_factors) from `ItemSpaces.whole` to the collaborative space, whose mean is taken out.
    """

    weights: Vectors

    @classmethod
    def fit(cls, placed: Vectors, vectors: Vectors, counts: NDArray[np.float64]) -> "CFProjection":
        """By ridge regression, an item weighing as the root of how often it was chosen.

        Args:
            placed: (n_items, n) of the items, as `ItemSpaces.whole` places them.
            vectors: (n_items, n_factors) of the items in the collaborative space; only their directions count.
            counts: (n_items,) how often each was chosen, above 0.
        """
        return cls(weights=_regressed(placed, unit(vectors), np.sqrt(counts), _CF_RIDGE))

    def place(self, placed: Vectors) -> Vectors:
        """(..., n) of `ItemSpaces.whole` -> (..., n_factors) vectors of unit length; their products are cosines."""
        return unit(placed @ self.weights)


@dataclass(frozen=True, kw_only=True, eq=False)
class PopularityProjection:
    """What is read of an item says how often such items are chosen; it tells new items apart before anybody chose one.

    Attributes:
        weights: (n,) from `ItemSpaces.whole` to the logarithm of how often, whose mean is taken out.
    """

    weights: Vectors

    @classmethod
    def fit(cls, placed: Vectors, counts: NDArray[np.float64]) -> "PopularityProjection":
        """By ridge regression.

        Args:
            placed: (n_items, n) of the items, as `ItemSpaces.whole` places them.
            counts: (n_items,) how often each was chosen, above 0.
        """
        return cls(weights=_regressed(placed, np.log1p(counts)[:, None], np.ones(len(counts)), _POPULARITY_RIDGE)[:, 0])

    def of(self, placed: Vectors) -> Vectors:
        """(...,) from (..., n) of `ItemSpaces.whole`; 0 is the mean of the items that it was learned from."""
        told: Vectors = placed @ self.weights
        return told


def _regressed(placed: Vectors, targets: NDArray[np.floating], weights: NDArray[np.float64], ridge: float) -> Vectors:
    """(n, n_targets) that tell (n_items, n_targets), their weighted mean taken out, from (n_items, n) placed items.

    Args:
        weights: (n_items,) of the items.
        ridge: in units of the directions' mean variance.
    """
    placed = placed.astype(np.float64)
    weighted = placed * weights[:, None]
    gram = weighted.T @ placed
    penalty = ridge * (np.trace(gram) / len(gram) or 1.0) * np.eye(len(gram))  # 1 where all texts are the same
    centred = targets - np.average(targets, axis=0, weights=weights)
    return np.linalg.solve(gram + penalty, weighted.T @ centred).astype(np.float32)


def unit(vectors: Vectors) -> Vectors:
    """(..., n) vectors of length 1; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Vectors = vectors / np.where(lengths > 0, lengths, 1.0)
    return scaled


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """Items where they are compared.

    Attributes:
        near: (n_items, n_directions) unit vectors in the space of names.
        cf_projection: (n_items, n_factors) unit vectors in the collaborative space; (n_items, 0) where none was
            learned.
        predicted_popularity: (n_items,) what `PopularityProjection` tells; 0 where it was not learned.
    """

    near: Vectors
    cf_projection: Vectors
    predicted_popularity: Vectors


class StateStore(SpanStore[Vectors]):
    """Hidden states of spans (in half precision), and the spaces of the catalogue once they are known.

    Attributes:
        spaces: None compares the states of names as they are.
        cf_projection: None where the candidate generator has no item vectors, or none were shown.
        predicted_popularity: None where no choices were shown.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spaces: ItemSpaces | None = None
        self.cf_projection: CFProjection | None = None
        self.predicted_popularity: PopularityProjection | None = None
        self._placed: dict[Key, tuple[Vectors, Vectors, np.float32]] = {}  # by the key of an item's longest span

    def learn(self, engine: Engine, items: ItemTexts) -> None:
        """Learns the spaces of names and parts from these items; projections are to be learned anew."""
        self.spaces = ItemSpaces.fit(self.states(engine, items))
        self.keep_choices(None, None)

    def keep_choices(
        self, cf_projection: CFProjection | None, predicted_popularity: PopularityProjection | None
    ) -> None:
        """What is told of choices from now on; what was placed is placed anew."""
        self.cf_projection, self.predicted_popularity = cf_projection, predicted_popularity
        self._placed = {}

    def whole(self, engine: Engine, items: ItemTexts) -> Vectors:
        """(n_items, n) as `ItemSpaces.whole` places them: what projections are learned from.

        Raises:
            ConfigError: the spaces of the catalogue were not learned before.
        """
        if self.spaces is None:
            raise ConfigError("what is learned from choices stands on the catalogue's texts: call learn first")
        return self.spaces.whole(self.states(engine, items))

    def look_up(self, engine: Engine, items: ItemTexts) -> Placed:
        """Where the items lie.

        Raises:
            ConfigError: the engine gives no hidden states.
        """
        with self._lock:
            placed = []
            for spans, keys in zip(items.parts, self._keys(engine, items), strict=True):
                longest = [key for key in keys if key is not None][-1]
                if longest not in self._placed:  # one by one: in a batch the last bits depend on the other rows
                    self._placed[longest] = self._place(self._state(spans, keys))
                placed.append(self._placed[longest])
        near, cf_projection, predicted_popularity = zip(*placed, strict=True)
        return Placed(
            near=np.stack(near),
            cf_projection=np.stack(cf_projection),
            predicted_popularity=np.stack(predicted_popularity),
        )

    def states(self, engine: Engine, items: ItemTexts) -> Vectors:
        """(n_items, 1 + n_parts, dim): of title and category in one, then of each part, zeros where an item has none.

        Raises:
            ConfigError: the engine gives no hidden states.
        """
        with self._lock:
            keys = self._keys(engine, items)
            return np.stack([self._state(*one) for one in zip(items.parts, keys, strict=True)])

    def _keys(self, engine: Engine, items: ItemTexts) -> list[list[Key | None]]:
        """Per item the keys of its spans, under which there are states now."""
        # Spans of one item side by side, for engines that compute what spans begin with alike once.
        spans = [span for parts in items.parts for span in parts if span is not None]
        (keys,) = self._known(engine, [(items.prefix, spans)])
        rest = iter(keys)
        return [[None if span is None else next(rest) for span in parts] for parts in items.parts]

    def _state(self, spans: Sequence[CandidateSpan | None], keys: Sequence[Key | None]) -> Vectors:
        """(1 + n_parts, dim) of one item."""
        states = [None if key is None else self._values[key].astype(np.float32) for key in keys]
        lengths = [0 if span is None else max(1, len(span.sequence) - span.scored_from) for span in spans]
        named = [(length, state) for length, state in zip(lengths[:_NAMES], states, strict=False) if state is not None]
        name = sum((length * state for length, state in named), np.float32(0)) / sum(length for length, _ in named)
        return np.stack([name, *(np.zeros_like(name) if state is None else state for state in states)])

    def _place(self, state: Vectors) -> tuple[Vectors, Vectors, np.float32]:
        cf_projection, predicted_popularity = np.zeros(0, dtype=np.float32), np.float32(0)
        if self.spaces is None:
            return unit(state[0]), cf_projection, predicted_popularity
        whole = self.spaces.whole(state)
        if self.cf_projection is not None:
            cf_projection = self.cf_projection.place(whole)
        if self.predicted_popularity is not None:
            predicted_popularity = np.float32(self.predicted_popularity.of(whole))
        return self.spaces.near(state), cf_projection, predicted_popularity

    def _drop(self, key: Key) -> None:
        super()._drop(key)
        self._placed.pop(key, None)

    def save(self, path: Path) -> None:
        """Writes an npz file without pickle."""
        values = dict(self._values)
        prompts, spans = zip(*values, strict=True) if values else ((), ())
        arrays = {
            "prompts": np.array(prompts, dtype="U32"),
            "spans": np.array(spans, dtype="U32"),
            "states": np.array(list(values.values()), dtype=np.float16),
        }
        for name, space in _named(self.spaces).items():
            arrays |= {f"{name}_centre": space.centre, f"{name}_basis": space.basis}
        if self.cf_projection is not None:
            arrays["cf_projection"] = self.cf_projection.weights
        if self.predicted_popularity is not None:
            arrays["predicted_popularity"] = self.predicted_popularity.weights
        with path.open("wb") as file:  # a path without .npz would get it
            np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, path: Path) -> "StateStore":
        """Reads what `save` wrote."""
        store, arrays = cls(), read_npz(path)
        keys = zip(arrays["prompts"].tolist(), arrays["spans"].tolist(), strict=True)
        store._values = dict(zip(keys, arrays["states"], strict=True))
        spaces = {
            name: EmbeddingSpace(centre=arrays[f"{name}_centre"], basis=arrays[f"{name}_basis"])
            for name in ("names", *TEXT_PARTS)
            if f"{name}_centre" in arrays
        }
        if spaces:
            store.spaces = ItemSpaces(names=spaces["names"], parts=tuple(spaces.get(part) for part in TEXT_PARTS))
        if "cf_projection" in arrays:
            store.cf_projection = CFProjection(weights=arrays["cf_projection"])
        if "predicted_popularity" in arrays:
            store.predicted_popularity = PopularityProjection(weights=arrays["predicted_popularity"])
        return store

    def _read(self, engine: Engine, requests: Sequence[ScoringRequest]) -> list[Sequence[Vectors]]:
        if not isinstance(engine, ReadsStates):
            raise ConfigError(
                f"the engine {engine.name!r} gives no hidden states, which the embedding read-out compares: take "
                "engine='torch' or 'vllm', or scoring='likelihood'"
            )
        return [list(states.astype(np.float16)) for states in in_slices(engine.span_states, requests)]


def _named(spaces: ItemSpaces | None) -> dict[str, EmbeddingSpace]:
    if spaces is None:
        return {}
    parts = zip(TEXT_PARTS, spaces.parts, strict=True)
    return {"names": spaces.names, **{name: space for name, space in parts if space is not None}}
