"""Features of item vectors of the user's own, as texts have them: nearness to the history in the vectors' own space, in
the projection to who chooses such items, and how often such items are chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from reranker.data.item_vectors import ItemVectors
from reranker.fusion.columns import llm_columns, llm_words
from reranker.types import IntArray, ItemId
from reranker.utils.spaces import (
    FEW,
    NEWEST,
    CFProjection,
    PopularityProjection,
    Vectors,
    most_chosen,
    nearness,
    sampled,
    unit,
)

Floats = NDArray[np.float64]

COMPONENTS: dict[str, str] = {
    "vectors_near_last": "nearness of its own vector to the newest item's",
    "vectors_near_best": f"nearness of its own vector to the nearest of the last {FEW}",
    "vectors_near_mean": f"mean nearness of its own vector to the last {FEW}",
    "vectors_near_recent": f"mean nearness of its own vector to the last {NEWEST}, newer ones first",
    "vectors_near_any": f"soft maximum of the nearness of its own vector to the last {NEWEST}",
    "vectors_cf_last": "likeness of who chooses it and the newest item, as its own vector tells",
    "vectors_cf_best": f"likeness of who chooses it and the most alike of the last {FEW}, as its own vector tells",
    "vectors_cf_mean": f"mean likeness of who chooses it and the last {FEW}, as its own vector tells",
    "vectors_cf_recent": f"mean likeness of who chooses it and the last {NEWEST}, newer ones first, as it tells",
    "vectors_cf_any": f"soft maximum of the likeness of who chooses it and the last {NEWEST}, as its own vector tells",
    "vectors_popularity": "how often items with such vectors are chosen (log)",
}
"""What own vectors say of a candidate -> in words."""

WORDS = llm_words(COMPONENTS)
"""Feature -> what it says in words, in the order of `VectorFeatures.values`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorFeatures:
    """Own vectors at one moment.

    Attributes:
        vectors: of the items.
        rows: (n_items,) row of each item of the statistics' index among them; -1 for one without.
        cf_projection: learned from who chose what; None where there are no collaborative vectors.
        popularity: learned from how often items were chosen; None where none was.
    """

    vectors: ItemVectors
    rows: IntArray
    cf_projection: CFProjection | None
    popularity: PopularityProjection | None

    @classmethod
    def fit(
        cls, vectors: ItemVectors, index: Mapping[ItemId, int], collaborative: NDArray[np.float32], counts: Floats
    ) -> "VectorFeatures":
        """Learns from the items with a vector that were chosen, `spaces.MOST_LEARNED_FROM` at most.

        Args:
            vectors: own ones.
            index: item -> row of the statistics.
            collaborative: (n_items, n_factors) of the collaborative space; those of zeros say nothing.
            counts: (n_items,) how often each was chosen.
        """
        rows = _rows(vectors, index)
        chosen = np.flatnonzero((rows >= 0) & (counts > 0))
        placed = chosen[collaborative[chosen].any(axis=1)]
        most = most_chosen(placed, counts)
        chosen = chosen[np.sort(sampled(len(chosen)))]  # of all kinds, not of the popular ones alone
        return cls(
            vectors=vectors,
            rows=rows,
            cf_projection=CFProjection.fit(vectors.whole(rows[most]), collaborative[most], counts[most])
            if len(most)
            else None,
            popularity=PopularityProjection.fit(vectors.whole(rows[chosen]), counts[chosen]) if len(chosen) else None,
        )

    def for_index(self, index: Mapping[ItemId, int], vectors: ItemVectors | None = None) -> "VectorFeatures":
        """The same projections for another index, and for more vectors of the same space."""
        vectors = vectors or self.vectors
        return replace(self, vectors=vectors, rows=_rows(vectors, index))

    @cached_property
    def _cf(self) -> Vectors:
        """(n_vectors + 1, n_factors) unit vectors in the collaborative space; the last row, of no item, is 0."""
        if self.cf_projection is None:
            return np.zeros((len(self.vectors.ids) + 1, 0), dtype=np.float32)
        return unit(self.vectors.placed(self.cf_projection.weights))

    @cached_property
    def _popularity(self) -> Vectors:
        """(n_vectors + 1,) predicted; the last row, of no item, is 0."""
        if self.popularity is None:
            return np.zeros(len(self.vectors.ids) + 1, dtype=np.float32)
        return self.vectors.placed(self.popularity.weights)

    def values(self, rows: IntArray, list_index: IntArray, histories: Sequence[IntArray], features: Floats) -> Floats:
        """(rows, len(WORDS)) z-scored within lists; a candidate without a vector is near nothing.

        Args:
            rows: (rows,) of the candidates in the statistics' index; -1 for unknown ones.
            list_index: (rows,) 0-based number of the list.
            histories: of each list, rows of the items chosen, oldest first; those without a vector are passed over.
            features: (rows, n) interaction features: as with texts, each feature stands by itself and times popularity.
        """
        mine = np.where(rows >= 0, self.rows[np.maximum(rows, 0)], -1)
        raw = np.zeros((len(rows), len(COMPONENTS)))
        raw[:, -1] = self._popularity[mine]
        order = np.argsort(list_index, kind="stable")
        bounds = np.searchsorted(list_index[order], np.arange(len(histories) + 1))
        for number, history in enumerate(histories):
            here = order[bounds[number] : bounds[number + 1]]
            chosen = self.rows[history]
            newest = chosen[chosen >= 0][-NEWEST:]
            raw[here, :5] = nearness(self.vectors.near[mine[here]], self.vectors.near[newest])
            raw[here, 5:10] = nearness(self._cf[mine[here]], self._cf[newest])
        return llm_columns(features, raw, list_index)


def _rows(vectors: ItemVectors, index: Mapping[ItemId, int]) -> IntArray:
    return np.array([vectors.row_of.get(item, -1) for item in index], dtype=np.int64)
