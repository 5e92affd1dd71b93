"""The interactions table as a sparse matrix, with the ids of its rows and columns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from reranker.data.schema import ITEM, TIMESTAMP, USER, WEIGHT, validate_interactions
from reranker.types import IntArray, ItemId, UserId
from reranker.utils.id_json import plain_id


@dataclass(frozen=True, kw_only=True, eq=False)
class InteractionMatrix:
    """Who chose what.

    Attributes:
        user_ids: id of each row, in order of first appearance.
        item_ids: id of each column, most popular first (ties in order of first appearance). Because of this order,
            breaking score ties by the lower column breaks them by popularity.
        matrix: (users, items) float32 CSR. A stored cell, even one of value 0, means that the user has seen the item.
        popularity: (items,) float64 share of the users who chose the item, in 0..1, never increasing.
    """

    user_ids: list[UserId]
    item_ids: list[ItemId]
    matrix: sp.csr_matrix
    popularity: NDArray[np.float64]

    @classmethod
    def from_table(cls, interactions: pd.DataFrame, use_weights: bool = False) -> "InteractionMatrix":
        """Counts each (user, item) pair once; with `use_weights` its value is the sum of its weights.

        Raises:
            DataError: the table breaks the interactions contract (`reranker.data.schema.validate_interactions`).
        """
        frame = validate_interactions(interactions)
        user_ids, rows = _positions(frame[USER].tolist())
        item_ids, columns = _positions(frame[ITEM].tolist())
        weighted = use_weights and WEIGHT in frame
        values = frame[WEIGHT].to_numpy(dtype=np.float32) if weighted else np.ones(len(frame), dtype=np.float32)
        shape = (len(user_ids), len(item_ids))
        # Built from coordinates, duplicates are summed and cells that sum to zero stay stored.
        matrix = sp.csr_matrix((values, (rows, columns)), shape=shape)
        matrix.sum_duplicates()
        if not weighted:
            matrix.data[:] = 1.0
        counts = np.bincount(matrix.indices, minlength=shape[1])
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
        """(users, items) float32 CSR of ones: `matrix` without its weights."""
        ones = np.ones_like(self.matrix.data)
        return sp.csr_matrix((ones, self.matrix.indices, self.matrix.indptr), shape=self.matrix.shape)

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

    An item chosen several times stands where it was chosen last. Without timestamps nothing is newest: then all of a
    user's items count, each with weight 1.

    Args:
        table: a validated interactions table, of which `fitted` was made.
    """
    if TIMESTAMP not in table:
        return fitted.seen
    ordered = table.sort_values(TIMESTAMP, kind="stable")
    positions = pd.DataFrame(
        {"row": lookup(fitted.user_rows, ordered[USER]), "column": lookup(fitted.item_columns, ordered[ITEM])}
    )
    last = positions.drop_duplicates(keep="last")
    age = last.groupby("row", sort=False).cumcount(ascending=False).to_numpy()
    newest = last[age < history]
    weights = np.power(decay, age[age < history]).astype(np.float32)
    return sp.csr_matrix((weights, (newest["row"], newest["column"])), shape=fitted.seen.shape)


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


def _positions(values: list[Any]) -> tuple[list[Any], IntArray]:
    """The distinct values in order of first appearance, and where each row's value stands among them."""
    positions: dict[Any, int] = {}
    rows = np.fromiter((positions.setdefault(value, len(positions)) for value in values), np.int64, count=len(values))
    return [plain_id(value) for value in positions], rows
