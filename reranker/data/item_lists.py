"""Candidate lists laid end to end, as arrays: what a ranker reads. A table is made of them at the edge only."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.schema import CANDIDATE_COLUMNS, ITEM, RANK, SCORE, USER
from reranker.types import IntArray, ItemId, UserId


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemLists:
    """Candidate lists of some users.

    Attributes:
        users: (n_lists,) whose list each is.
        list_index: (rows,) 0-based number of the row's list.
        items: (rows,) ids.
        ranks: (rows,) from 1 in the order that came in.
        scores: (rows,) of the first stage.
        further: column -> (rows,) values, for instance of the user's own columns.
    """

    users: Sequence[UserId]
    list_index: IntArray
    items: Sequence[ItemId]
    ranks: IntArray
    scores: NDArray[np.float64]
    further: Mapping[str, pd.Series] = field(default_factory=dict)

    @classmethod
    def of(cls, candidates: "Candidates") -> "ItemLists":
        """The lists of a validated candidates table, users in the order they first come; lists as they are."""
        if isinstance(candidates, ItemLists):
            return candidates
        list_index, users = pd.factorize(candidates[USER])
        lists = cls(
            users=users.tolist(),
            list_index=list_index.astype(np.int64),
            items=candidates[ITEM].tolist(),
            ranks=candidates[RANK].to_numpy(dtype=np.int64),
            scores=candidates[SCORE].to_numpy(dtype=np.float64),
            further={str(name): candidates[name] for name in candidates if name not in CANDIDATE_COLUMNS},
        )
        vars(lists)["frame"] = candidates
        return lists

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def positions(self) -> Sequence[IntArray]:
        """(n_lists,) rows of each list, ascending."""
        order = np.argsort(self.list_index, kind="stable")
        bounds = np.searchsorted(self.list_index[order], np.arange(1, len(self.users)))
        return np.split(order, bounds)[: len(self.users)]  # of no list there is one empty part

    def by_user(self) -> Iterator[tuple[UserId, IntArray]]:
        """Each user and the rows of their list."""
        return zip(self.users, self.positions, strict=True)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The lists as a candidates table."""
        users = pd.Series(list(self.users), dtype=object).iloc[self.list_index].reset_index(drop=True)
        items = pd.Series(list(self.items), dtype=object)
        return pd.DataFrame({USER: users, ITEM: items, SCORE: self.scores, RANK: self.ranks, **self.further})

    def part(self, rows: NDArray[np.bool_]) -> "ItemLists":
        """The rows marked True, and the users who have one.

        Args:
            rows: (rows,)
        """
        if rows.all():
            return self
        kept = np.flatnonzero(rows)
        lists, list_index = np.unique(self.list_index[kept], return_inverse=True)
        return ItemLists(
            users=[self.users[number] for number in lists.tolist()],
            list_index=list_index.astype(np.int64),
            items=[self.items[row] for row in kept.tolist()],
            ranks=self.ranks[kept],
            scores=self.scores[kept],
            further={name: column.iloc[kept].reset_index(drop=True) for name, column in self.further.items()},
        )


Candidates = pd.DataFrame | ItemLists
"""A validated candidates table, or the lists of one."""
