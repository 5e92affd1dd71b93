"""What cheap statistics say of a candidate: the first stage, popularity, similarity, co-visitation, sequence, category.

The same features serve the fusion head and the linear control of the evaluation, so that a comparison of the two
measures the LLM and nothing else.
"""

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from reranker.data.catalog import Catalog, Item
from reranker.data.categories import category_names
from reranker.data.schema import CATEGORY, ITEM, RANK, SCORE, TIMESTAMP, USER
from reranker.errors import DataError
from reranker.fusion.conditional_logit import standardise_within_lists
from reranker.fusion.own_columns import OwnColumn
from reranker.fusion.own_features import OwnFeatures
from reranker.prompting.text import field_text
from reranker.types import IntArray, ItemId, UserId

LAST_ITEMS = 5
"""How many of a user's newest items similarity, co-visitation and category overlap look at."""

RECENT_SHARE = 0.1
"""The newest share of all interactions that counts as recent popularity."""

CO_VISIT_WINDOW = 100
"""Only a user's newest interactions count as co-visits, so that one heavy user cannot fill the matrix."""

MOST_CO_VISITS = 64_000_000
"""Pairs of items that users chose together from which on each item keeps its strongest ones, so many in all: 0.8 GB."""

_FEWEST_KEPT = 32  # of an item, in a catalogue of any size
_PRODUCTS_A_BLOCK = 8_000_000

FEATURES: dict[str, str] = {
    "first_stage_score": "the candidate generator's score",
    "first_stage_rank": "a better place in the first-stage list (minus log rank)",
    "popularity": "how many chose it (log)",
    "recent_popularity": "how many chose it lately (log)",
    "similarity_last": "likeness to the newest item of the history (cosine in collaborative space)",
    "similarity_best": "likeness to the most alike of the last five (cosine in collaborative space)",
    "similarity_mean": "mean likeness to the last five (cosine in collaborative space)",
    "covisit_last": "chosen by the same users as the newest item",
    "covisit_mean": "chosen by the same users as the last five",
    "transition_last": "how often it directly followed the newest item (log)",
    "category_overlap": "shares categories with the last five",
    "popularity_x_length": "popularity, for users with a long history",
    "first_stage_x_length": "the first-stage score, for users with a long history",
}
"""Feature name -> what it says in words; also the column order."""

N_RAW_FEATURES = 11
"""The first of `FEATURES`, which are measured; those behind them are products with the length of the history."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InteractionStatistics:
    """Item statistics learned from interactions, and the features they give a candidates table.

    Attributes:
        index: item id -> row of the arrays below.
        vectors: (n_items, factors) unit-length item vectors of the collaborative space; rows of zeros
            where there is none.
        popularity, recent_popularity: (n_items,) interaction counts.
        co_visits: (n_items, n_items) CSR, cosine of the two items' user sets.
        transitions: (n_items, n_items) CSR, how often column directly followed row; empty without timestamps.
        categories: (n_items, n_categories) CSR of 0/1.
        histories: user id -> rows of the user's items, oldest first.
        own: features of the user's own columns, or None.
    """

    index: dict[ItemId, int]
    vectors: NDArray[np.float32]
    popularity: NDArray[np.float64]
    recent_popularity: NDArray[np.float64]
    co_visits: sparse.csr_array
    transitions: sparse.csr_array
    categories: sparse.csr_array
    histories: dict[UserId, IntArray]
    own: OwnFeatures | None = None

    @cached_property
    def item_ids(self) -> list[ItemId]:
        """The item of each row."""
        return list(self.index)

    @property
    def columns(self) -> dict[str, str]:
        """Name -> words of each column of `features`."""
        return dict(FEATURES) if self.own is None else {**FEATURES, **self.own.words}

    def with_own(
        self, columns: Sequence[OwnColumn], items: pd.DataFrame, users: pd.DataFrame | None
    ) -> "InteractionStatistics":
        """The same with features of the user's own columns; of none, without any. Raises DataError as `OwnFeatures.fit`
        does."""
        own = OwnFeatures.fit(columns, self.index, self.histories, items, users) if columns else None
        return replace(self, own=own)

    @classmethod
    def fit(
        cls, interactions: pd.DataFrame, items: pd.DataFrame, item_ids: Sequence[ItemId], vectors: NDArray[np.float32]
    ) -> "InteractionStatistics":
        """Learns from validated tables, sorted by time when they carry timestamps.

        Args:
            interactions: what the candidate generator was allowed to see, and nothing later.
            items: the item table; its `category` column may hold several, separated by commas, semicolons or bars.
            item_ids: ids of the rows of `vectors`.
            vectors: (len(item_ids), factors) item vectors of the collaborative space; (0, 0) for none.
        """
        ids = list(dict.fromkeys([*items[ITEM], *interactions[ITEM]]))
        index: dict[ItemId, int] = {item: row for row, item in enumerate(ids)}
        rows = interactions[ITEM].map(index).to_numpy(dtype=np.int64)
        user_codes, users = pd.factorize(interactions[USER])
        ordered = TIMESTAMP in interactions
        recent = rows[-max(1, int(len(rows) * RECENT_SHARE)) :] if ordered else rows[:0]
        by_user = np.argsort(user_codes, kind="stable")
        bounds = np.flatnonzero(np.diff(user_codes[by_user])) + 1
        histories: list[IntArray] = [part.astype(np.int64) for part in np.split(rows[by_user], bounds)]
        return cls(
            index=index,
            vectors=_aligned_unit_vectors(index, item_ids, vectors),
            popularity=np.bincount(rows, minlength=len(ids)).astype(np.float64),
            recent_popularity=np.bincount(recent, minlength=len(ids)).astype(np.float64),
            co_visits=_co_visits(histories, len(ids)),
            transitions=_transitions(histories if ordered else [], len(ids)),
            categories=_categories(items, index),
            histories=dict(zip(users, histories, strict=True)),
        )

    def extended(self, items: pd.DataFrame) -> "InteractionStatistics":
        """The same with the items of a larger table: those that are new to it have no statistics but categories.

        Args:
            items: the whole item table, new items included.
        """
        ids = dict.fromkeys([*self.index, *items[ITEM]])
        index: dict[ItemId, int] = {item: row for row, item in enumerate(ids)}
        new = len(index) - len(self.index)
        larger = InteractionStatistics(
            index=index,
            vectors=np.pad(self.vectors, ((0, new), (0, 0))),
            popularity=np.pad(self.popularity, (0, new)),
            recent_popularity=np.pad(self.recent_popularity, (0, new)),
            co_visits=_enlarged(self.co_visits, len(index)),
            transitions=_enlarged(self.transitions, len(index)),
            categories=_categories(items, index),
            histories=self.histories,
        )
        return larger if self.own is None else larger.with_own(self.own.columns, items, self.own.users)

    def features(
        self,
        candidates: pd.DataFrame,
        histories: Mapping[UserId, IntArray] | None = None,
        identities: Mapping[UserId, UserId] | None = None,
    ) -> NDArray[np.float64]:
        """(rows, len(columns)) statistics, z-scored within each user's list.

        Args:
            candidates: a validated candidates table. Unknown items and users have no statistics: their features sit at
                the bottom of the list (counts of 0, likeness of 0).
            histories: other histories than those of `fit`, rows of `index`, oldest first.
            identities: user of `candidates` -> the user whose own columns count.
        """
        known: Mapping[UserId, IntArray] = self.histories if histories is None else histories
        list_index, users = pd.factorize(candidates[USER])
        raw = np.zeros((len(candidates), len(FEATURES)))
        raw[:, :N_RAW_FEATURES] = self.raw_features(candidates, histories)
        standard = standardise_within_lists(raw, list_index.astype(np.int64))
        # The length of a history is the same for the whole list, so it can only act on other statistics. log1p(20) ~ 3.
        lengths = np.log1p(self.n_known(users, known).astype(np.float64))[list_index]
        standard[:, 11] = standard[:, 2] * (lengths - 3.0)
        standard[:, 12] = standard[:, 0] * (lengths - 3.0)
        if self.own is None:
            return standard
        interaction = dict(zip(FEATURES, standard.T, strict=True))
        own = self.own.values(candidates, self._rows(candidates), known, interaction, identities)
        return np.concatenate([standard, own], axis=1)

    def _rows(self, candidates: pd.DataFrame) -> IntArray:
        """(rows,) of the items in the index; -1 for unknown ones."""
        return np.asarray(candidates[ITEM].map(self.index).fillna(-1), dtype=np.int64)

    def raw_features(
        self, candidates: pd.DataFrame, histories: Mapping[UserId, IntArray] | None = None
    ) -> NDArray[np.float64]:
        """(rows, N_RAW_FEATURES) the first of `FEATURES` as they are, before they are z-scored.

        Args:
            candidates: as `features` takes them.
            histories: as `features` takes them.
        """
        known: Mapping[UserId, IntArray] = self.histories if histories is None else histories
        raw = np.zeros((len(candidates), N_RAW_FEATURES))
        items = self._rows(candidates)
        scores = candidates[SCORE].to_numpy(dtype=np.float64)
        raw[:, 0] = scores
        raw[:, 1] = -np.log(candidates[RANK].to_numpy(dtype=np.float64))
        raw[:, 2] = np.log1p(_gather(self.popularity, items))
        raw[:, 3] = np.log1p(_gather(self.recent_popularity, items))
        nobody = np.zeros(0, dtype=np.int64)
        for user, positions in candidates.groupby(USER, sort=False).indices.items():
            raw[positions, 4:11] = self._likeness(items[positions], known.get(user, nobody)[-LAST_ITEMS:])
        return raw

    def histories_with(
        self, newer: pd.DataFrame | Mapping[UserId, Sequence[ItemId]] | None
    ) -> Mapping[UserId, IntArray]:
        """The histories, some replaced by `newer`: a validated table, or user id -> items, oldest first."""
        if newer is None:
            return self.histories
        if isinstance(newer, pd.DataFrame):
            encoded = self.encode_histories(newer)
        else:
            encoded = {user: self._known_rows(items) for user, items in newer.items()}
        return ChainMap(encoded, self.histories)

    def _known_rows(self, items: Sequence[ItemId]) -> IntArray:
        return np.array([self.index[item] for item in items if item in self.index], dtype=np.int64)

    def history(self, user: UserId, histories: Mapping[UserId, IntArray] | None = None) -> list[ItemId]:
        """The user's items, oldest first; empty for a new user.

        Args:
            user: whose.
            histories: other histories than those of `fit`, as `histories_with` gives them.
        """
        known: Mapping[UserId, IntArray] = self.histories if histories is None else histories
        return [self.item_ids[row] for row in known.get(user, ())]

    def n_known(self, users: Iterable[UserId], histories: Mapping[UserId, IntArray] | None = None) -> IntArray:
        """(n_users,) how many interactions are known of each; 0 of a new user.

        Args:
            histories: other histories than those of `fit`, as `histories_with` gives them.
        """
        known: Mapping[UserId, IntArray] = self.histories if histories is None else histories
        return np.array([len(known.get(user, ())) for user in users], dtype=np.int64)

    def encode_histories(self, interactions: pd.DataFrame) -> dict[UserId, IntArray]:
        """User id -> rows of the user's items, oldest first, of a validated table; without items unknown to `fit`."""
        rows = interactions[ITEM].map(self.index)
        known = rows.notna().to_numpy()
        histories = {user: np.zeros(0, dtype=np.int64) for user in interactions[USER].unique()}
        for user, positions in interactions[known].groupby(USER, sort=False).indices.items():
            histories[user] = np.asarray(rows[known].iloc[positions], dtype=np.int64)
        return histories

    def _likeness(self, items: IntArray, newest: IntArray) -> NDArray[np.float64]:
        """(len(items), 7) similarity, co-visitation, transition and category columns of one list."""
        columns = np.zeros((len(items), 7))
        rows = np.flatnonzero(items >= 0)
        if not len(newest) or not len(rows):
            return columns
        known = items[rows]
        similarity = self.vectors[known] @ self.vectors[newest].T
        co_visits = block(self.co_visits, newest, known).T
        columns[rows, 0] = similarity[:, -1]
        columns[rows, 1] = similarity.max(axis=1)
        columns[rows, 2] = similarity.mean(axis=1)
        columns[rows, 3] = co_visits[:, -1]
        columns[rows, 4] = co_visits.mean(axis=1)
        columns[rows, 5] = np.log1p(block(self.transitions, newest[-1:], known)[0])
        columns[rows, 6] = _shared(self.categories, known, newest) / len(newest)
        return columns


def block(matrix: sparse.csr_array, rows: IntArray, columns: IntArray) -> NDArray[np.float64]:
    """(len(rows), len(columns)) entries; scipy's own slicing takes a millisecond, however few they are."""
    block = np.zeros((len(rows), len(columns)))
    order = np.argsort(columns)
    for number, row in enumerate(rows.tolist()):
        begin, end = matrix.indptr[row], matrix.indptr[row + 1]
        stored = matrix.indices[begin:end]
        at = np.searchsorted(columns, stored, sorter=order)
        inside = at < len(columns)
        hit = np.zeros(len(stored), dtype=np.bool_)
        hit[inside] = columns[order[at[inside]]] == stored[inside]
        block[number, order[at[hit]]] = matrix.data[begin:end][hit]
    return block


def _shared(matrix: sparse.csr_array, rows: IntArray, others: IntArray) -> NDArray[np.float64]:
    """(len(rows),) products of each row with the sum of the others."""
    total = np.zeros(matrix.shape[1])
    np.add.at(total, *_entries(matrix, others)[1:])
    of_row, columns, values = _entries(matrix, rows)
    return np.bincount(of_row, weights=values * total[columns], minlength=len(rows)).astype(np.float64)


def _entries(matrix: sparse.csr_array, rows: IntArray) -> tuple[IntArray, IntArray, NDArray[np.float64]]:
    """What is stored in these rows: number of the row among them, column and value of each entry."""
    begins = matrix.indptr[rows].astype(np.int64)
    lengths = matrix.indptr[rows + 1].astype(np.int64) - begins
    at = np.arange(lengths.sum()) + np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
    return np.repeat(np.arange(len(rows)), lengths), matrix.indices[at].astype(np.int64), matrix.data[at]


def _gather(values: NDArray[np.float64], rows: IntArray) -> NDArray[np.float64]:
    return np.where(rows >= 0, values[np.maximum(rows, 0)], 0.0)


def _aligned_unit_vectors(
    index: dict[ItemId, int], item_ids: Sequence[ItemId], vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    if len(item_ids) != len(vectors):
        raise DataError(f"{len(item_ids)} item ids were given {len(vectors)} vectors; they must match one to one")
    aligned = np.zeros((len(index), vectors.shape[1]), dtype=np.float32)
    known = [(index[item], row) for row, item in enumerate(item_ids) if item in index]
    if known:
        targets, sources = np.array(known).T
        lengths = np.linalg.norm(vectors[sources], axis=1, keepdims=True)
        aligned[targets] = vectors[sources] / np.where(lengths > 0, lengths, 1.0)
    return aligned


def _co_visits(histories: Sequence[IntArray], n_items: int) -> sparse.csr_array:
    """(n_items, n_items) cosines of items' user sets; the strongest of each item where there are very many."""
    newest = [history[-CO_VISIT_WINDOW:] for history in histories]
    users = np.repeat(np.arange(len(newest)), [len(items) for items in newest])
    columns = np.concatenate(newest)
    visits = sparse.csr_array((np.ones(len(columns)), (users, columns)), shape=(len(newest), n_items))
    visits.sum_duplicates()
    visits.data[:] = 1.0
    lengths = np.sqrt(np.maximum(visits.sum(axis=0), 1.0))
    normalised = sparse.csr_array(visits @ sparse.diags_array(1.0 / lengths))
    sizes = np.diff(visits.indptr).astype(np.float64)
    if float(sizes @ sizes) > MOST_CO_VISITS:
        work = np.bincount(visits.indices, weights=np.repeat(sizes, np.diff(visits.indptr)), minlength=n_items)
        return strongest_products(normalised, work.astype(np.float64), max(_FEWEST_KEPT, MOST_CO_VISITS // n_items))
    together = sparse.csr_array(normalised.T @ normalised)
    together.setdiag(0.0)
    together.eliminate_zeros()
    return together


def strongest_products(columns: sparse.csr_array, work: NDArray[np.float64], most: int) -> sparse.csr_array:
    """(n, n) CSR: the `most` largest of each row of columnsᵀ columns without its diagonal, a block of rows at a time.

    Args:
        columns: (rows, n).
        work: (n,) products that each row of the result takes.
        most: entries kept a row.
    """
    across = sparse.csr_array(columns.T)
    block_of = np.floor(np.cumsum(work) / _PRODUCTS_A_BLOCK).astype(np.int64)
    starts = [*np.flatnonzero(np.diff(block_of, prepend=-1)).tolist(), across.shape[0]]
    data: list[NDArray[np.float64]] = []
    indices: list[IntArray] = []
    counts: list[IntArray] = []
    for begin, end in pairwise(starts):
        part = sparse.csr_array(across[begin:end] @ columns)
        rows = np.repeat(np.arange(end - begin), np.diff(part.indptr))
        others = part.indices != rows + begin
        rows, items, values = rows[others], part.indices[others], part.data[others]
        order = np.lexsort((items, -values, rows))
        place = np.arange(len(order)) - np.searchsorted(rows, rows[order])
        kept = order[place < most]
        kept = kept[np.lexsort((items[kept], rows[kept]))]
        data.append(values[kept])
        indices.append(items[kept])
        counts.append(np.bincount(rows[kept], minlength=end - begin))
    pointers = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return sparse.csr_array((np.concatenate(data), np.concatenate(indices), pointers), shape=(across.shape[0],) * 2)


def _transitions(histories: Sequence[IntArray], n_items: int) -> sparse.csr_array:
    before = [history[:-1] for history in histories]
    after = [history[1:] for history in histories]
    sources = np.concatenate(before) if before else np.zeros(0, dtype=np.int64)
    targets = np.concatenate(after) if after else np.zeros(0, dtype=np.int64)
    counts = sparse.coo_array((np.ones(len(sources)), (sources, targets)), shape=(n_items, n_items))
    return sparse.csr_array(counts)


def _enlarged(matrix: sparse.csr_array, size: int) -> sparse.csr_array:
    """(n, n) -> (size, size), with nothing in what is new."""
    pointers = np.pad(matrix.indptr, (0, size - matrix.shape[0]), mode="edge")
    return sparse.csr_array((matrix.data, matrix.indices, pointers), shape=(size, size))


def _categories(items: pd.DataFrame, index: dict[ItemId, int]) -> sparse.csr_array:
    if CATEGORY not in items:
        return sparse.csr_array((len(index), 1))
    names = [category_names(field_text(value)) for value in items[CATEGORY]]
    exploded = pd.DataFrame({ITEM: items[ITEM], CATEGORY: names}).explode(CATEGORY)
    exploded = exploded[exploded[CATEGORY].notna()]
    codes, values = pd.factorize(exploded[CATEGORY])
    pairs = exploded.assign(code=codes).drop_duplicates([ITEM, "code"])
    rows = pairs[ITEM].map(index).to_numpy(dtype=np.int64)
    shape = (len(index), max(1, len(values)))
    return sparse.csr_array((np.ones(len(pairs)), (rows, pairs["code"].to_numpy())), shape=shape)


def chosen_items(
    catalog: Catalog, statistics: InteractionStatistics
) -> tuple[list[Item], NDArray[np.float32], NDArray[np.float64]]:
    """Items with a text, their (n, n_factors) vectors in the collaborative space, (n,) how often each was chosen."""
    rows = [row for row, item in enumerate(statistics.item_ids) if item in catalog]
    items = catalog.items(statistics.item_ids[row] for row in rows)
    return items, statistics.vectors[rows], statistics.popularity[rows]
