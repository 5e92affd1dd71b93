"""Lists of candidates with the chosen one marked: what the ranker is fitted on."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from reranker.fusion.columns import DISLIKE_FEATURES, FEATURES
from reranker.types import IntArray, UserId


@dataclass(frozen=True, kw_only=True, eq=False)
class Choices:
    """Lists of one or several windows and what was chosen from them.

    Attributes:
        features: (rows, len(columns)) interaction features, own features behind the others.
        list_index: (rows,) 0-based number of the list.
        chosen: (rows,) True where the user chose the item next.
        first_stage_rank: (rows,) 1-based rank in the list that came in.
        n_relevant: (n_lists,) held-out items of the user, proposed or not.
        n_known: (n_lists,) interactions known of the user when the list was made.
        users: (n_lists,) whose list it is; a user has one list a window.
        columns: name -> words of each feature.
    """

    features: NDArray[np.float64]
    list_index: IntArray
    chosen: NDArray[np.bool_]
    first_stage_rank: IntArray
    n_relevant: IntArray
    n_known: IntArray
    users: Sequence[UserId]
    columns: Mapping[str, str] = field(default_factory=lambda: dict(FEATURES))

    @classmethod
    def joined(cls, windows: Sequence[Self]) -> Self:
        """The lists of several windows, numbered on from one to the next."""
        before = np.cumsum([0, *(len(one.users) for one in windows[:-1])])
        return cls(
            features=np.concatenate([one.features for one in windows]),
            list_index=np.concatenate([one.list_index + n for one, n in zip(windows, before, strict=True)]),
            chosen=np.concatenate([one.chosen for one in windows]),
            first_stage_rank=np.concatenate([one.first_stage_rank for one in windows]),
            n_relevant=np.concatenate([one.n_relevant for one in windows]),
            n_known=np.concatenate([one.n_known for one in windows]),
            users=[user for one in windows for user in one.users],
            columns=windows[0].columns,
        )

    @property
    def n_interaction(self) -> int:
        """The first columns, which are not the user's own."""
        return sum(name in FEATURES or name in DISLIKE_FEATURES for name in self.columns)

    @cached_property
    def recall(self) -> NDArray[np.float64]:
        """(n_lists,) share of what the user chose that the list holds; NaN of users who chose nothing."""
        found = np.bincount(self.list_index[self.chosen], minlength=len(self.users)).astype(np.float64)
        missing = np.full(len(found), np.nan)
        recall: NDArray[np.float64] = np.divide(found, self.n_relevant, out=missing, where=self.n_relevant > 0)
        return recall

    @cached_property
    def user_numbers(self) -> IntArray:
        """(n_lists,) 0-based number of each list's user."""
        return user_numbers(self.users)

    def covered_lists(self, most: int | None = None, seed: int = 0) -> IntArray:
        """Numbers of the lists that contain a chosen item: the others say nothing; a random `most` of them."""
        covered = np.unique(self.list_index[self.chosen])
        if most is not None and len(covered) > most:
            covered = np.sort(np.random.default_rng(seed).choice(covered, most, replace=False))
        return covered


def user_numbers(users: Iterable[Hashable]) -> IntArray:
    """0-based numbers, the same for the same user."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(user, len(numbers)) for user in users], dtype=np.int64)
