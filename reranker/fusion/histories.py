"""Users' histories in one array, as a mapping: a million users as so many arrays would take ten times the memory."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from reranker.types import IntArray, UserId


class UserHistories(Mapping[UserId, IntArray]):
    """User id -> rows of the items that the user chose, oldest first.

    Attributes:
        users: the users, each once.
        rows: (n,) their rows laid end to end.
        offsets: (len(users) + 1,) where each user's rows begin, and the end.
    """

    def __init__(self, users: Sequence[UserId], rows: NDArray[np.integer], offsets: NDArray[np.integer]) -> None:
        self.users = users
        self.rows = rows.astype(np.int32, copy=False)
        self.offsets = offsets.astype(np.int64, copy=False)

    @classmethod
    def of(cls, histories: Mapping[UserId, IntArray]) -> "UserHistories":
        """The same histories, laid end to end."""
        if isinstance(histories, cls):
            return histories
        rows = np.concatenate([*histories.values(), np.zeros(0, dtype=np.int64)])
        lengths = np.array([len(history) for history in histories.values()], dtype=np.int64)
        return cls(list(histories), rows, np.concatenate([[0], np.cumsum(lengths)]))

    @classmethod
    def grouped(cls, users: Sequence[UserId], codes: IntArray, rows: IntArray) -> "UserHistories":
        """From rows in the order of time.

        Args:
            users: each once.
            codes: (n,) place of each row's user among them.
            rows: (n,).
        """
        sizes = np.bincount(codes, minlength=len(users))
        return cls(users, rows[np.argsort(codes, kind="stable")], np.concatenate([[0], np.cumsum(sizes)]))

    @property
    def lengths(self) -> IntArray:
        """(n_users,) items of each history."""
        lengths: IntArray = np.diff(self.offsets)
        return lengths

    def __getitem__(self, user: UserId) -> IntArray:
        place = self._places[user]
        return self.rows[self.offsets[place] : self.offsets[place + 1]].astype(np.int64)

    def __contains__(self, user: object) -> bool:
        return user in self._places

    def __iter__(self) -> Iterator[UserId]:
        return iter(self.users)

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def _places(self) -> dict[object, int]:
        """Made when a user is first looked up: a fit asks for few, and most often for none."""
        return {user: place for place, user in enumerate(self.users)}
