"""The deletion test of `reranker.explain` for anything that is evaluated."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from reranker.data.schema import USER
from reranker.evaluation.base import System
from reranker.explain import DELETED, HISTORY_ITEMS, DeletionTest
from reranker.explain.deletion import falls_of_first, named_and_others, summarised
from reranker.explain.history import centred
from reranker.pipeline.lists import FoldLists
from reranker.types import UserId


def without_positions(lists: FoldLists, gone: Mapping[UserId, set[int]]) -> FoldLists:
    """The same lists as if some items had never been in users' histories; statistics of the items stay.

    Args:
        lists: of a fold.
        gone: user -> positions in the history, 0 is the oldest.
    """
    history = lists.fold.history
    position = history.groupby(USER, sort=False).cumcount()
    none: set[int] = set()
    kept = [at not in gone.get(user, none) for user, at in zip(history[USER], position, strict=True)]
    statistics = lists.statistics
    shorter = {
        user: np.delete(statistics.histories[user], sorted(positions))
        for user, positions in gone.items()
        if user in statistics.histories
    }
    changed = replace(lists, fold=replace(lists.fold, history=history[kept].reset_index(drop=True)))
    vars(changed)["statistics"] = replace(statistics, histories={**statistics.histories, **shorter})
    return changed


def deletion_of(
    system: System, lists: FoldLists, deleted: int = DELETED, most: int = HISTORY_ITEMS, seed: int = 0
) -> DeletionTest | None:
    """The deletion test of a fitted system on every user's list; None where no history is long enough.

    All users are changed at once: the system scores the lists `most + 3` times.
    """
    lengths = {user: len(rows) for user, rows in lists.statistics.histories.items()}
    listed = np.unique(lists.list_index)
    users = {lists.fold.users[number]: np.flatnonzero(lists.list_index == number) for number in listed}
    asked = {user: rows for user, rows in users.items() if min(lengths.get(user, 0), most) >= 2 * deleted}
    if not asked:
        return None
    whole = system.score(lists)
    newest = max(min(lengths[user], most) for user in asked)
    without: list[NDArray[np.float64]] = []
    for back in range(1, newest + 1):
        gone = {user: {lengths[user] - back} for user in asked if lengths[user] >= back}
        without.append(system.score(without_positions(lists, gone)))
    rng = np.random.default_rng(seed)
    chosen = {}
    for user, rows in asked.items():
        positions = [lengths[user] - back for back in range(1, min(lengths[user], most) + 1)]
        first = int(np.argmax(whole[rows]))
        before = centred(whole[rows])[first]
        effects = np.array([before - centred(without[back][rows])[first] for back in range(len(positions))])
        chosen[user] = named_and_others(positions, effects, deleted, rng)
    after = [
        system.score(without_positions(lists, {user: pair[side] for user, pair in chosen.items()})) for side in (0, 1)
    ]
    falls = [falls_of_first(whole[rows], np.stack([one[rows] for one in after])) for rows in asked.values()]
    return summarised(falls, len(users) - len(asked), deleted, seed)
