"""From jobs to answers: what the engine's thread does."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.errors import RerankerError
from reranker.pipeline import Reranker
from reranker.ranking import TextList
from reranker.tables import ITEM, RANK, SCORE, USER
from reranker.types import ItemId, UserId, UserState


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemList:
    """Items of the catalogue to rank.

    Attributes:
        items: in the order of the recall stage.
        recall_scores: the recall stage's score of each; None goes by the order.
        history: the user's items, oldest first.
        state: the user's adapted context; None for a stranger.
    """

    items: Sequence[ItemId]
    recall_scores: Sequence[float] | None
    history: Sequence[ItemId]
    state: UserState | None = None


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """An answer.

    Attributes:
        order: positions in the list that came in, best first.
        scores: log-odds of each, in that order; reciprocal ranks where the recall order is served.
        served: which order this is.
        unknown_items: items that are not in the catalogue.
    """

    order: tuple[int, ...]
    scores: tuple[float, ...]
    served: str
    unknown_items: int = 0

    def shares(self) -> tuple[float, ...]:
        """Scores between 0 and 1: the chance of each to be the one chosen, or the reciprocal ranks."""
        if self.served == "recall":
            return tuple(1.0 / (place + 1) for place in range(len(self.scores)))
        odds = np.exp(np.asarray(self.scores) - max(self.scores, default=0.0))
        return tuple((odds / odds.sum()).tolist())


def answer(
    reranker: Reranker, jobs: Sequence[TextList | ItemList], known: Container[ItemId]
) -> list[Ranked | Exception]:
    """Ranks all jobs with as few calls of the engine as there are kinds; one that fails takes no other with it.

    Args:
        known: the items of the catalogue.
    """
    answers: dict[int, Ranked | Exception] = {}
    texts = [(number, job) for number, job in enumerate(jobs) if isinstance(job, TextList)]
    items = [(number, job) for number, job in enumerate(jobs) if isinstance(job, ItemList)]
    try:
        answers.update(zip((number for number, _ in texts), _texts(reranker, [job for _, job in texts]), strict=True))
        answers.update(
            zip((number for number, _ in items), _items(reranker, [job for _, job in items], known), strict=True)
        )
    except RerankerError as error:
        if len(jobs) == 1:
            return [error]
        return [answer(reranker, [job], known)[0] for job in jobs]
    return [answers[number] for number in range(len(jobs))]


def recall_ranks(scores: Sequence[float] | None, n: int) -> NDArray[np.int64]:
    """(n,) ranks from 1 in the request's order: by the recall scores, ties as they came; without scores 1 to n."""
    ranks = np.arange(1, n + 1)
    if scores is not None:
        ranks[np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")] = np.arange(1, n + 1)
    return ranks


def _texts(reranker: Reranker, jobs: Sequence[TextList]) -> list[Ranked]:
    return [
        Ranked(order=tuple(one.index for one in ranked), scores=tuple(one.score for one in ranked), served="llm")
        for ranked in (reranker.rank_many(jobs) if jobs else [])
    ]


def _items(reranker: Reranker, jobs: Sequence[ItemList], known: Container[ItemId]) -> list[Ranked]:
    """One table for all; users are named by their job, so that the same user may ask twice at once."""
    if not jobs:
        return []
    names = [("job", number) for number in range(len(jobs))]
    table = pd.concat([_table(name, job) for name, job in zip(names, jobs, strict=True)], ignore_index=True)
    rows = [(name, item) for name, job in zip(names, jobs, strict=True) for item in job.history]
    histories = pd.DataFrame({USER: _objects([row[0] for row in rows]), ITEM: _objects([row[1] for row in rows])})
    states: dict[UserId, UserState] = {
        name: job.state for name, job in zip(names, jobs, strict=True) if job.state is not None
    }
    ranked = reranker.rerank(table, interactions=histories if rows else None, states=states)
    served = ranked.attrs["report"]["served"]
    parts = [part for _, part in ranked.groupby(USER, sort=False)]  # users stay in the order they came in
    results = []
    for job, part in zip(jobs, parts, strict=True):
        place = {item: index for index, item in enumerate(job.items)}
        results.append(
            Ranked(
                order=tuple(place[item] for item in part[ITEM]),
                scores=tuple(part[SCORE].tolist()),
                served=served,
                unknown_items=sum(item not in known for item in job.items),
            )
        )
    return results


def _table(name: tuple[str, int], job: ItemList) -> pd.DataFrame:
    columns = {USER: _objects([name] * len(job.items)), ITEM: _objects(job.items)}
    columns[RANK] = recall_ranks(job.recall_scores, len(job.items))
    if job.recall_scores is not None:
        columns[SCORE] = np.asarray(job.recall_scores, dtype=np.float64)
    return pd.DataFrame(columns)


def _objects(values: Sequence[object]) -> Any:
    return pd.Series(list(values), dtype=object)
