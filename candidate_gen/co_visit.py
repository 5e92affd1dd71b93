"""Items chosen by the same users as a user's newest choices: decayed co-visits, sparse, without a model."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from candidate_gen.backend import require_at_least
from candidate_gen.base import ScoringGenerator
from candidate_gen.matrix import InteractionMatrix, lookup
from reranker.data.schema import ITEM, TIMESTAMP, USER, validate_interactions
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
        self._fit(fitted)
        self._recency = self._newest(table, fitted)
        self._fitted = fitted
        return self

    def _fit(self, fitted: InteractionMatrix) -> None:
        self._cosines = _co_visit_cosines(fitted.seen, self.neighbours)

    def _newest(self, table: pd.DataFrame, fitted: InteractionMatrix) -> sp.csr_matrix:
        """(users, items) float32 CSR of decay^age for each user's newest distinct items."""
        if TIMESTAMP not in table:
            return fitted.seen
        ordered = table.sort_values(TIMESTAMP, kind="stable")
        positions = pd.DataFrame(
            {"row": lookup(fitted.user_rows, ordered[USER]), "column": lookup(fitted.item_columns, ordered[ITEM])}
        )
        last = positions.drop_duplicates(keep="last")
        age = last.groupby("row", sort=False).cumcount(ascending=False).to_numpy()
        newest = last[age < self.history]
        weights = np.power(self.decay, age[age < self.history]).astype(np.float32)
        return sp.csr_matrix((weights, (newest["row"], newest["column"])), shape=fitted.seen.shape)

    def _score(self, fitted: InteractionMatrix, rows: IntArray) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = (self._recency[rows] @ self._cosines).toarray()
        return scores

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
    # An item's row of counts holds at most the summed histories of its users.
    costs = np.cumsum(np.minimum(by_item @ np.diff(seen.indptr), by_item.shape[0]))
    rows: list[sp.csr_matrix] = []
    start = 0
    while start < by_item.shape[0]:
        before = costs[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(costs, before + _CELLS_PER_BLOCK, side="right")))
        counts = sp.csr_matrix(by_item[start:end] @ seen)
        lines = np.repeat(np.arange(start, end), np.diff(counts.indptr))
        cosines = (counts.data / (norms[lines] * norms[counts.indices])).astype(np.float32)
        others = lines != counts.indices
        lines, columns, cosines = lines[others], counts.indices[others], cosines[others]
        order = np.lexsort((columns, -cosines, lines))
        lines, columns, cosines = lines[order], columns[order], cosines[order]
        place = np.arange(len(lines)) - np.searchsorted(lines, lines)
        kept = place < neighbours
        shape = (end - start, by_item.shape[0])
        rows.append(sp.csr_matrix((cosines[kept], (lines[kept] - start, columns[kept])), shape=shape))
        start = end
    return sp.csr_matrix(sp.vstack(rows, format="csr"), dtype=np.float32)
