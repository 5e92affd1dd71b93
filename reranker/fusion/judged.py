"""What the guard judged by: each validation list's NDCG under every order, newest window first."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reranker.fusion.choices import user_numbers
from reranker.types import IntArray, UserId

MOST_LISTS = 5000
"""Lists that are kept to judge by: the newest."""


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedLists:
    """Cross-fitted NDCG@10 of validation lists.

    Attributes:
        ndcg: (n_lists, 3) under the first-stage order, the interaction features and the fused order.
        n_known: (n_lists,) interactions known of each user when the list was made.
        users: (n_lists,) whose list it is.
        recall: (n_lists,) share of what the user chose that the list holds; NaN of users who chose nothing, and where
            an earlier version kept none.
    """

    ndcg: NDArray[np.float64]
    n_known: IntArray
    users: Sequence[UserId]
    recall: NDArray[np.float64]

    @property
    def user_numbers(self) -> IntArray:
        """(n_lists,) 0-based number of each list's user."""
        return user_numbers(self.users)

    def before(self, older: "JudgedLists", most: int = MOST_LISTS) -> "JudgedLists":
        """These lists and then the older ones, `most` in all; of these none is left out."""
        room = max(0, most - len(self.users))
        return JudgedLists(
            ndcg=np.concatenate([self.ndcg, older.ndcg[:room]]),
            n_known=np.concatenate([self.n_known, older.n_known[:room]]),
            users=[*self.users, *older.users[:room]],
            recall=np.concatenate([self.recall, older.recall[:room]]),
        )

    def without(self, users: Collection[UserId]) -> "JudgedLists":
        """The lists of other users."""
        kept = np.array([user not in users for user in self.users], dtype=np.bool_)
        return replace(
            self,
            ndcg=self.ndcg[kept],
            n_known=self.n_known[kept],
            recall=self.recall[kept],
            users=[user for user, stays in zip(self.users, kept, strict=True) if stays],
        )
