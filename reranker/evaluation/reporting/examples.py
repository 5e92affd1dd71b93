"""Lists before and after, with titles: what a gain looks like for somebody."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reranker.data.schema import ITEM, RANK, TITLE, USER
from reranker.evaluation.metrics import ranks
from reranker.evaluation.runner import Run
from reranker.types import UserId

SHOWN = 5
HISTORY = 5


@dataclass(frozen=True, kw_only=True)
class ExampleList:
    """One user's list in both orders.

    Attributes:
        domain, user: whose it is.
        why: why this one is shown.
        history: newest titles, oldest first.
        target: title of what the user chose.
        before, after: place of the target, from 1.
        titles_before, titles_after: the first places; True beside the target.
    """

    domain: str
    user: UserId
    why: str
    history: list[str]
    target: str
    before: int
    after: int
    titles_before: list[tuple[str, bool]]
    titles_after: list[tuple[str, bool]]


def example_lists(run: Run) -> list[ExampleList]:
    """The median of the lists whose target moved up, of those where it moved down, and the largest fall.

    Chosen by what moved, not by looks: the same run shows the same lists.
    """
    lists = run.lists
    table = lists.candidates.assign(after=ranks(lists, run.scores), hit=lists.relevant)
    hits = table[table["hit"]].drop_duplicates(USER)
    hits = hits.assign(moved=hits[RANK] - hits["after"])
    hits = hits.iloc[np.lexsort((np.arange(len(hits)), -hits["moved"]))]
    up, down = hits[hits["moved"] > 0], hits[hits["moved"] < 0]
    wanted = [
        (f"the middle one of {len(up)} lists whose choice moved up", up.iloc[len(up) // 2 : len(up) // 2 + 1]),
        (f"the middle one of {len(down)} whose choice moved down", down.iloc[len(down) // 2 : len(down) // 2 + 1]),
        ("the one whose choice fell furthest", down.tail(1)),
    ]
    found, seen = [], set()
    for why, rows in wanted:
        for user in rows[USER]:
            if user not in seen:
                seen.add(user)
                found.append(_example(run, table[table[USER] == user], user, why))
    return found


def _example(run: Run, mine: pd.DataFrame, user: UserId, why: str) -> ExampleList:
    fold = run.lists.fold
    titles = dict(zip(fold.items[ITEM], fold.items[TITLE].astype(str), strict=True))

    def first(order: str) -> Iterator[tuple[str, bool]]:
        for item, hit in mine.sort_values(order, kind="stable")[[ITEM, "hit"]].head(SHOWN).itertuples(index=False):
            yield titles.get(item, str(item)), bool(hit)

    hit = mine[mine["hit"]].iloc[0]
    history = fold.history[fold.history[USER] == user][ITEM].tolist()[-HISTORY:]
    return ExampleList(
        domain=fold.domain,
        user=user,
        why=why,
        history=[titles.get(item, str(item)) for item in history],
        target=titles.get(hit[ITEM], str(hit[ITEM])),
        before=int(hit[RANK]),
        after=int(hit["after"]),
        titles_before=list(first(RANK)),
        titles_after=list(first("after")),
    )
