"""Spaces in which what is read of items is compared: hidden states of texts, words, or vectors of the user's own."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reranker.types import IntArray

DIMENSIONS = 128
POWER = 0.25

NEWEST = 20
"""Items of the history that count."""

FEW = 5
"""Newest items that the closer components look at."""

MOST_LEARNED_FROM = 5000
"""Items that a space or a projection is learned from, at most."""

_DECAY = 0.88  # weight of an item relative to the next newer one
_SHARPNESS = 8.0  # of the soft maximum: nearer 0 is the mean
_SMALLEST = 1e-3  # of the mean variance: directions below it are noise of the model's arithmetic
_RIDGES = np.geomspace(0.01, 1000, 16)  # in units of the mean squared length of what is regressed on
_RIDGE_SAMPLE = 1000  # items that the ridge is chosen on, at most: what is best does not depend on how many there are

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
class CFProjection:
    """What is read of an item says who chooses it: hidden states, mapped to the candidate generator's item vectors.

    A linear map from content to collaborative vectors (the idea of CB2CF, Barkan et al. 2019), learned from the items
    that were chosen. It places every item, those that nobody chose yet included.

    Attributes:
        weights: (n, n_factors) from `ItemSpaces.whole` to the collaborative space, whose mean is taken out.
        penalty: of the ridge regression, in units of the mean squared length of what is regressed on; 0 where it is
            not known.
    """

    weights: Vectors
    penalty: float = 0.0

    @classmethod
    def fit(
        cls, placed: Vectors, vectors: Vectors, counts: NDArray[np.float64], penalty: float = 0.0
    ) -> "CFProjection":
        """By ridge regression, an item weighing as the root of how often it was chosen.

        Args:
            placed: (n_items, n) of the items, as `ItemSpaces.whole` places them.
            vectors: (n_items, n_factors) of the items in the collaborative space; only their directions count.
            counts: (n_items,) how often each was chosen, above 0.
            penalty: as the attribute; 0 for the one that tells left-out items best.
        """
        weights, penalty = _regressed(placed, unit(vectors), np.sqrt(counts), penalty)
        return cls(weights=weights, penalty=penalty)

    def place(self, placed: Vectors) -> Vectors:
        """(..., n) of `ItemSpaces.whole` -> (..., n_factors) vectors of unit length; their products are cosines."""
        return unit(placed @ self.weights)


@dataclass(frozen=True, kw_only=True, eq=False)
class PopularityProjection:
    """What is read of an item says how often such items are chosen; it tells new items apart before anybody chose one.

    Attributes:
        weights: (n,) from `ItemSpaces.whole` to the logarithm of how often, whose mean is taken out.
        penalty: as that of `CFProjection`.
    """

    weights: Vectors
    penalty: float = 0.0

    @classmethod
    def fit(cls, placed: Vectors, counts: NDArray[np.float64], penalty: float = 0.0) -> "PopularityProjection":
        """By ridge regression.

        Args:
            placed: (n_items, n) of the items, as `ItemSpaces.whole` places them.
            counts: (n_items,) how often each was chosen, above 0.
            penalty: as the attribute; 0 for the one that tells left-out items best.
        """
        weights, penalty = _regressed(placed, np.log1p(counts)[:, None], np.ones(len(counts)), penalty)
        return cls(weights=weights[:, 0], penalty=penalty)

    def of(self, placed: Vectors) -> Vectors:
        """(...,) from (..., n) of `ItemSpaces.whole`; 0 is the mean of the items that it was learned from."""
        projected: Vectors = placed @ self.weights
        return projected


def _regressed(
    placed: Vectors, targets: NDArray[np.floating], weights: NDArray[np.float64], penalty: float
) -> tuple[Vectors, float]:
    """(n, n_targets) that tell (n_items, n_targets), their weighted mean taken out, from (n_items, n) placed items; and
    the penalty, in units of the items' mean squared length.

    Args:
        weights: (n_items,) of the items.
        penalty: 0 for the best; finding it takes longer than all the rest.
    """
    roots = np.sqrt(weights)[:, None]
    weighted = placed.astype(np.float64) * roots
    centred = (targets - np.average(targets, axis=0, weights=weights)) * roots
    unit_length = _mean_squared_length(weighted)
    ridge = penalty * unit_length if penalty else best_ridge(weighted, centred)
    n_items, width = weighted.shape
    if n_items < width:  # the same weights from the smaller of two systems
        solved = weighted.T @ np.linalg.solve(weighted @ weighted.T + ridge * np.eye(n_items), centred)
    else:
        solved = np.linalg.solve(weighted.T @ weighted + ridge * np.eye(width), weighted.T @ centred)
    narrow: Vectors = solved.astype(np.float32)
    return narrow, ridge / unit_length


def _mean_squared_length(inputs: NDArray[np.float64]) -> float:
    """Of the rows; 1 where all texts are the same."""
    return float((inputs**2).sum(axis=1).mean()) or 1.0


def best_ridge(
    inputs: NDArray[np.float64], targets: NDArray[np.float64], most: int = _RIDGE_SAMPLE, seed: int = 0
) -> float:
    """The penalty under which each item is told best by the others, the strongest of equals.

    The squared error of leaving one out is exact, from one decomposition (Allen 1974, PRESS).

    Args:
        inputs: (n_items, n), weighted.
        targets: (n_items, n_targets), weighted, without their mean.
        most: items that are looked at; a random sample where there are more.
        seed: of the sample.
    """
    if len(inputs) > most:
        rows = np.random.default_rng(seed).choice(len(inputs), most, replace=False)
        inputs, targets = inputs[rows], targets[rows]
    unit_length = _mean_squared_length(inputs)
    strengths, directions = np.linalg.eigh(inputs @ inputs.T)
    strengths = np.maximum(strengths, 0)
    along, squares = directions.T @ targets, directions**2
    errors = []
    for ridge in (penalties := unit_length * _RIDGES[::-1]):
        left = ridge / (strengths + ridge)  # of the targets along each direction
        errors.append(((directions @ (left[:, None] * along)) ** 2 / (squares @ left)[:, None] ** 2).sum())
    return float(penalties[int(np.argmin(errors))])


def sampled(n: int, seed: int = 0) -> IntArray:
    """All of n places, or a random `MOST_LEARNED_FROM` of them, in no order."""
    if n <= MOST_LEARNED_FROM:
        return np.arange(n)
    return np.random.default_rng(seed).choice(n, MOST_LEARNED_FROM, replace=False)


def most_chosen(places: IntArray, counts: NDArray[np.float64]) -> IntArray:
    """The `MOST_LEARNED_FROM` of these places whose (n,) counts are highest, those first."""
    return places[np.argsort(-counts[places], kind="stable")[:MOST_LEARNED_FROM]]


def unit(vectors: Vectors) -> Vectors:
    """(..., n) vectors of length 1; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Vectors = vectors / np.where(lengths > 0, lengths, 1.0)
    return scaled


def nearness(candidates: Vectors, history: Vectors) -> NDArray[np.float64]:
    """(n_candidates, 5) of unit vectors: to the last, best and mean of the last `FEW`, decaying mean, soft maximum.

    Args:
        candidates: (n_candidates, d).
        history: (n_history, d), oldest first.
    """
    if not len(history):
        return np.zeros((len(candidates), 5))
    cosines = np.einsum("cd,hd->ch", candidates, history, dtype=np.float64)  # not BLAS, whose last bits go by the row
    weights = _DECAY ** np.arange(len(history))[::-1]
    few = cosines[:, -FEW:]
    columns = [
        cosines[:, -1],
        few.max(axis=1),
        few.mean(axis=1),
        (cosines * weights).sum(axis=1) / weights.sum(),
        np.log(np.exp(_SHARPNESS * cosines).mean(axis=1)) / _SHARPNESS,
    ]
    return np.stack(columns, axis=1)
