"""Paired bootstrap by user: how sure is a difference between two systems?

Efron & Tibshirani (1993), "An Introduction to the Bootstrap", percentile intervals.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from reranker.errors import DataError
from reranker.types import IntArray

RESAMPLES = 2000
_DRAWS = 10_000_000  # held at a time: 80 MB
_KEPT = 10_000_000  # draws that are kept for the next interval: 20 MB at most, of `_SIZES` numbers of users
_SIZES = 4  # all users and groups of them take turns


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and its percentile bootstrap interval.

    Attributes:
        mean, low, high: in the unit of the values; low and high are NaN for a single value.
        n: number of users.
    """

    mean: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def bootstrap_means(values: NDArray[np.float64], seed: int = 0, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """(resamples,) means of users drawn with replacement.

    Raises:
        DataError: there are no values.
    """
    if not len(values):
        raise DataError("cannot bootstrap: there is no user to draw from")
    drawn = _kept_draws if len(values) * resamples <= _KEPT else _draws
    return np.concatenate([block @ values / len(values) for block in drawn(len(values), seed, resamples)])


def _draws(n: int, seed: int, resamples: int) -> Iterator[NDArray[np.int64]]:
    """(some, n) how often each of n users is drawn, a block of resamples at a time."""
    rng, share = np.random.default_rng(seed), np.full(n, 1.0 / n)
    block = max(1, _DRAWS // n)
    for start in range(0, resamples, block):
        yield rng.multinomial(n, share, size=min(block, resamples - start))


@lru_cache(maxsize=_SIZES)
def _kept_draws(n: int, seed: int, resamples: int) -> tuple[NDArray[np.uint16], ...]:
    """The same: a comparison asks for several intervals over the same users, one after the other."""
    return tuple(block.astype(np.uint16) for block in _draws(n, seed, resamples))


def mean_interval(
    values: NDArray[np.float64], confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Interval of the mean of per-user values; give it per-user differences for a paired comparison."""
    means = bootstrap_means(values, seed, resamples)
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(means, [tail, 1.0 - tail]) if len(values) > 1 else (np.nan, np.nan)
    return Interval(mean=float(values.mean()), low=float(low), high=float(high), n=len(values))


def ndcg_by_list(
    scores: NDArray[np.float64], list_index: IntArray, chosen: NDArray[np.bool_], n_relevant: IntArray, k: int = 10
) -> NDArray[np.float64]:
    """(n_lists,) NDCG@k with binary gains; ties keep row order (Järvelin & Kekäläinen 2002, log2 discount).

    Args:
        n_relevant: (n_lists,) relevant items of each user, proposed or not: the ideal list holds all of them.
    """
    order = np.lexsort((-scores, list_index))
    lists = list_index[order]
    starts = np.searchsorted(lists, np.arange(len(n_relevant)))
    ranks = np.arange(len(order)) - starts[lists]
    gains = np.where(chosen[order] & (ranks < k), 1.0 / np.log2(ranks + 2.0), 0.0)
    dcg = np.bincount(lists, weights=gains, minlength=len(n_relevant))
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(k) + 2.0))])[np.minimum(n_relevant, k)]
    ndcg: NDArray[np.float64] = np.divide(dcg, ideal, out=np.zeros_like(dcg), where=ideal > 0)
    return ndcg
