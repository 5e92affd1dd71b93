"""What cheap statistics say of a candidate: the first stage, popularity, similarity, co-visitation, sequence, category.

The same features serve the fusion head and the linear control of the evaluation, so that a comparison of the two
measures the LLM and nothing else.
"""

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from reranker.data.catalog import Catalog, Item
from reranker.data.categories import category_names
from reranker.data.item_lists import Candidates, ItemLists
from reranker.data.item_vectors import ItemVectors
from reranker.data.schema import CATEGORY, ITEM, STRENGTH, TIMESTAMP, USER
from reranker.data.signals import RowSignals, choices_of
from reranker.errors import DataError
from reranker.fusion.co_visits import block, co_visits, enlarged, transitions
from reranker.fusion.columns import DISLIKE_FEATURES, FEATURES, N_RAW_FEATURES
from reranker.fusion.conditional_logit import standardise_within_lists
from reranker.fusion.dislikes import Dislikes, Histories, disliked_by_user, rows_by_user
from reranker.fusion.histories import UserHistories
from reranker.fusion.own_columns import OwnColumn
from reranker.fusion.own_features import OwnFeatures
from reranker.fusion.own_vectors import WORDS as VECTOR_WORDS
from reranker.fusion.own_vectors import VectorFeatures
from reranker.prompting.text import field_text
from reranker.types import IntArray, ItemId, UserId

LAST_ITEMS = 5
"""How many of a user's newest items similarity, co-visitation and category overlap look at."""

MORE_ITEMS = 50
"""The same of the best similarity and co-visitation of a longer past: what fits one of many purchases is lost in a
mean, and that one may be long ago."""

RECENT_SHARE = 0.1
"""The newest share of all interactions that counts as recent popularity."""


_NOTHING: IntArray = np.zeros(0, dtype=np.int64)


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
        histories: user id -> rows of the items that the user chose, oldest first.
        dislikes: who dislikes what; None where the interactions say nothing of strengths.
        own: features of the user's own columns, or None.
        own_vectors: features of item vectors of the user's own, or None.
    """

    index: dict[ItemId, int]
    vectors: NDArray[np.float32]
    popularity: NDArray[np.float64]
    recent_popularity: NDArray[np.float64]
    co_visits: sparse.csr_array
    transitions: sparse.csr_array
    categories: sparse.csr_array
    histories: Mapping[UserId, IntArray]
    dislikes: Dislikes | None = None
    own: OwnFeatures | None = None
    own_vectors: VectorFeatures | None = None

    @cached_property
    def item_ids(self) -> list[ItemId]:
        """The item of each row."""
        return list(self.index)

    @property
    def columns(self) -> dict[str, str]:
        """Name -> words of each column of `features`."""
        own = {} if self.own is None else self.own.words
        return {**self.interaction_columns, **own, **({} if self.own_vectors is None else VECTOR_WORDS)}

    @property
    def interaction_columns(self) -> dict[str, str]:
        """Those that are not the user's own."""
        return dict(FEATURES) if self.dislikes is None else FEATURES | DISLIKE_FEATURES

    def without_pairs(self) -> "InteractionStatistics":
        """The same without what is known of pairs of items, which only features need, and which is most of it."""
        nothing = sparse.csr_array((0, 0))
        return replace(self, co_visits=nothing, transitions=nothing)

    def with_own(
        self, columns: Sequence[OwnColumn], items: pd.DataFrame, users: pd.DataFrame | None
    ) -> "InteractionStatistics":
        """The same with features of the user's own columns; of none, without any. Raises DataError as `OwnFeatures.fit`
        does."""
        own = OwnFeatures.fit(columns, self.index, self.histories, items, users) if columns else None
        return replace(self, own=own)

    def with_vectors(self, vectors: ItemVectors | None) -> "InteractionStatistics":
        """The same with features of item vectors of the user's own; of None, without any."""
        found = None if vectors is None else VectorFeatures.fit(vectors, self.index, self.vectors, self.popularity)
        return replace(self, own_vectors=found)

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
        ids = list(dict.fromkeys([*items[ITEM], *interactions[ITEM].drop_duplicates()]))
        index: dict[ItemId, int] = {item: row for row, item in enumerate(ids)}
        ordered, said = TIMESTAMP in interactions, RowSignals.of(interactions)
        aligned = _aligned_unit_vectors(index, item_ids, vectors)
        popularity, recent, histories = _chosen(interactions, said, index)
        return cls(
            index=index,
            vectors=aligned,
            popularity=popularity,
            recent_popularity=recent if ordered else np.zeros(len(ids)),
            co_visits=co_visits(histories, len(ids)),
            transitions=transitions(histories, len(ids)) if ordered else sparse.csr_array((len(ids), len(ids))),
            categories=_categories(items, index),
            histories=histories,
            dislikes=Dislikes.fit(interactions, said, index) if STRENGTH in interactions else None,
        )

    def extended(self, items: pd.DataFrame, vectors: ItemVectors | None = None) -> "InteractionStatistics":
        """The same with the items of a larger table: those that are new to it have no statistics but categories, own
        columns and own vectors.

        Args:
            items: the whole item table, new items included.
            vectors: the whole of own vectors, new items' included, where the statistics go by such; None keeps those.
        """
        ids = dict.fromkeys([*self.index, *items[ITEM]])
        index: dict[ItemId, int] = {item: row for row, item in enumerate(ids)}
        new = len(index) - len(self.index)
        larger = InteractionStatistics(
            index=index,
            vectors=np.pad(self.vectors, ((0, new), (0, 0))),
            popularity=np.pad(self.popularity, (0, new)),
            recent_popularity=np.pad(self.recent_popularity, (0, new)),
            co_visits=enlarged(self.co_visits, len(index)),
            transitions=enlarged(self.transitions, len(index)),
            categories=_categories(items, index),
            histories=self.histories,
            dislikes=None if self.dislikes is None else self.dislikes.enlarged(new),
            own_vectors=self.own_vectors and self.own_vectors.for_index(index, vectors),
        )
        return larger if self.own is None else larger.with_own(self.own.columns, items, self.own.users)

    def features(
        self,
        candidates: Candidates,
        histories: Mapping[UserId, IntArray] | None = None,
        identities: Mapping[UserId, UserId] | None = None,
    ) -> NDArray[np.float64]:
        """(rows, len(columns)) statistics, z-scored within each user's list.

        Args:
            candidates: validated. Unknown items and users have no statistics: their features sit at the bottom of the
                list (counts of 0, likeness of 0).
            histories: other histories than those of `fit`, rows of `index`, oldest first; `Histories` bring dislikes.
            identities: user of `candidates` -> the user whose own columns count.
        """
        known: Mapping[UserId, IntArray] = self.histories if histories is None else histories
        lists = ItemLists.of(candidates)
        list_index, rows = lists.list_index, self._rows(lists)
        raw = np.zeros((len(lists), len(FEATURES)))
        raw[:, :N_RAW_FEATURES] = self._raw(lists, rows, known)
        standard = standardise_within_lists(raw, list_index)
        # The length of a history is the same for the whole list, so it can only act on other statistics. log1p(20) ~ 3.
        lengths = np.log1p(self.n_known(lists.users, known).astype(np.float64))[list_index]
        standard[:, N_RAW_FEATURES] = standard[:, 2] * (lengths - 3.0)
        standard[:, N_RAW_FEATURES + 1] = standard[:, 0] * (lengths - 3.0)
        parts = [standard]
        if self.dislikes is not None:
            more = self.dislikes.features(lists, rows, known, self.vectors, self.co_visits)
            parts.append(standardise_within_lists(more, list_index))
        if self.own is not None:
            interaction = dict(zip(FEATURES, standard.T, strict=True))
            parts.append(self.own.values(lists, rows, known, interaction, identities))
        if self.own_vectors is not None:
            chosen = [known.get(user, _NOTHING) for user in lists.users]
            parts.append(self.own_vectors.values(rows, list_index, chosen, standard))
        return np.concatenate(parts, axis=1)

    def _rows(self, lists: ItemLists) -> IntArray:
        """(rows,) of the items in the index; -1 for unknown ones."""
        return np.fromiter((self.index.get(item, -1) for item in lists.items), dtype=np.int64, count=len(lists))

    def nobody_chose(self, candidates: Candidates) -> NDArray[np.bool_]:
        """(rows,) True where the candidate is new: no interaction of `fit` chose it."""
        chosen: NDArray[np.bool_] = _gather(self.popularity, self._rows(ItemLists.of(candidates))) > 0
        return ~chosen

    def raw_features(
        self, candidates: Candidates, histories: Mapping[UserId, IntArray] | None = None
    ) -> NDArray[np.float64]:
        """(rows, N_RAW_FEATURES) the first of `FEATURES` as they are, before they are z-scored.

        Args:
            candidates: as `features` takes them.
            histories: as `features` takes them.

        Raises:
            DataError: the statistics were made without pairs of items.
        """
        lists = ItemLists.of(candidates)
        return self._raw(lists, self._rows(lists), self.histories if histories is None else histories)

    def _raw(self, lists: ItemLists, rows: IntArray, histories: Mapping[UserId, IntArray]) -> NDArray[np.float64]:
        if self.co_visits.shape[0] != len(self.index):
            raise DataError("these statistics hold no pairs of items any more: make windows without lean=True for that")
        raw = np.zeros((len(lists), N_RAW_FEATURES))
        raw[:, 0] = lists.scores
        raw[:, 1] = -np.log(lists.ranks.astype(np.float64))
        raw[:, 2] = np.log1p(_gather(self.popularity, rows))
        raw[:, 3] = np.log1p(_gather(self.recent_popularity, rows))
        for user, positions in lists.by_user():
            raw[positions, 4:] = self._likeness(rows[positions], histories.get(user, _NOTHING)[-MORE_ITEMS:])
        return raw

    def histories_with(
        self,
        newer: pd.DataFrame | Mapping[UserId, Sequence[ItemId]] | None,
        disliked: Mapping[UserId, Sequence[ItemId]] | None = None,
    ) -> Mapping[UserId, IntArray]:
        """The histories, some replaced by `newer`: a validated table, or user id -> items, oldest first.

        Args:
            newer: what these users chose; a table says what they dislike, too.
            disliked: beside a mapping: user id -> items.
        """
        if newer is None:
            return self.histories
        if isinstance(newer, pd.DataFrame):
            encoded = self.encode_histories(newer)
            rejected = {**dict.fromkeys(encoded, _NOTHING), **disliked_by_user(newer, RowSignals.of(newer), self.index)}
        else:
            encoded = {user: self._known_rows(items) for user, items in newer.items()}
            rejected = {user: self._known_rows((disliked or {}).get(user, ())) for user in newer}
        before = {} if self.dislikes is None else self.dislikes.of_users
        return Histories(encoded, self.histories, disliked=ChainMap(rejected, before))

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
        nobody = dict.fromkeys(interactions[USER].unique(), _NOTHING)
        return {**nobody, **rows_by_user(choices_of(interactions), self.index)}

    def _likeness(self, items: IntArray, history: IntArray) -> NDArray[np.float64]:
        """(len(items), 9) similarity, co-visitation, transition and category columns of one list.

        Args:
            items: rows of the index, -1 for unknown ones.
            history: the newest `MORE_ITEMS` rows, oldest first.
        """
        columns = np.zeros((len(items), 9))
        rows = np.flatnonzero(items >= 0)
        if not len(history) or not len(rows):
            return columns
        known, newest = items[rows], history[-LAST_ITEMS:]
        similarity = self.vectors[known] @ self.vectors[history].T
        co_visits = block(self.co_visits, history, known).T
        of_newest = co_visits[:, -LAST_ITEMS:]
        columns[rows, 0] = similarity[:, -1]
        columns[rows, 1] = similarity[:, -LAST_ITEMS:].max(axis=1)
        columns[rows, 2] = similarity[:, -LAST_ITEMS:].mean(axis=1)
        columns[rows, 3] = of_newest[:, -1]
        columns[rows, 4] = of_newest.mean(axis=1)
        columns[rows, 5] = np.log1p(block(self.transitions, newest[-1:], known)[0])
        columns[rows, 6] = _shared(self.categories, known, newest) / len(newest)
        columns[rows, 7] = similarity.max(axis=1)
        columns[rows, 8] = co_visits.max(axis=1)
        return columns


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


def _chosen(
    interactions: pd.DataFrame, said: RowSignals, index: dict[ItemId, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], UserHistories]:
    """(n_items,) strengths of all choices and of the newest `RECENT_SHARE`, and who chose what."""
    rows = np.asarray(interactions[ITEM].map(index), dtype=np.int64)[said.chosen]
    strengths = said.relative[said.chosen]
    newest = slice(len(rows) - max(1, int(len(rows) * RECENT_SHARE)), None)
    counts = [_counts(rows[part], strengths[part], len(index)) for part in (slice(None), newest)]
    codes, users = pd.factorize(interactions[USER])
    return counts[0], counts[1], UserHistories.grouped(users.tolist(), codes.astype(np.int64)[said.chosen], rows)


def _counts(rows: IntArray, strengths: NDArray[np.float64], n_items: int) -> NDArray[np.float64]:
    return np.bincount(rows, weights=strengths, minlength=n_items).astype(np.float64)


def _gather(values: NDArray[np.float64], rows: IntArray) -> NDArray[np.float64]:
    return np.where(rows >= 0, values[np.maximum(rows, 0)], 0.0)


def _aligned_unit_vectors(
    index: dict[ItemId, int], item_ids: Sequence[ItemId], vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    if len(item_ids) != len(vectors):
        raise DataError(f"{len(item_ids)} item ids were given {len(vectors)} vectors; they must match one to one")
    aligned = np.zeros((len(index), vectors.shape[1]), dtype=np.float32)
    targets = np.fromiter((index.get(item, -1) for item in item_ids), dtype=np.int64, count=len(item_ids))
    known = vectors[targets >= 0]
    lengths = np.linalg.norm(known, axis=1, keepdims=True)
    known /= np.where(lengths > 0, lengths, 1.0)
    aligned[targets[targets >= 0]] = known
    return aligned


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
