"""Features from the user's own columns, as of one moment: what interactions before it say of their values.

No encoding looks at what is to be predicted: categories are encoded by counts of earlier interactions, shrunk towards
what is expected without them, log((n + a) / (expected + a)), the posterior mean of a Poisson rate under a Gamma prior
of mean 1 (as in DuMouchel 1999).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from reranker.data.item_lists import ItemLists
from reranker.data.schema import CANDIDATE_COLUMNS, ITEM, USER
from reranker.errors import DataError
from reranker.fusion.conditional_logit import standardise_within_lists
from reranker.fusion.own_columns import OwnColumn, codes_of
from reranker.prompting.text import field_text
from reranker.types import IntArray, UserId

Floats = NDArray[np.float64]

NEWEST = 100
"""Items of a history whose values are compared with a candidate's."""

ACTED_ON: Mapping[str, tuple[str, ...]] = {
    "users": ("popularity", "first_stage_score"),
    "candidates": ("popularity", "recent_popularity", "covisit_mean"),
}
"""Source of a number that is the same throughout a list -> interaction features that it acts on."""

OF_ITEMS, OF_USERS, OF_SEGMENTS = 5.0, 1.0, 5.0
"""a of the shrinkage: items a category counts for beside its own; choices of a category that a user is given; choices
of an item that a segment is given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemCategory:
    """A category of items, by row of the statistics' index.

    Attributes:
        codes: (n_items,) number of the value; -1 where it is missing.
        popularity: (n_values,) log of 1 plus choices an item of the value, shrunk to the mean of all items.
        shares: (n_values,) share of the choices.
    """

    codes: IntArray
    popularity: Floats
    shares: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """A category of users.

    Attributes:
        codes: user -> number of the value.
        counts: (n_values, n_items) CSR, choices of the segment's users.
        sizes: (n_values,) choices in all.
    """

    codes: Mapping[UserId, int]
    counts: sparse.csr_array
    sizes: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnFeatures:
    """The user's own columns at one moment.

    Attributes:
        columns: what was asked for.
        item_numbers: column key -> (n_items,) scaled values; NaN where missing.
        item_categories: column key -> its statistics.
        user_numbers: column key -> user -> scaled value.
        segments: column key -> its statistics.
        item_shares: (n_items,) share of all choices, none of them 0.
        users: the user table that it was learned from, its own columns alone.
    """

    columns: tuple[OwnColumn, ...]
    item_numbers: Mapping[str, Floats]
    item_categories: Mapping[str, ItemCategory]
    user_numbers: Mapping[str, Mapping[UserId, float]]
    segments: Mapping[str, Segments]
    item_shares: Floats
    users: pd.DataFrame | None = None

    @classmethod
    def fit(
        cls,
        columns: Sequence[OwnColumn],
        index: Mapping[object, int],
        histories: Mapping[UserId, IntArray],
        items: pd.DataFrame,
        users: pd.DataFrame | None,
    ) -> "OwnFeatures":
        """Learns from what was chosen before.

        Args:
            columns: of `items`, `users` and candidates.
            index: item id -> row.
            histories: user -> rows of the items chosen.
            items: item table; items without a row have no values.
            users: user table, where columns are of users.

        Raises:
            DataError: a table lacks a column.
        """
        n_items, named = len(index), [column.name for column in columns if column.source == "users"]
        chosen = np.concatenate([np.zeros(0, dtype=np.int64), *histories.values()])
        counts = np.bincount(chosen, minlength=n_items).astype(np.float64)
        of_items = items.set_index(ITEM).reindex(list(index))
        of_users = None if users is None else users.set_index(USER)
        numbers, categories, user_numbers, segments = {}, {}, {}, {}
        for column in columns:
            if column.source == "items":
                values = _column(of_items, column)
                if column.kind == "number":
                    numbers[column.key] = column.scaled(values)
                else:
                    categories[column.key] = _item_category(values, counts)
            elif column.source == "users":
                values = _column(of_users, column)
                if column.kind == "number":
                    user_numbers[column.key] = dict(zip(values.index, column.scaled(values).tolist(), strict=True))
                else:
                    segments[column.key] = _segments(values, histories, n_items)
        return cls(
            columns=tuple(columns),
            item_numbers=numbers,
            item_categories=categories,
            user_numbers=user_numbers,
            segments=segments,
            item_shares=(counts + 0.5) / (counts.sum() + 0.5 * n_items),
            users=users[[USER, *named]] if users is not None and named else None,
        )

    @property
    def words(self) -> dict[str, str]:
        """Feature -> what it says in words, in the order of `values`."""
        return {name: said for column in self.columns for name, said in _words(column)}

    def names_of(self, wanted: Collection[str]) -> list[str]:
        """Features of these columns, each named with its table ("items.price") or without."""
        asked = [column for column in self.columns if column.name in wanted or column.key in wanted]
        return [name for column in asked for name, _ in _words(column)]

    @property
    def candidate_columns(self) -> list[str]:
        """Columns that a candidates table must have."""
        return [column.name for column in self.columns if column.source == "candidates"]

    def values(
        self,
        candidates: ItemLists,
        rows: IntArray,
        histories: Mapping[UserId, IntArray],
        interaction: Mapping[str, Floats],
        identities: Mapping[UserId, UserId] | None = None,
    ) -> Floats:
        """(rows, n_features) z-scored within each user's list; what is missing is the mean of the list.

        Args:
            candidates: lists with `candidate_columns`.
            rows: (rows,) of the items in the statistics' index; -1 for unknown ones.
            histories: user -> rows of the items chosen, oldest first.
            interaction: interaction feature -> (rows,) z-scored within lists: what users and moments act on.
            identities: user of `candidates` -> the user whose columns count; each is himself by default.

        Raises:
            DataError: the table lacks a column.
        """
        if missing := [name for name in self.candidate_columns if name not in candidates.further]:
            raise DataError(
                f"table 'candidates' lacks the column {', '.join(map(repr, missing))}, which the ranker was fitted "
                f"with (features); it has {', '.join([*CANDIDATE_COLUMNS, *candidates.further])}"
            )
        newest = [histories.get(user, _NOBODY)[-NEWEST:] for user in candidates.users]
        themselves = [user if identities is None else identities.get(user, user) for user in candidates.users]
        lists = _Lists(rows=rows, index=candidates.list_index, users=themselves, newest=newest)
        parts: list[Floats] = []
        for column in self.columns:
            if column.of_list or (column.source == "users" and column.kind == "number"):
                found = np.nan_to_num(self._level(column, candidates, lists))  # of an unknown one the middle, 0
                parts += [found * interaction[name] for name in ACTED_ON[column.source]]
            else:
                raw = np.stack(list(self._raw(column, candidates, lists)), axis=1)
                parts += list(standardise_within_lists(_filled(raw, lists.index), lists.index).T)
        return np.stack(parts, axis=1) if parts else np.zeros((len(candidates), 0))

    def _level(self, column: OwnColumn, candidates: ItemLists, lists: "_Lists") -> Floats:
        """(rows,) a number that is the same throughout each list: of its user, or of its moment."""
        if column.source == "candidates":
            return column.scaled(candidates.further[column.name])
        numbers = self.user_numbers[column.key]
        return np.array([numbers.get(user, np.nan) for user in lists.users])[lists.index]

    def _raw(self, column: OwnColumn, candidates: ItemLists, lists: "_Lists") -> Iterator[Floats]:
        """The features of a column, NaN where missing, and last an indicator of that."""
        if column.source == "candidates":
            values = candidates.further[column.name]
            missing = values.isna().to_numpy()
            if column.kind == "number":
                yield column.scaled(values)
            else:
                texts = values.map(field_text).to_numpy(dtype=object)
                yield from (np.where(missing, np.nan, texts == value).astype(np.float64) for value in column.values)
        elif column.source == "users":
            yield self._lifts(self.segments[column.key], lists)
            return
        elif column.kind == "number":
            numbers = self.item_numbers[column.key]
            mine = lists.of_items(numbers)
            missing = np.isnan(mine)
            yield mine
            yield np.abs(mine - _history_means(numbers, lists.newest)[lists.index])
        else:
            category = self.item_categories[column.key]
            codes = np.where(lists.rows >= 0, category.codes[np.maximum(lists.rows, 0)], -1)
            missing = codes < 0
            yield np.where(missing, np.nan, category.popularity[np.maximum(codes, 0)])
            yield np.where(missing, np.nan, _affinities(category, codes, lists))
        if column.has_missing:
            yield missing.astype(np.float64)

    def _lifts(self, segments: Segments, lists: "_Lists") -> Floats:
        """(rows,) how much more often the user's segment chose the item than expected, log and shrunk."""
        codes = np.array([segments.codes.get(user, -1) for user in lists.users], dtype=np.int64)[lists.index]
        known = (codes >= 0) & (lists.rows >= 0)
        lifts = np.full(len(codes), np.nan)
        if known.any():
            segment, item = codes[known], lists.rows[known]
            counts = np.asarray(segments.counts[segment, item], dtype=np.float64).ravel()
            lifts[known] = shrunk_log_ratio(counts, segments.sizes[segment] * self.item_shares[item], OF_SEGMENTS)
        return lifts


_NOBODY: IntArray = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lists:
    """Lists of candidates.

    Attributes:
        rows: (rows,) of the items in the statistics' index; -1 for unknown ones.
        index: (rows,) number of the list.
        users: whose each list is.
        newest: the newest items of each list's user.
    """

    rows: IntArray
    index: IntArray
    users: Sequence[UserId]
    newest: Sequence[IntArray]

    def of_items(self, values: Floats) -> Floats:
        """(rows,) value of each candidate; NaN for an unknown one."""
        return np.where(self.rows >= 0, values[np.maximum(self.rows, 0)], np.nan)


def shrunk_log_ratio(counts: Floats, expected: Floats, prior: float) -> Floats:
    """log((n + a) / (expected + a)): near 0 where little is known."""
    ratios: Floats = np.log((counts + prior) / (expected + prior))
    return ratios


def _column(table: pd.DataFrame | None, column: OwnColumn) -> pd.Series:
    if table is None or column.name not in table:
        raise DataError(
            f"features: the table of {column.source} lacks the column {column.name!r}, which the ranker was fitted with"
        )
    return table[column.name]


def _item_category(values: pd.Series, counts: Floats) -> ItemCategory:
    texts = sorted({text for value in values if (text := field_text(value))})
    codes = codes_of(values, {text: code for code, text in enumerate(texts)})
    known, n_values = codes >= 0, max(1, len(texts))
    chosen = np.bincount(codes[known], weights=counts[known], minlength=n_values)
    sizes = np.bincount(codes[known], minlength=n_values)
    mean = counts.mean() if len(counts) else 0.0
    return ItemCategory(
        codes=codes,
        popularity=np.log1p((chosen + OF_ITEMS * mean) / (sizes + OF_ITEMS)),
        shares=(chosen + 1.0) / (chosen.sum() + n_values),
    )


def _segments(values: pd.Series, histories: Mapping[UserId, IntArray], n_items: int) -> Segments:
    texts = sorted({text for value in values if (text := field_text(value))})
    found = codes_of(values, {text: code for code, text in enumerate(texts)}).tolist()
    codes = {user: code for user, code in zip(values.index, found, strict=True) if code >= 0}
    mine = [(codes[user], rows) for user, rows in histories.items() if user in codes]
    segment = np.repeat([code for code, _ in mine], [len(rows) for _, rows in mine]).astype(np.int64)
    item = np.concatenate([_NOBODY, *(rows for _, rows in mine)])
    shape = (max(1, len(texts)), n_items)
    counts = sparse.csr_array(sparse.coo_array((np.ones(len(item)), (segment, item)), shape=shape))
    return Segments(codes=codes, counts=counts, sizes=np.asarray(counts.sum(axis=1), dtype=np.float64).ravel())


def _history_means(numbers: Floats, newest: Sequence[IntArray]) -> Floats:
    """(n_lists,) mean value of the items of each history that have one; NaN where none has."""
    known = [values[~np.isnan(values)] for values in (numbers[rows] for rows in newest)]
    return np.array([values.mean() if len(values) else np.nan for values in known])


def _affinities(category: ItemCategory, codes: IntArray, lists: _Lists) -> Floats:
    """(rows,) how much more often the user chose the candidate's value than expected, log and shrunk; codes of -1 are
    taken for 0."""
    n_values = len(category.shares)
    result = np.zeros(len(codes))
    order = np.argsort(lists.index, kind="stable")
    bounds = np.searchsorted(lists.index[order], np.arange(len(lists.users) + 1))
    for number, rows in enumerate(lists.newest):
        here = order[bounds[number] : bounds[number + 1]]
        mine = category.codes[rows]
        counts = np.bincount(mine[mine >= 0], minlength=n_values).astype(np.float64)
        values = np.maximum(codes[here], 0)
        result[here] = shrunk_log_ratio(counts[values], counts.sum() * category.shares[values], OF_USERS)
    return result


def _filled(raw: Floats, list_index: IntArray) -> Floats:
    """Means of the list's present values in the place of NaN; 0 where the list has none."""
    missing = np.isnan(raw)
    if not missing.any():
        return raw
    known = np.where(missing, 0.0, raw)
    n_lists = int(list_index.max()) + 1
    sums = np.stack([np.bincount(list_index, weights=column, minlength=n_lists) for column in known.T], axis=1)
    sizes = np.stack([np.bincount(list_index, weights=~column, minlength=n_lists) for column in missing.T], axis=1)
    means = sums / np.maximum(sizes, 1)
    return np.where(missing, means[list_index], known)


def _words(column: OwnColumn) -> Iterator[tuple[str, str]]:
    """The names of a column's features and what they say, in the order of `OwnFeatures.values`."""
    key, name = column.key, column.name
    if column.of_list or (column.source == "users" and column.kind == "number"):
        yield from ((f"{key}:x_{acted}", f"{acted}, where {name} is high") for acted in ACTED_ON[column.source])
        return
    if column.source == "users":
        yield f"{key}:lift", f"chosen more often by users of the same {name}"
        return
    if column.kind == "number":
        yield key, f"a high {name} within the list"
        if column.source == "items":
            yield f"{key}:distance", f"{name} far from that of the history"
    elif column.source == "items":
        yield f"{key}:popularity", f"how often items of its {name} are chosen (log)"
        yield f"{key}:affinity", f"the user chose its {name} more often than others"
    else:
        yield from ((f"{key}={value}", f"{name} is {value}") for value in column.values)
    if column.has_missing:
        yield f"{key}:missing", f"{name} is missing"
