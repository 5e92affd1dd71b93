"""From scores to a ranking table."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.catalog import Catalog
from reranker.fusion import Order
from reranker.tables import ITEM, RANK, RANKING_COLUMNS, RECALL_RANK, RECALL_SCORE, SCORE, USER
from reranker.types import IntArray, UserId


@dataclass(frozen=True, kw_only=True)
class RerankReport:
    """What a call of `rerank` met. In `ranked.attrs["report"]`, as a dict.

    Attributes:
        served: which order was served.
        users, candidates: how many came in.
        unknown_users: users without history here; they are ranked by what does not need one.
        unknown_items: candidate rows whose item is not in the item table; shown to the model as "(untitled)".
    """

    served: Order
    users: int
    candidates: int
    unknown_users: int
    unknown_items: int

    @classmethod
    def of(
        cls, lists: pd.DataFrame, served: Order, histories: Mapping[UserId, IntArray], catalog: Catalog
    ) -> "RerankReport":
        """Counts a validated candidates table."""
        users = lists[USER].unique().tolist()
        return cls(
            served=served,
            users=len(users),
            candidates=len(lists),
            unknown_users=sum(len(histories.get(user, ())) == 0 for user in users),
            unknown_items=sum(item not in catalog for item in lists[ITEM]),
        )

    def in_words(self) -> str:
        return (
            f"{self.unknown_users} of {self.users} users have no history and {self.unknown_items} of "
            f"{self.candidates} candidates are not in the item table"
        )


def recall_scores(lists: pd.DataFrame) -> NDArray[np.float64]:
    """The scores that came in where they follow the ranks, else reciprocal ranks."""
    scores = lists[SCORE].to_numpy(dtype=np.float64)
    ranks = lists[RANK].to_numpy()
    rising = (np.diff(scores) > 0) & (np.diff(ranks) > 0)
    return 1.0 / ranks if rising.any() else scores


def ranking(lists: pd.DataFrame, scores: NDArray[np.float64]) -> pd.DataFrame:
    """Best first within each user; ties keep the recall order. Always a permutation of `lists`."""
    groups = lists.groupby(USER, sort=False).ngroup().to_numpy()
    order = np.lexsort((lists[RANK].to_numpy(), -scores, groups))
    if not np.array_equal(np.sort(order), np.arange(len(lists))):
        raise AssertionError(f"{len(order)} ranked rows are no permutation of {len(lists)} candidates")
    ranked = lists.iloc[order].reset_index(drop=True)
    ranked = ranked.rename(columns={SCORE: RECALL_SCORE, RANK: RECALL_RANK})
    ranked[SCORE] = scores[order]
    ranked[RANK] = ranked.groupby(USER, sort=False).cumcount() + 1
    return pd.DataFrame(ranked[RANKING_COLUMNS])
