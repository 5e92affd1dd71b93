"""From scores to a ranking table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.catalog import Catalog
from reranker.data.schema import (
    ITEM,
    LOG_ODDS,
    OF_FIRST_STAGE,
    RANK,
    RANKING_COLUMNS,
    RECALL_RANK,
    RECALL_SCORE,
    SCORE,
    USER,
)
from reranker.fusion import Order
from reranker.types import IntArray


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedScores:
    """Scores of a table of lists, each by the order that its user is served.

    Attributes:
        order: what the guard chose, or what was asked for.
        orders: what each list is served: `order`, or the first-stage order that the guard keeps.
        guard: the same by the guard alone, whatever was asked for.
        n_known: (n_users,) interactions known of each user.
        scores: (rows,)
        prompt_tokens: (n_users,) that the model read.
    """

    order: Order
    orders: list[Order]
    guard: list[Order]
    n_known: IntArray
    scores: NDArray[np.float64]
    prompt_tokens: IntArray


@dataclass(frozen=True, kw_only=True)
class RerankReport:
    """What a call of `rerank` met. In `ranked.attrs["report"]`, as a dict.

    Attributes:
        served: the order that the guard chose, or that was asked for.
        users, candidates: how many came in.
        users_kept: users who keep the first-stage order although `served` is another: the guard says so of users of
            whom as much is known.
        unknown_users: users without history here; they are ranked by what does not need one.
        unknown_items: candidate rows whose item is not in the item table; shown to the model as "(untitled)".
    """

    served: Order
    users: int
    candidates: int
    users_kept: int
    unknown_users: int
    unknown_items: int

    @classmethod
    def of(cls, lists: pd.DataFrame, served: ServedScores, catalog: Catalog) -> "RerankReport":
        """Counts a validated candidates table."""
        return cls(
            served=served.order,
            users=len(served.orders),
            candidates=len(lists),
            users_kept=sum(one != served.order for one in served.orders),
            unknown_users=int(np.sum(served.n_known == 0)),
            unknown_items=sum(item not in catalog for item in lists[ITEM]),
        )

    def summary(self) -> str:
        return (
            f"{self.unknown_users} of {self.users} users have no history and {self.unknown_items} of "
            f"{self.candidates} candidates are not in the item table"
        )


def first_stage_scores(lists: pd.DataFrame) -> NDArray[np.float64]:
    """The scores that came in; reciprocal ranks for a list whose scores contradict its ranks."""
    scores, ranks = lists[SCORE].to_numpy(dtype=np.float64), lists[RANK].to_numpy()
    users = pd.factorize(lists[USER])[0]
    rising = (np.diff(scores) > 0) & (np.diff(ranks) > 0) & (np.diff(users) == 0)
    return np.where(np.isin(users, users[1:][rising]), 1.0 / ranks, scores)


def ranking(lists: pd.DataFrame, scores: NDArray[np.float64]) -> pd.DataFrame:
    """Best first within each user; ties keep the first-stage order. Always a permutation of `lists`.

    All columns of a ranking but the last, `score_scales`.
    """
    groups = lists.groupby(USER, sort=False).ngroup().to_numpy()
    order = np.lexsort((lists[RANK].to_numpy(), -scores, groups))
    if not np.array_equal(np.sort(order), np.arange(len(lists))):
        raise AssertionError(f"{len(order)} ranked rows are no permutation of {len(lists)} candidates")
    ranked = lists.iloc[order].reset_index(drop=True)
    ranked = ranked.rename(columns={SCORE: RECALL_SCORE, RANK: RECALL_RANK})
    ranked[SCORE] = scores[order]
    ranked[RANK] = ranked.groupby(USER, sort=False).cumcount() + 1
    return pd.DataFrame(ranked[RANKING_COLUMNS[:-1]])


def score_scales(ranked: pd.DataFrame, orders: Sequence[Order]) -> NDArray[np.object_]:
    """(rows,) what the scores of a ranking are, by the order that each user is served, users as they stand there."""
    scales = np.array([OF_FIRST_STAGE if one == "first_stage" else LOG_ODDS for one in orders], dtype=object)
    return scales[pd.factorize(ranked[USER])[0]]
