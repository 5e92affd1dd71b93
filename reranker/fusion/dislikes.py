"""What users dislike, and what it says of a candidate."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from reranker.data.item_lists import ItemLists
from reranker.data.schema import ITEM, USER
from reranker.data.signals import RowSignals
from reranker.fusion.co_visits import block
from reranker.fusion.columns import DISLIKE_FEATURES
from reranker.types import IntArray, UserId

KNOWN_TO = 5.0
"""Users without a dislike that an item's share of dislikes is shrunk by."""

LAST_DISLIKED = 5
"""How many of the items that a user disliked last count."""

_NONE: IntArray = np.zeros(0, dtype=np.int64)


class Histories(Mapping[UserId, IntArray]):
    """Histories of which some stand in for those of `fit`, and what the same users dislike.

    Attributes:
        disliked: user id -> rows, the last word last.
    """

    def __init__(
        self,
        newer: Mapping[UserId, IntArray],
        known: Mapping[UserId, IntArray],
        *,
        disliked: Mapping[UserId, IntArray],
    ) -> None:
        self._newer, self._known = newer, known
        self.disliked = disliked

    def __getitem__(self, user: UserId) -> IntArray:
        return self._newer[user] if user in self._newer else self._known[user]

    def __contains__(self, user: object) -> bool:
        return user in self._newer or user in self._known

    def __iter__(self) -> Iterator[UserId]:
        yield from self._known
        yield from (user for user in self._newer if user not in self._known)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dislikes:
    """Who dislikes what.

    Attributes:
        of_users: user id -> distinct rows of the items that the user dislikes, the last word last; nobody else.
        shares: (n_items,) share of dislikes among the users who chose or dislike an item, shrunk to 0.
    """

    of_users: dict[UserId, IntArray]
    shares: NDArray[np.float64]

    @classmethod
    def fit(cls, interactions: pd.DataFrame, said: RowSignals, index: Mapping[object, int]) -> "Dislikes":
        """Learns from a validated table with strengths.

        Args:
            interactions: sorted by time where there are times.
            said: by its rows.
            index: item id -> row.
        """
        liked, disliked = (
            np.bincount(_distinct_items(interactions[mask], index), minlength=len(index))
            for mask in (said.chosen, said.disliked)
        )
        return cls(
            of_users=disliked_by_user(interactions, said, index),
            shares=np.asarray(disliked / (liked + disliked + KNOWN_TO), dtype=np.float64),
        )

    def enlarged(self, new: int) -> "Dislikes":
        """The same with so many further items, which nobody dislikes."""
        return replace(self, shares=np.pad(self.shares, (0, new)))

    def features(
        self,
        lists: ItemLists,
        items: IntArray,
        histories: Mapping[UserId, IntArray],
        vectors: NDArray[np.float32],
        co_visits: sparse.csr_array,
    ) -> NDArray[np.float64]:
        """(rows, 3) the `DISLIKE_FEATURES` as they are, 0 for unknown items.

        Args:
            lists: of candidates.
            items: (rows,) of the items in the index; -1 for unknown ones.
            histories: as the statistics have them; `Histories` bring dislikes of their own.
            vectors: (n_items, factors) of unit length.
            co_visits: (n_items, n_items) cosines.
        """
        disliked = histories.disliked if isinstance(histories, Histories) else self.of_users
        raw = np.zeros((len(lists), len(DISLIKE_FEATURES)))
        raw[:, 2] = np.where(items >= 0, self.shares[np.maximum(items, 0)], 0.0)
        for user, positions in lists.by_user():
            newest = disliked.get(user, _NONE)[-LAST_DISLIKED:]
            there = positions[items[positions] >= 0]
            if len(newest) and len(there):
                raw[there, 0] = (vectors[items[there]] @ vectors[newest].T).max(axis=1)
                raw[there, 1] = block(co_visits, newest, items[there]).mean(axis=0)
        return raw


def disliked_by_user(
    interactions: pd.DataFrame, said: RowSignals, index: Mapping[object, int]
) -> dict[UserId, IntArray]:
    """User id -> distinct rows of the disliked items of a validated table, the last word last; nobody else."""
    rows = interactions[said.disliked].drop_duplicates([USER, ITEM], keep="last")
    return rows_by_user(rows, index)


def rows_by_user(interactions: pd.DataFrame, index: Mapping[object, int]) -> dict[UserId, IntArray]:
    """User id -> rows of the user's items in the order of the table; without items that are not in the index."""
    rows = interactions[ITEM].map(index)
    known = rows.notna().to_numpy()
    found: dict[UserId, IntArray] = {}
    for user, positions in interactions[known].groupby(USER, sort=False).indices.items():
        found[user] = np.asarray(rows[known].iloc[positions], dtype=np.int64)
    return found


def _distinct_items(interactions: pd.DataFrame, index: Mapping[object, int]) -> IntArray:
    """Rows of the items, once a user."""
    distinct = interactions.drop_duplicates([USER, ITEM])
    return np.asarray(distinct[ITEM].map(index), dtype=np.int64)
