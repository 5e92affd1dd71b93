"""Items chosen by the same users as a user's newest choices: decayed co-visits, sparse, without a model."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from candidate_gen.backend import require_at_least
from candidate_gen.base import ScoringGenerator, left_out
from candidate_gen.matrix import InteractionMatrix, newest_weights
from reranker.data.schema import validate_interactions
from reranker.errors import ConfigError
from reranker.types import IntArray

_CELLS_PER_BLOCK = 2**24  # co-visit counts held at once before pruning: about 200 MB


class CoVisitGenerator(ScoringGenerator):
    """Co-visits of the newest choices: score(i) = Σ_j decay^j · cos(i, h_j), h_0 the user's newest item.

    cos(i, h) is the cosine of the two items' columns of users, n(i and h) / sqrt(n(i) n(h)). An item chosen several
    times stands where it was chosen last. Items that share no user with the history score 0 and follow at the end,
    most popular first. Choices of one time are in the order of the rows. Without timestamps nothing is newest: then all
    of a user's items count, each with weight 1.

    Args:
        history: newest distinct items of a user that count.
        decay: weight of an item against the one chosen after it, in (0, 1]; 1 weighs all alike.
        neighbours: co-visited items kept for each item, the highest cosines.

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "co_visit"

    def __init__(self, history: int = 20, decay: float = 0.9, neighbours: int = 200) -> None:
        require_at_least("CoVisitGenerator", 1, history=history, neighbours=neighbours)
        if not 0 < decay <= 1:
            raise ConfigError(f"CoVisitGenerator: decay must be above 0 and at most 1, got {decay}")
        self.history = history
        self.decay = decay
        self.neighbours = neighbours
        self._cosines = sp.csr_matrix(np.zeros((0, 0), dtype=np.float32))
        self._recency = sp.csr_matrix(np.zeros((0, 0), dtype=np.float32))

    @property
    def settings(self) -> dict[str, Any]:
        return {"history": self.history, "decay": self.decay, "neighbours": self.neighbours}

    def fit(self, interactions: pd.DataFrame) -> Self:
        """Counts co-visits and keeps each user's newest items. Returns self.

        Raises:
            DataError: the table breaks the interactions contract.
        """
        table = validate_interactions(interactions)
        fitted = InteractionMatrix.from_table(table)
        self._recency = newest_weights(table, fitted, self.history, self.decay)
        del table  # the counts take memory enough
        self._fit(fitted)
        self._fitted = fitted
        return self

    def _fit(self, fitted: InteractionMatrix) -> None:
        self._cosines = _co_visit_cosines(fitted.chosen, self.neighbours)

    def _score(self, fitted: InteractionMatrix, rows: IntArray) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = (self._recency[rows] @ self._cosines).toarray()
        return scores

    def _best(
        self, fitted: InteractionMatrix, rows: IntArray, n: int, exclude_seen: bool
    ) -> list[tuple[IntArray, NDArray[np.float32]]]:
        """From the co-visited items alone, which are few of a big catalogue; the most popular of the others follow."""
        scored, without = sp.csr_matrix(self._recency[rows] @ self._cosines), left_out(fitted, exclude_seen)
        best = []
        for place, row in enumerate(rows):
            cells = slice(scored.indptr[place], scored.indptr[place + 1])
            columns, scores = scored.indices[cells].astype(np.int64), scored.data[cells]
            excluded = without.indices[without.indptr[row] : without.indptr[row + 1]]
            kept = ~np.isin(columns, excluded)
            columns, scores = columns[kept], scores[kept]
            order = np.lexsort((columns, -scores))[:n]
            taken = np.concatenate([columns, excluded])
            columns, scores = columns[order], scores[order]
            if len(columns) < n:
                popular = np.arange(min(n + len(taken), len(fitted.item_ids)))
                others = popular[~np.isin(popular, taken)][: n - len(columns)]
                columns = np.concatenate([columns, others])
                scores = np.concatenate([scores, np.zeros(len(others), dtype=np.float32)])
            best.append((columns, scores))
        return best

    def _users_per_block(self, fitted: InteractionMatrix) -> int:
        return 1024

    def _arrays(self) -> Mapping[str, NDArray[Any]]:
        named = {"cosine": self._cosines, "recency": self._recency}
        parts = ("data", "indices", "indptr")
        return {f"{name}_{part}": getattr(matrix, part) for name, matrix in named.items() for part in parts}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        def matrix(name: str, columns: int) -> sp.csr_matrix:
            cells = (arrays[f"{name}_data"], arrays[f"{name}_indices"], arrays[f"{name}_indptr"])
            return sp.csr_matrix(cells, shape=(len(cells[2]) - 1, columns))

        items = len(arrays["cosine_indptr"]) - 1
        self._cosines = matrix("cosine", items)
        self._recency = matrix("recency", items)


def _co_visit_cosines(seen: sp.csr_matrix, neighbours: int) -> sp.csr_matrix:
    """(items, items) float32 CSR: each row's highest cosines with other items, ties by popularity; no diagonal.

    Counted in blocks of items, so that memory stays bounded by the block and by items x neighbours.
    """
    by_item = sp.csr_matrix(seen.T)
    norms = np.sqrt(np.maximum(np.diff(by_item.indptr), 1)).astype(np.float32)
    n_items = by_item.shape[0]
    # An item's row of counts holds at most the summed histories of its users.
    most = np.minimum(by_item @ np.diff(seen.indptr), n_items)
    costs, room, filled = np.cumsum(most), int(np.minimum(most, neighbours).sum()), 0
    data, indices = np.empty(room, dtype=np.float32), np.empty(room, dtype=np.int32)
    sizes = np.zeros(n_items, dtype=np.int64)
    start = 0
    while start < n_items:
        before = costs[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(costs, before + _CELLS_PER_BLOCK, side="right")))
        counts = sp.csr_matrix(by_item[start:end] @ seen)
        counts.sort_indices()
        lines = np.repeat(np.arange(end - start, dtype=np.int32), np.diff(counts.indptr))
        cosines = counts.data.astype(np.float32)
        cosines /= norms[start:end][lines] * norms[counts.indices]
        kept = lines + start != counts.indices
        _keep_highest(kept, lines, cosines, neighbours)
        after = filled + int(kept.sum())
        data[filled:after], indices[filled:after] = cosines[kept], counts.indices[kept]
        sizes[start:end], filled = np.bincount(lines[kept], minlength=end - start), after
        start = end
    pointers = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    return sp.csr_matrix((data[:filled], indices[:filled], pointers), shape=(n_items, n_items))


def _keep_highest(kept: NDArray[np.bool_], lines: NDArray[np.int32], values: NDArray[np.float32], most: int) -> None:
    """Leaves at most so many True in `kept` a line: the highest values, of equals the first.

    Lines stand one after another; only those that are too long are sorted.
    """
    long = np.flatnonzero(kept & (np.bincount(lines[kept], minlength=int(lines.max(initial=0)) + 1) > most)[lines])
    order = long[np.lexsort((long, -values[long], lines[long]))]
    ordered = lines[order]
    kept[order[np.arange(len(order)) - np.searchsorted(ordered, ordered) >= most]] = False
