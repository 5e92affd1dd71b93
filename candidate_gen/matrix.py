"""The interactions table as a sparse matrix, with the ids of its rows and columns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from reranker.data.schema import ITEM, STRENGTH, TIMESTAMP, USER, sort_by_time, validate_interactions
from reranker.data.signals import choices_of, mean_choice, settled
from reranker.types import IntArray, ItemId, UserId
from reranker.utils.id_json import plain_id


@dataclass(frozen=True, kw_only=True, eq=False)
class InteractionMatrix:
    """Who chose what, and who dislikes what.

    Attributes:
        user_ids: id of each row, in order of first appearance.
        item_ids: id of each column, most popular first (ties in order of first appearance). Because of this order,
            breaking score ties by the lower column breaks them by popularity.
        matrix: (users, items) float32 CSR: above 0 where the user chose the item, below 0 where the user dislikes it. A
            stored cell, even one of value 0, means that the user has seen the item.
        popularity: (items,) float64 share of the users who chose the item, in 0..1, never increasing.
    """

    user_ids: list[UserId]
    item_ids: list[ItemId]
    matrix: sp.csr_matrix
    popularity: NDArray[np.float64]

    @classmethod
    def from_table(
        cls, interactions: pd.DataFrame, use_weights: bool = False, scaled: bool = True
    ) -> "InteractionMatrix":
        """Counts each (user, item) pair once, -1 for a dislike; with `use_weights` its value is the sum of its
        strengths (`reranker.data.signals`), in units of the mean of all choices where it is `scaled`.

        Raises:
            DataError: the table breaks the interactions contract (`reranker.data.schema.validate_interactions`).
        """
        frame = validate_interactions(interactions)
        user_ids, rows = _positions(frame[USER])
        item_ids, columns = _positions(frame[ITEM])
        values = (
            frame[STRENGTH].to_numpy(dtype=np.float64) if STRENGTH in frame else np.ones(len(frame), dtype=np.float32)
        )
        shape = (len(user_ids), len(item_ids))
        # Built from coordinates, duplicates are summed and cells that sum to zero stay stored.
        matrix = sp.csr_matrix((values, (rows, columns)), shape=shape)
        matrix.sum_duplicates()
        matrix.data = _cells(matrix.data.astype(np.float64, copy=False), use_weights and STRENGTH in frame, scaled)
        counts = np.bincount(matrix.indices[matrix.data > 0], minlength=shape[1])
        order = np.argsort(-counts, kind="stable")
        return cls(
            user_ids=user_ids,
            item_ids=[item_ids[index] for index in order],
            matrix=sp.csr_matrix(matrix[:, order]),
            popularity=counts[order] / shape[0],
        )

    @cached_property
    def user_rows(self) -> dict[UserId, int]:
        """Row of each user id."""
        return {user: row for row, user in enumerate(self.user_ids)}

    @cached_property
    def item_columns(self) -> dict[ItemId, int]:
        """Column of each item id."""
        return {item: column for column, item in enumerate(self.item_ids)}

    @cached_property
    def seen(self) -> sp.csr_matrix:
        """(users, items) float32 CSR of ones: every stored cell."""
        ones = np.ones_like(self.matrix.data)
        return sp.csr_matrix((ones, self.matrix.indices, self.matrix.indptr), shape=self.matrix.shape)

    @cached_property
    def chosen(self) -> sp.csr_matrix:
        """(users, items) float32 CSR of ones: what was chosen."""
        return self.seen if (self.matrix.data > 0).all() else _ones_where(self.matrix, self.matrix.data > 0)

    @cached_property
    def choices(self) -> sp.csr_matrix:
        """`matrix` without what is not chosen."""
        kept = self.matrix.data > 0
        if kept.all():
            return self.matrix
        chosen = _ones_where(self.matrix, kept)
        chosen.data = self.matrix.data[kept]
        return chosen

    @cached_property
    def disliked(self) -> sp.csr_matrix:
        """(users, items) float32 CSR of ones: what is disliked."""
        return _ones_where(self.matrix, self.matrix.data < 0)

    def with_items(self, item_ids: Sequence[ItemId]) -> "InteractionMatrix":
        """The same with further items that nobody chose, behind the others."""
        return InteractionMatrix(
            user_ids=self.user_ids,
            item_ids=[*self.item_ids, *item_ids],
            matrix=widened(self.matrix, len(self.item_ids) + len(item_ids)),
            popularity=np.concatenate([self.popularity, np.zeros(len(item_ids))]),
        )


def newest_weights(table: pd.DataFrame, fitted: InteractionMatrix, history: int, decay: float) -> sp.csr_matrix:
    """(users, items) float32 CSR of decay^age for each user's `history` newest distinct items, the newest of age 0.

    An item chosen several times stands where it was chosen last, and one that the user dislikes nowhere. Without
    timestamps nothing is newest: then all of a user's items count, each with weight 1.

    Args:
        table: a validated interactions table, of which `fitted` was made.
    """
    if TIMESTAMP not in table:
        return fitted.chosen
    ordered = sort_by_time(choices_of(table))
    positions = pd.DataFrame(
        {
            "row": _places(fitted.user_ids, ordered[USER]),
            "column": _places(fitted.item_ids, ordered[ITEM]),
        }
    )
    last = positions.drop_duplicates(keep="last")
    age = last.groupby("row", sort=False).cumcount(ascending=False).to_numpy()
    newest = last[age < history]
    weights = np.power(decay, age[age < history]).astype(np.float32)
    return sp.csr_matrix((weights, (newest["row"], newest["column"])), shape=fitted.seen.shape)


def _cells(sums: NDArray[np.float64], weighted: bool, scaled: bool) -> NDArray[np.float32]:
    """Values of the matrix from each pair's sum of strengths."""
    sums = settled(sums)
    if not weighted:
        return np.sign(sums).astype(np.float32)
    return (sums / (mean_choice(sums[sums > 0]) if scaled else 1.0)).astype(np.float32)


def _ones_where(matrix: sp.csr_matrix, kept: NDArray[np.bool_]) -> sp.csr_matrix:
    """Ones in some of the stored cells, and nothing else."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))[kept]
    ones = np.ones(len(rows), dtype=np.float32)
    return sp.csr_matrix((ones, (rows, matrix.indices[kept])), shape=matrix.shape)


def widened(matrix: sp.csr_matrix, columns: int) -> sp.csr_matrix:
    """The same cells in a matrix of so many columns."""
    cells = (matrix.data, matrix.indices, matrix.indptr)
    return sp.csr_matrix(cells, shape=(matrix.shape[0], columns))


def lookup(positions: dict[Any, int], ids: Iterable[object]) -> IntArray:
    """Position of each id, -1 where it is unknown."""
    return np.fromiter((positions.get(value, -1) for value in ids), dtype=np.int64)


def id_column(ids: Sequence[object]) -> pd.Series:
    """The ids as a column. Mixed types stay objects: pandas would turn [1, 2.5] into floats."""
    values = np.empty(len(ids), dtype=object)
    for position, value in enumerate(ids):
        values[position] = value
    column = pd.Series(values)
    return column.infer_objects() if len({type(value) for value in ids}) == 1 else column


def _places(ids: Sequence[object], column: "pd.Series[Any]") -> IntArray:
    """Position among the ids of each of a column's, all of which are known."""
    if _is_integer(column):
        values = column.to_numpy()
        known: Any = pd.Index(np.asarray(ids, dtype=values.dtype))
        return np.asarray(known.get_indexer(values), dtype=np.int64)
    return lookup({value: place for place, value in enumerate(ids)}, column)


def _is_integer(column: "pd.Series[Any]") -> bool:
    """Whether it holds numpy's integers, for which no object a row has to be made."""
    return isinstance(column.dtype, np.dtype) and column.dtype.kind in "iu"


def _positions(column: "pd.Series[Any]") -> tuple[list[Any], IntArray]:
    """The distinct values in order of first appearance, and where each row's value stands among them."""
    if _is_integer(column):
        codes, distinct = pd.factorize(column.to_numpy())
        return distinct.tolist(), np.asarray(codes, dtype=np.int64)
    values = column.tolist()
    positions: dict[Any, int] = {}
    rows = np.fromiter((positions.setdefault(value, len(positions)) for value in values), np.int64, count=len(values))
    return [plain_id(value) for value in positions], rows
