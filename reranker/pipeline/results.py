"""From scores to a ranking table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.catalog import LONGEST_HISTORY, Catalog, Item
from reranker.data.schema import (
    ITEM,
    RANK,
    RANKING_COLUMNS,
    RECALL_RANK,
    RECALL_SCORE,
    SCORE,
    TITLE,
    USER,
    refuse_single,
)
from reranker.errors import DataError
from reranker.fusion import Order
from reranker.pipeline.llm_scorer import LLMScorer
from reranker.scoring import ScoringList
from reranker.types import IntArray, UserState


@dataclass(frozen=True, kw_only=True)
class RankedDocument:
    """One document of `Reranker.rank`.

    Attributes:
        index: position of the document in the list that came in.
        document: its text.
        score: log-odds against the other documents; only differences mean anything.
        rank: 1 is best.
    """

    index: int
    document: str
    score: float
    rank: int


@dataclass(frozen=True, kw_only=True, eq=False)
class TextList:
    """Texts to rank, without ids.

    Attributes:
        query: what is asked for, or "recently watched: ...".
        documents: titles, or items with `title` and further fields.
        history: titles or items chosen before, oldest first.
        state: the user's adapted context; without it one starts from the text of the history.
    """

    query: str
    documents: Sequence[str | Item]
    history: Sequence[str | Item] = ()
    state: UserState | None = None

    def scoring_list(self, reader: LLMScorer) -> ScoringList:
        """What the read-out gets, with the soft tokens that the reader has for domain and user.

        Raises:
            DataError: a document or history item without text, or one string instead of several.
        """
        refuse_single(self.documents, "texts", "documents")
        refuse_single(self.history, "texts", "history")
        history = [_as_item(one, "history item", number) for number, one in enumerate(self.history)][-LONGEST_HISTORY:]
        return ScoringList(
            history=history,
            candidates=[_as_item(one, "document", number) for number, one in enumerate(self.documents)],
            soft_prompt=reader.soft_prompt(),
            user_tokens=reader.user_tokens(history, self.state),
            query=self.query,
        )

    def ranked(self, scores: NDArray[np.float64]) -> list[RankedDocument]:
        """Best first by (n_documents,) scores; ties keep the order that came in."""
        texts = [str(_as_item(one, "document", number)[TITLE]) for number, one in enumerate(self.documents)]
        return [
            RankedDocument(index=int(index), document=texts[index], score=float(scores[index]), rank=place + 1)
            for place, index in enumerate(np.argsort(-scores, kind="stable"))
        ]


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
    """Best first within each user; ties keep the first-stage order. Always a permutation of `lists`."""
    groups = lists.groupby(USER, sort=False).ngroup().to_numpy()
    order = np.lexsort((lists[RANK].to_numpy(), -scores, groups))
    if not np.array_equal(np.sort(order), np.arange(len(lists))):
        raise AssertionError(f"{len(order)} ranked rows are no permutation of {len(lists)} candidates")
    ranked = lists.iloc[order].reset_index(drop=True)
    ranked = ranked.rename(columns={SCORE: RECALL_SCORE, RANK: RECALL_RANK})
    ranked[SCORE] = scores[order]
    ranked[RANK] = ranked.groupby(USER, sort=False).cumcount() + 1
    return pd.DataFrame(ranked[RANKING_COLUMNS])


def _as_item(value: str | Mapping[str, object], what: str, number: int) -> Mapping[str, object]:
    item = {TITLE: value} if isinstance(value, str) else value
    if not isinstance(item, Mapping) or not str(item.get(TITLE) or "").strip():
        raise DataError(f"{what} {number} has no text: give a string, or a mapping with a {TITLE!r}")
    return item
