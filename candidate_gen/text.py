"""Items whose texts are chosen by those who chose the user's newest items: content, mapped to collaborative vectors."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from candidate_gen.als import ALSGenerator
from candidate_gen.backend import require_at_least
from candidate_gen.base import ScoringGenerator, left_out, top_n
from candidate_gen.content import Content, comparable_times
from candidate_gen.item_texts import SAMPLE, WordSpace
from candidate_gen.matrix import InteractionMatrix, lookup, newest_weights, widened
from candidate_gen.nearest import index_of, search
from reranker.data.schema import TIMESTAMP, validate_interactions
from reranker.errors import ConfigError, DataError
from reranker.types import IntArray, ItemId
from reranker.utils.spaces import CFProjection, PopularityProjection, unit

_MOST_ASKED = 2000  # of the index: users who saw more are searched by all scores
_AT_ONCE = 50_000  # items that are held in float64 at once

Vectors = NDArray[np.float32]


class TextGenerator(ScoringGenerator):
    """Content-to-CF candidates: score(i) = cos(profile, p_i) + popularity * predicted log-popularity of i.

    p_i is item i's text, mapped by ridge regression to the directions of ALS item factors (the idea of CB2CF, Barkan
    et al. 2019) under the penalty that tells left-out items best, the profile Σ_j decay^j p_(h_j) over the user's
    newest items. So items that nobody chose yet are proposed, too: `new_share` of the places of a list are theirs. New
    are the items of the table that `fit`'s interactions lack; where the table has a `timestamp` (when an item came),
    only those that came after the newest interaction; and what `add_items` added since. Catalogues above 50,000 items
    are searched approximately where faiss is installed (the extra `ann`).

    Args:
        items: `item_id, title`, optional `category`, `description`, `timestamp`; texts are read as words, without a
            model.
        vectors: `item_id` and `vector` (or numeric columns): item vectors of your own in the place of word vectors.
        new_share: share of a list's places for new items, 0 (none) to 1 (nothing else).
        history: newest distinct items of a user that count.
        decay: weight of an item against the one chosen after it, in (0, 1].
        factors: width of the ALS factors.
        popularity: weight of the predicted popularity.
        seed: of the ALS factors.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a table breaks its contract.
    """

    name = "text"

    def __init__(
        self,
        items: pd.DataFrame | None = None,
        vectors: pd.DataFrame | None = None,
        *,
        new_share: float = 0.0,
        history: int = 20,
        decay: float = 0.9,
        factors: int = 64,
        popularity: float = 0.4,
        seed: int = 0,
    ) -> None:
        require_at_least("TextGenerator", 1, history=history, factors=factors)
        require_at_least("TextGenerator", 0, popularity=popularity, seed=seed)
        if not 0 <= new_share <= 1 or not 0 < decay <= 1:
            raise ConfigError(
                f"TextGenerator: new_share must be in 0..1 and decay in (0, 1], got {new_share} and {decay}"
            )
        self.new_share = new_share
        self.history = history
        self.decay = decay
        self.factors = factors
        self.popularity = popularity
        self.seed = seed
        self._content = Content.of(items, vectors)
        self._words: WordSpace | None = None
        self._map: Vectors = np.zeros((0, factors + 1), dtype=np.float32)
        self._vectors: Vectors = np.zeros((0, factors + 1), dtype=np.float32)
        self._recency = sp.csr_matrix(np.zeros((0, 0), dtype=np.float32))
        self._n_chosen = 0
        self._index: Any = None

    @property
    def settings(self) -> dict[str, Any]:
        names = ("new_share", "history", "decay", "factors", "popularity", "seed")
        return {name: getattr(self, name) for name in names}

    def clone(self) -> Self:
        """An unfitted copy with the same settings and items."""
        copy = type(self)(**self.settings)
        copy._content = self._content
        return copy

    @property
    def new_item_ids(self) -> list[ItemId]:
        """The items that count as new."""
        return self._require_fitted().item_ids[self._n_chosen :]

    @property
    def takes_new_items(self) -> bool:
        """Whether it proposes new items, and `add_items` takes item tables: not where it was given vectors."""
        return bool(self.new_share) and self._content is not None and self._content.texts is not None

    def fit(self, interactions: pd.DataFrame) -> Self:
        """Learns the map from content to collaborative vectors, and keeps each user's newest items. Returns self.

        Raises:
            ConfigError: neither items nor vectors were given, or the package implicit is missing.
            DataError: the table breaks the interactions contract, or shares no item with the items or vectors.
        """
        content = self._content
        if content is None:
            raise ConfigError("this TextGenerator has nothing to read: give items= or vectors=")
        table = validate_interactions(interactions)
        fitted = InteractionMatrix.from_table(table)
        rows = lookup(content.rows, fitted.item_ids)
        if not (rows >= 0).any():
            raise DataError(
                f"TextGenerator: no item of the interactions (first: {fitted.item_ids[0]!r}) has a text or a vector "
                f"(first: {content.ids[0]!r}). Give both ids of one type"
            )
        self._words = WordSpace().fit(content.texts) if content.texts is not None else None
        self._fit(fitted)
        new = self._new_rows(fitted, table)
        every = np.concatenate([rows, new])
        self._n_chosen = len(fitted.item_ids)
        self._recency = newest_weights(table, fitted, self.history, self.decay)
        self._place(fitted, [content.ids[row] for row in new], self._mapped(content, every))
        return self

    def add_items(self, items: pd.DataFrame) -> int:
        """Adds items that came after `fit`: from now on they are among the new ones. Returns how many.

        Args:
            items: an item table, or vectors where the generator was given vectors.

        Raises:
            ConfigError: not fitted, or `new_share` is 0, so that none of them would be proposed.
            DataError: the table breaks its contract.
        """
        fitted = self._require_fitted()
        if not self.new_share:
            raise ConfigError("this TextGenerator proposes no new items: build it with new_share above 0")
        assert self._content is not None
        added = Content.of(items, None) if self._content.texts is not None else Content.of(None, items)
        assert added is not None
        known = fitted.item_columns
        rows = np.array([row for row, item in enumerate(added.ids) if item not in known], dtype=np.int64)
        self._content = self._content.with_more(added)
        mapped = np.concatenate([self._vectors, self._mapped(added, rows)])
        self._place(fitted, [added.ids[row] for row in rows], mapped)
        return len(rows)

    def _fit(self, fitted: InteractionMatrix) -> None:
        """The map, from the most chosen items that have content: ridge regression to ALS factors and to popularity."""
        assert self._content is not None
        rows = lookup(self._content.rows, fitted.item_ids)
        als = ALSGenerator(factors=self.factors, seed=self.seed)
        als._fit(fitted)
        known = np.flatnonzero(rows >= 0)[:SAMPLE]  # items stand most popular first
        counts = fitted.popularity[known] * len(fitted.user_ids)
        placed = np.concatenate([block for _, block in self._blocks(self._content, rows[known])])
        self._map = np.column_stack(
            [
                CFProjection.fit(placed, als.item_factors_by_column[known], counts).weights,
                PopularityProjection.fit(placed, counts).weights,
            ]
        )

    def _new_rows(self, fitted: InteractionMatrix, table: pd.DataFrame) -> IntArray:
        assert self._content is not None
        content = self._content
        new = [row for row, item in enumerate(content.ids) if item not in fitted.item_columns]
        if not self.new_share:
            return np.zeros(0, dtype=np.int64)
        rows = np.array(new, dtype=np.int64)
        if content.came is None or TIMESTAMP not in table:
            return rows
        newest = comparable_times(table[TIMESTAMP], "interactions").max()
        try:
            younger: IntArray = rows[(content.came.iloc[rows] > newest).to_numpy(dtype=bool)]
        except TypeError as error:
            raise DataError(
                f"tables 'items' and 'interactions', column {TIMESTAMP!r}: the times cannot be compared ({error}). "
                "Give both one type"
            ) from error
        return younger

    def _blocks(self, content: "Content", rows: IntArray) -> Any:
        """Places among `rows`, and the content of those items, (n, width)."""
        if self._words is None:
            yield slice(0, len(rows)), unit(content.vectors[rows])
            return
        assert content.texts is not None
        yield from self._words.blocks([[part[row] for row in rows] for part in content.texts])

    def _mapped(self, content: "Content", rows: IntArray) -> Vectors:
        """(len(rows), factors + 1): a unit vector and the weighted predicted popularity; zeros for a row of -1."""
        mapped = np.zeros((len(rows), self.factors + 1), dtype=np.float32)
        there = np.flatnonzero(rows >= 0)
        for block, placed in self._blocks(content, rows[there]):
            projected = placed @ self._map
            projected[:, :-1] = unit(projected[:, :-1])
            projected[:, -1] *= self.popularity
            mapped[there[block]] = projected
        return mapped

    def _place(self, fitted: InteractionMatrix, new: list[ItemId], vectors: Vectors) -> None:
        """Takes new items in behind the known ones, whose vectors stand first."""
        self._vectors = vectors
        self._fitted = fitted.with_items(new)
        self._recency = widened(self._recency, len(vectors))
        self._index = index_of(vectors[: self._n_chosen])

    def _profiles(self, rows: IntArray) -> Vectors:
        """(len(rows), factors + 1) unit profiles and a 1; zeros for a user of whose items nothing is known."""
        profiles = unit(self._recency[rows] @ self._vectors[:, :-1])
        return np.column_stack([profiles, profiles.any(axis=1)]).astype(np.float32)

    def _score(self, fitted: InteractionMatrix, rows: IntArray) -> NDArray[np.float32]:
        # Summed in float64 and rounded: one user alone scores as in a batch.
        profiles = self._profiles(rows).astype(np.float64)
        scores = np.empty((len(rows), len(self._vectors)), dtype=np.float32)
        for start in range(0, len(self._vectors), _AT_ONCE):
            items = slice(start, start + _AT_ONCE)
            scores[:, items] = profiles @ self._vectors[items].T.astype(np.float64)
        return scores

    def _best(
        self, fitted: InteractionMatrix, rows: IntArray, n: int, exclude_seen: bool
    ) -> list[tuple[IntArray, NDArray[np.float32]]]:
        quota = min(round(n * self.new_share), len(self._vectors) - self._n_chosen)
        known = n - quota if self.new_share < 1 else 0
        if self._index is None:
            scores = self._unseen_scores(fitted, rows, exclude_seen)
            best = [self._merged(user_scores, known, quota) for user_scores in scores]
        else:
            best = self._from_index(fitted, rows, known, quota, exclude_seen)
        return best

    def _merged(self, scores: NDArray[np.float32], known: int, quota: int) -> tuple[IntArray, NDArray[np.float32]]:
        """The best known and the best new items, by score."""
        chosen, new = scores[: self._n_chosen], scores[self._n_chosen :]
        columns = np.concatenate(
            [
                top_n(chosen, known) if known else np.zeros(0, dtype=np.int64),
                top_n(new, quota) + self._n_chosen if quota else np.zeros(0, dtype=np.int64),
            ]
        )
        columns = columns[np.argsort(-scores[columns], kind="stable")]
        return columns, scores[columns]

    def _from_index(
        self, fitted: InteractionMatrix, rows: IntArray, known: int, quota: int, exclude_seen: bool
    ) -> list[tuple[IntArray, NDArray[np.float32]]]:
        """As by all scores, but the known items come from the index."""
        profiles, without = self._profiles(rows), left_out(fitted, exclude_seen)
        excluded = np.diff(without.indptr)[rows]
        asked = min(known + int(excluded.max(initial=0)), self._n_chosen, _MOST_ASKED)
        found, scores = search(self._index, profiles, max(asked, 1))
        new = profiles @ self._vectors[self._n_chosen :].T
        best = []
        for place, row in enumerate(rows):
            mine = without.indices[without.indptr[row] : without.indptr[row + 1]]
            kept = (found[place] >= 0) & ~np.isin(found[place], mine)
            columns, values = found[place][kept][:known], scores[place][kept][:known]
            if len(columns) < known or not profiles[place].any():
                exact = self._unseen_scores(fitted, rows[[place]], exclude_seen)[0]
                best.append(self._merged(exact, known, quota))
                continue
            added = top_n(new[place], quota) if quota else np.zeros(0, dtype=np.int64)
            columns = np.concatenate([columns, added + self._n_chosen])
            values = np.concatenate([values, new[place][added]]).astype(np.float32)
            order = np.argsort(-values, kind="stable")
            best.append((columns[order], values[order]))
        return best

    def _users_per_block(self, fitted: InteractionMatrix) -> int:
        return super()._users_per_block(fitted) if self._index is None else 2048

    def _arrays(self) -> Mapping[str, NDArray[Any]]:
        assert self._content is not None
        parts = {f"recency_{part}": getattr(self._recency, part) for part in ("data", "indices", "indptr")}
        words = {} if self._words is None else self._words.arrays()
        own = {"item_vectors": self._vectors, "map": self._map, "n_chosen": np.array(self._n_chosen)}
        return {**parts, **words, **own, **self._content.arrays()}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._content = Content.restored(arrays)
        self._words = WordSpace.restored(arrays) if self._content.texts is not None else None
        self._map, self._vectors = arrays["map"], arrays["item_vectors"]
        self._n_chosen = int(arrays["n_chosen"])
        cells = (arrays["recency_data"], arrays["recency_indices"], arrays["recency_indptr"])
        self._recency = sp.csr_matrix(cells, shape=(len(cells[2]) - 1, len(self._vectors)))
        self._index = index_of(self._vectors[: self._n_chosen])
