"""Items that resemble what the user chose, by who else chose them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from candidate_gen.backend import implicit_library, require_at_least
from candidate_gen.base import ScoringGenerator
from candidate_gen.matrix import InteractionMatrix
from reranker.errors import ConfigError
from reranker.types import IntArray

SIMILARITIES = ("cosine", "bm25")


class ItemKNNGenerator(ScoringGenerator):
    """Nearest neighbours between items: score = mean similarity of the candidate to the items the user chose.

    Items without any neighbour in the user's history score 0 and follow at the end, most popular first.

    Args:
        neighbours: similar items kept for each item.
        similarity: "cosine", or "bm25" (Robertson et al. 1994, as `implicit` weighs it; unbounded scores).

    Raises:
        ConfigError: a setting is out of range.
    """

    name = "item_knn"

    def __init__(self, neighbours: int = 20, similarity: str = "cosine") -> None:
        require_at_least("ItemKNNGenerator", 1, neighbours=neighbours)
        if similarity not in SIMILARITIES:
            raise ConfigError(
                f"ItemKNNGenerator: similarity must be one of {', '.join(SIMILARITIES)}, got {similarity!r}"
            )
        self.neighbours = neighbours
        self.similarity = similarity
        self._similarities = sp.csr_matrix(np.zeros((0, 0), dtype=np.float32))

    @property
    def settings(self) -> dict[str, Any]:
        return {"neighbours": self.neighbours, "similarity": self.similarity}

    def _fit(self, fitted: InteractionMatrix) -> None:
        with implicit_library() as implicit:
            models = implicit.nearest_neighbours
            weigh = models.normalize if self.similarity == "cosine" else models.bm25_weight
            weighted = weigh(fitted.chosen.astype(np.float64).T).T
            # The base class: its subclasses hand a matrix of another layout to themselves and warn about it.
            model = models.ItemItemRecommender(K=self.neighbours + 1)  # an item is its own first neighbour
            model.fit(sp.csr_matrix(weighted), show_progress=False)
        self._similarities = sp.csr_matrix(model.similarity, dtype=np.float32)

    def _score(self, fitted: InteractionMatrix, rows: IntArray) -> NDArray[np.float32]:
        histories = fitted.chosen[rows]
        totals = (histories.astype(np.float64) @ self._similarities.astype(np.float64)).toarray()
        return np.asarray(totals / np.maximum(np.diff(histories.indptr), 1)[:, None], dtype=np.float32)

    def _arrays(self) -> Mapping[str, NDArray[Any]]:
        matrix = self._similarities
        return {"similar_data": matrix.data, "similar_indices": matrix.indices, "similar_indptr": matrix.indptr}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        cells = (arrays["similar_data"], arrays["similar_indices"], arrays["similar_indptr"])
        items = len(arrays["similar_indptr"]) - 1
        self._similarities = sp.csr_matrix(cells, shape=(items, items))
