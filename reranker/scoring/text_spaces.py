"""Spaces in which a model's hidden states of texts are compared."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reranker.errors import ModelError

DIMENSIONS = 128
POWER = 0.25
_SMALLEST = 1e-3  # of the mean variance: directions below it are noise of the model's arithmetic
_CF_RIDGE = 1.0  # in units of the directions' mean variance
_POPULARITY_RIDGE = 10.0  # as good as 100

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
class JointSpaces:
    """What several readers of a text see of it, side by side: hidden states of an LM, and words.

    Each reader has spaces of its own: in one space the loudest would be the only one heard. Where the LM knows what a
    title is about, and where the same words say the same, both tell more than either (`eval.benchmark --table ladder`).

    Attributes:
        readers: the spaces of each; states hold the readers' values one after another.
    """

    readers: tuple[ItemSpaces, ...]

    @classmethod
    def fit(cls, states: Vectors, widths: Sequence[int]) -> "JointSpaces":
        """From (n_items, 1 + n_parts, sum of widths) states.

        Args:
            widths: of each reader's values; one after the first that read nothing at all is left out.

        Raises:
            ModelError: those of the first reader are no numbers, or all of them zero.
        """
        first, *others = np.split(states, np.cumsum(widths)[:-1], axis=-1)
        return cls(readers=tuple(ItemSpaces.fit(one) for one in (first, *filter(np.any, others))))

    def near(self, states: Vectors) -> Vectors:
        """(..., 1 + n_parts, dim) states -> (..., n) unit vectors of the names; products are mean cosines."""
        placed = [space.near(part) for space, part in self._of_readers(states)]
        return np.concatenate(placed, axis=-1) / np.float32(np.sqrt(len(placed)))

    def whole(self, states: Vectors) -> Vectors:
        """(..., 1 + n_parts, dim) states -> (..., n): a unit vector a part and reader, zeros where there is none."""
        return np.concatenate([space.whole(part) for space, part in self._of_readers(states)], axis=-1)

    def _of_readers(self, states: Vectors) -> Iterator[tuple[ItemSpaces, Vectors]]:
        begin = 0
        for space in self.readers:
            end = begin + len(space.names.centre)
            yield space, states[..., begin:end]
            begin = end


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
        projected: Vectors = placed @ self.weights
        return projected


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
