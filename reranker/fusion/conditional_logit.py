"""Conditional logit over candidate lists: which item of this list was chosen?

McFadden (1974), "Conditional logit analysis of qualitative choice behavior": P(i | list) = exp(w·x_i) / Σ_j exp(w·x_j).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

from reranker.errors import DataError
from reranker.fusion.past import PastChoices
from reranker.types import IntArray

Features = NDArray[np.float64]


def standardise_within_lists(features: Features, list_index: IntArray) -> Features:
    """Z-scores each column within each list; a column that is constant in a list becomes 0 there.

    Args:
        features: (rows, n_features).
        list_index: (rows,) 0-based number of the list a row belongs to.
    """
    n_lists = int(list_index.max()) + 1 if len(list_index) else 0
    sizes = np.maximum(np.bincount(list_index, minlength=n_lists), 1)[:, None]
    centred = features - (_sum_by_list(features, list_index, n_lists) / sizes)[list_index]
    deviations = np.sqrt(_sum_by_list(centred**2, list_index, n_lists) / sizes)[list_index]
    scale = np.sqrt(_sum_by_list(features**2, list_index, n_lists) / sizes)[list_index]
    constant = deviations <= 1e-9 * np.maximum(scale, 1e-300)
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, deviations))


@dataclass(frozen=True, kw_only=True, eq=False)
class ConditionalLogit:
    """Linear utility of a candidate.

    Attributes:
        weights: (n_features,) change in log-odds per unit of the feature.
        log_likelihood: mean log P(chosen item) over the choices it was fitted on, in nats.
        n_choices: how many choices it was fitted on.
    """

    weights: Features
    log_likelihood: float
    n_choices: int

    @classmethod
    def fit(
        cls,
        features: Features,
        list_index: IntArray,
        chosen: NDArray[np.bool_],
        l2: float = 1.0,
        centre: Features | None = None,
        start: Features | None = None,
        past: PastChoices | None = None,
    ) -> "ConditionalLogit":
        """Maximises Σ log P(chosen) − l2/2·|w − centre|² by L-BFGS (concave: one optimum).

        With `past`, the log-likelihood of past choices is added, to second order: an update in place of a fit on both.

        A list with several chosen rows counts as that many choices; lists without one say nothing and are ignored.

        Args:
            features: (rows, n_features), finite.
            list_index: (rows,) 0-based number of the list a row belongs to.
            chosen: (rows,) True where the item was chosen.
            l2: ridge penalty; 1.0 is a normal prior of variance 1 on each weight.
            centre: (n_features,) mean of that prior; zeros by default.
            start: (n_features,) where the search begins; by default at the mean.
            past: choices that are no longer at hand, of the same features.

        Raises:
            DataError: no chosen row, or a feature that is not finite.
        """
        if not np.isfinite(features).all():
            bad = sorted({int(column) for column in np.nonzero(~np.isfinite(features))[1]})
            raise DataError(f"conditional logit: feature columns {bad} hold values that are not finite")
        n_lists = int(list_index.max()) + 1 if len(list_index) else 0
        choices = np.bincount(list_index[chosen], minlength=n_lists).astype(np.float64)
        n_choices = int(choices.sum())
        if n_choices == 0:
            raise DataError("conditional logit: no list contains a chosen item, so there is nothing to learn from")
        useful = np.flatnonzero(choices[list_index] > 0)
        useful = useful[np.argsort(list_index[useful], kind="stable")]  # lists as runs of rows
        x, lists = features[useful], list_index[useful]
        starts = np.flatnonzero(np.diff(lists, prepend=-1))
        sizes, choices = np.diff(starts, append=len(lists)), choices[lists[starts]]
        observed = chosen[useful] @ x
        prior = np.zeros(features.shape[1]) if centre is None else centre

        def minus_log_likelihood(weights: Features) -> tuple[float, Features]:
            utilities = x @ weights
            peaks = np.maximum.reduceat(utilities, starts)
            odds = np.exp(utilities - np.repeat(peaks, sizes))
            totals = np.add.reduceat(odds, starts)
            expected = odds * np.repeat(choices / totals, sizes)
            return float(choices @ (np.log(totals) + peaks) - observed @ weights), expected @ x - observed

        def loss(weights: Features) -> tuple[float, Features]:
            value, gradient = minus_log_likelihood(weights)
            off = weights - prior
            if past is not None:
                earlier, slope = past.log_likelihood(weights)
                value, gradient = value - earlier, gradient - slope
            return value + 0.5 * l2 * float(off @ off), gradient + l2 * off

        with _libraries().limit(limits=1, user_api="blas"):  # on matrices this small, threads take three times as long
            solution = minimize(loss, prior if start is None else start, jac=True, method="L-BFGS-B")
        likelihood = -minus_log_likelihood(solution.x)[0] / n_choices
        return cls(weights=solution.x, log_likelihood=likelihood, n_choices=n_choices)

    def score(self, features: Features) -> Features:
        """(rows,) utilities; only differences within a list mean anything."""
        utilities: Features = features @ self.weights
        return utilities

    def information(self, features: Features, list_index: IntArray, chosen: NDArray[np.bool_]) -> Features:
        """(n_features, n_features) minus the second derivative of the log-likelihood of these choices, at the weights:
        the sum over choices of the covariance of the features under P(i | list)."""
        rows = np.flatnonzero(np.isin(list_index, np.unique(list_index[chosen])))
        numbers = np.unique(list_index[rows], return_inverse=True)[1]
        x = features[rows]
        share = np.exp(log_softmax_within_lists(self.score(x), numbers))
        n_lists = int(numbers.max()) + 1 if len(numbers) else 0
        choices = np.bincount(numbers, weights=chosen[rows].astype(np.float64), minlength=n_lists)
        means = _sum_by_list(x * share[:, None], numbers, n_lists)
        weighted = share * choices[numbers]
        information: Features = (x * weighted[:, None]).T @ x - (means * choices[:, None]).T @ means
        return information

    def log_likelihood_of(self, features: Features, list_index: IntArray, chosen: NDArray[np.bool_]) -> float:
        """Σ log P(chosen item) over lists of any numbers, in nats."""
        log_p = log_softmax_within_lists(self.score(features), np.unique(list_index, return_inverse=True)[1])
        return float(log_p[chosen].sum())


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def log_softmax_within_lists(utilities: Features, list_index: IntArray) -> Features:
    """(rows,) log P of each row within its list; every list number from 0 to the largest must occur."""
    n_lists = int(list_index.max()) + 1
    peaks = np.full(n_lists, -np.inf)
    np.maximum.at(peaks, list_index, utilities)
    shifted = utilities - peaks[list_index]
    totals = np.bincount(list_index, weights=np.exp(shifted), minlength=n_lists)
    log_p: Features = shifted - np.log(totals)[list_index]
    return log_p


def _sum_by_list(values: Features, list_index: IntArray, n_lists: int) -> Features:
    sums = np.zeros((n_lists, values.shape[1]))
    np.add.at(sums, list_index, values)
    return sums
