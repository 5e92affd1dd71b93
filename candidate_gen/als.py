"""Matrix factorisation for implicit feedback.

Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets" (2008), as the package `implicit` fits it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidate_gen.backend import implicit_library, require_at_least
from candidate_gen.base import ScoringGenerator, left_out, top_n
from candidate_gen.matrix import InteractionMatrix, lookup
from reranker.types import IntArray, ItemId, UserId

_USERS, _ITEMS = 128, 2**15  # scored at once: 32 MB in float64


class ALSGenerator(ScoringGenerator):
    """Alternating least squares: score = user factor · item factor, an estimate of preference, roughly 0..1.

    Scores of different users are on one scale. The same seed and data give the same factors, whatever the number of
    threads; it always runs on the CPU, because the GPU version of `implicit` is not reproducible.

    The defaults had the best or nearly the best Recall@50 and NDCG@10 over ml-100k, video games, giftware and movies
    (leave-last-out, regularization 0.01..10, alpha 1..20, factors 32..128, with and without weights).

    Args:
        factors: width of the factors.
        regularization: L2 penalty on the factors.
        alpha: confidence of one interaction, against 1 for a cell without any.
        iterations: sweeps over users and items.
        seed: of the initial factors.
        use_weights: multiply the confidence with the strength of what the user said of the item (`event`, `rating`,
            `weight`, summed over repeats, in units of the mean choice), where the table tells some. Otherwise every
            chosen item counts once. A dislike is no choice, and no more: as a preference of 0 with the confidence of
            its strength it cost recall on ml-100k, so it is left to the features of the ranker.

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "als"

    def __init__(
        self,
        factors: int = 64,
        regularization: float = 1.0,
        alpha: float = 5.0,
        iterations: int = 15,
        seed: int = 0,
        use_weights: bool = True,
    ) -> None:
        require_at_least("ALSGenerator", 1, factors=factors, iterations=iterations)
        require_at_least("ALSGenerator", 0, regularization=regularization, alpha=alpha, seed=seed)
        self.factors = factors
        self.regularization = regularization
        self.alpha = alpha
        self.iterations = iterations
        self.seed = seed
        self.use_weights = use_weights
        self._user_factors: NDArray[np.float32] = np.zeros((0, factors), dtype=np.float32)
        self._item_factors: NDArray[np.float32] = np.zeros((0, factors), dtype=np.float32)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "factors": self.factors,
            "regularization": self.regularization,
            "alpha": self.alpha,
            "iterations": self.iterations,
            "seed": self.seed,
            "use_weights": self.use_weights,
        }

    def user_factors(self, user_ids: Iterable[UserId]) -> NDArray[np.float32]:
        """(len(user_ids), factors); zeros for a user that `fit` has not seen.

        Raises:
            ConfigError: not fitted.
        """
        return _rows_or_zeros(self._user_factors, lookup(self._require_fitted().user_rows, user_ids))

    def item_factors(self, item_ids: Iterable[ItemId]) -> NDArray[np.float32]:
        """(len(item_ids), factors); zeros for an item that `fit` has not seen.

        Raises:
            ConfigError: not fitted.
        """
        return _rows_or_zeros(self._item_factors, lookup(self._require_fitted().item_columns, item_ids))

    @property
    def item_factors_by_column(self) -> NDArray[np.float32]:
        """(items, factors) in the order of `item_ids`."""
        return self._item_factors

    def _fit(self, fitted: InteractionMatrix) -> None:
        with implicit_library() as implicit:
            model = implicit.cpu.als.AlternatingLeastSquares(
                factors=self.factors,
                regularization=self.regularization,
                alpha=self.alpha,
                iterations=self.iterations,
                random_state=self.seed,
            )
            model.fit(fitted.choices, show_progress=False)
        self._user_factors, self._item_factors = model.user_factors, model.item_factors

    def _score(self, fitted: InteractionMatrix, rows: IntArray) -> NDArray[np.float32]:
        # Summed in float64 and rounded, so that the order of the sum, which depends on the size of the block, does not
        # show: one user alone scores as in a batch.
        scores = self._user_factors[rows].astype(np.float64) @ self._item_factors.T.astype(np.float64)
        return scores.astype(np.float32)

    def _users_per_block(self, fitted: InteractionMatrix) -> int:
        return _USERS

    def _best(
        self, fitted: InteractionMatrix, rows: IntArray, n: int, exclude_seen: bool
    ) -> list[tuple[IntArray, NDArray[np.float32]]]:
        """As its base's, a part of the catalogue at a time: of each only what beats the n best before it is kept."""
        users = self._user_factors[rows].astype(np.float64)
        without = sp.csc_matrix(left_out(fitted, exclude_seen)[rows])
        best = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))] * len(rows)
        floors = np.full(len(rows), -np.inf, dtype=np.float32)
        for start in range(0, len(self._item_factors), _ITEMS):
            part = slice(start, start + _ITEMS)
            scores = (users @ self._item_factors[part].T.astype(np.float64)).astype(np.float32)
            scores[without[:, part].nonzero()] = -np.inf
            for row in np.flatnonzero((scores > floors[:, None]).any(axis=1)):
                found = np.flatnonzero(scores[row] > floors[row])
                found = found[top_n(scores[row, found], n)]
                columns = np.concatenate([best[row][0], start + found])
                values = np.concatenate([best[row][1], scores[row, found]])
                order = top_n(values, n)  # of equal ones the lower column stands first, in both parts
                best[row] = columns[order], values[order]
                if len(order) == n:
                    floors[row] = values[order[-1]]
        return best

    def _arrays(self) -> Mapping[str, NDArray[Any]]:
        return {"user_factors": self._user_factors, "item_factors": self._item_factors}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._user_factors, self._item_factors = arrays["user_factors"], arrays["item_factors"]


def _rows_or_zeros(factors: NDArray[np.float32], positions: IntArray) -> NDArray[np.float32]:
    taken = factors[positions]
    taken[positions < 0] = 0.0
    return taken
