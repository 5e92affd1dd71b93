"""The first day of a shop: n users seen so far, lists of strangers to rank, and texts of every item.

There is no first stage worth the name yet, so a list is what a user chose next among 49 items that are drawn by how
often anybody chooses them: popularity says nothing within such a list. All systems rank the same lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from candidate_gen import ALSGenerator
from reranker.data.dataset import Dataset, in_sequence
from reranker.data.schema import ITEM, RANK, USER, validate_candidates
from reranker.pipeline.lists import CandidateLists
from reranker.pipeline.windows import window_of
from reranker.types import ItemId, UserId
from reranker.utils.rolling_origin import rolling_origin

SEEN = (0, 30, 100, 300, 1000)
SUPPORTS = (1, 3, 5)
LENGTH = 50
TEST_USERS = 600
LONGEST_SUPPORT = max(SUPPORTS)


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstDay:
    """One domain, one draw of its users.

    Attributes:
        data: the whole domain; nothing but its items and its popularity may be seen of it.
        order: users of whom something may be seen, in the order in which they come.
        lists: `user_id, item_id, rank` of the test users, in random order.
        chosen: test user -> what they chose.
        histories: test user -> the `LONGEST_SUPPORT` items before that, oldest first.
    """

    data: Dataset
    order: Sequence[UserId]
    lists: pd.DataFrame
    chosen: dict[UserId, ItemId]
    histories: dict[UserId, list[ItemId]]

    @classmethod
    def of(cls, data: Dataset, draw: int, users: int = TEST_USERS) -> "FirstDay":
        """Draws test users, half of all at most, and their lists."""
        rng = np.random.default_rng([draw, 11])
        interactions = data.interactions if data.has_order else in_sequence(data.interactions, draw)
        histories = {user: part[ITEM].tolist() for user, part in interactions.groupby(USER, sort=False)}
        long_enough = [user for user, items in histories.items() if len(items) > LONGEST_SUPPORT]
        most = min(users, len(long_enough) // 2)
        drawn = [long_enough[row] for row in rng.permutation(len(long_enough))[:most]]
        held = set(drawn)
        others = [user for user in histories if user not in held]
        order = [others[row] for row in rng.permutation(len(others))]
        lists, chosen = lists_of({user: histories[user] for user in drawn}, interactions, rng)
        return cls(
            data=data,
            order=order,
            lists=lists,
            chosen=chosen,
            histories={user: histories[user][-LONGEST_SUPPORT - 1 : -1] for user in drawn},
        )

    def seen(self, n: int) -> Dataset:
        """What is known after n users: their interactions, and the items."""
        mine = self.data.interactions[self.data.interactions[USER].isin(set(self.order[:n]))]
        return Dataset(interactions=mine.reset_index(drop=True), items=self.data.items, domain=self.data.domain)

    def windows(self, n: int, windows: int = 5, seed: int = 0) -> list[CandidateLists]:
        """What n users chose last, and before that, from lists that are made like those of the test users."""
        data = self.seen(n)
        rng = np.random.default_rng([seed, 12])

        def fold(known: pd.DataFrame) -> CandidateLists:
            count = known.groupby(USER, sort=False)[ITEM].transform("size")
            is_last = (known.groupby(USER, sort=False).cumcount(ascending=False) == 0) & (count > 1)
            before, held_out = known[~is_last].reset_index(drop=True), known[is_last]
            groups = known[known[USER].isin(set(held_out[USER]))].groupby(USER, sort=False)[ITEM]
            lists, _ = lists_of({user: items.tolist() for user, items in groups}, self.data.interactions, rng)
            return window_of(data, before, held_out, lists, ALSGenerator().fit(before))

        return rolling_origin(
            lambda: fold(data.interactions),
            lambda newer: fold(newer.known),
            lambda window: int(window.covered.sum()),
            windows,
        )


def lists_of(
    histories: dict[UserId, list[ItemId]], interactions: pd.DataFrame, rng: np.random.Generator
) -> tuple[pd.DataFrame, dict[UserId, ItemId]]:
    """The last item of each history among `LENGTH - 1` others, drawn by popularity without replacement, shuffled.

    Returns:
        A validated candidates table, and user -> the last item.
    """
    counts = interactions[ITEM].value_counts(sort=False)
    ids, log_p = counts.index.to_numpy(), np.log(counts.to_numpy(dtype=np.float64))
    rows, chosen = [], {}
    for user, items in histories.items():
        keys = log_p + rng.gumbel(size=len(ids))  # the largest keys are a draw without replacement
        keys[np.isin(ids, items)] = -np.inf
        drawn = ids[np.argpartition(-keys, LENGTH - 1)[: LENGTH - 1]].tolist()
        listed = [*drawn, items[-1]]
        rows += [(user, listed[at], rank) for rank, at in enumerate(rng.permutation(LENGTH).tolist(), 1)]
        chosen[user] = items[-1]
    frame = pd.DataFrame(rows, columns=[USER, ITEM, RANK])
    return validate_candidates(frame), chosen
