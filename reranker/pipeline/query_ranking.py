"""Lists of a catalogue's items under a query: relevance of the items' texts beside what was served without one."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.config import READ_LISTS
from reranker.data.catalog import Catalog
from reranker.data.item_lists import ItemLists
from reranker.data.schema import CATEGORY, DESCRIPTION, ITEM, QUERY, TITLE, USER
from reranker.errors import ConfigError, DataError
from reranker.fusion import FusionModel
from reranker.fusion.choices import user_numbers
from reranker.fusion.query_verdict import FIXED_WEIGHT, QueryVerdict, judge_relevance
from reranker.pipeline.lists import CandidateLists
from reranker.pipeline.llm_scorer import LLMScorer
from reranker.pipeline.results import ServedScores
from reranker.pipeline.text_ranking import heading_and_body
from reranker.prompting.text import field_text
from reranker.scoring.relevance import QueryDocuments
from reranker.types import IntArray, ItemId, UserId

logger = logging.getLogger(__name__)

_FIELDS = (TITLE, CATEGORY, DESCRIPTION)
_FEWEST = 20
"""Users whose lists have a query and a choice below which no weight is learned."""


def queries_of(candidates: pd.DataFrame) -> dict[UserId, str]:
    """User -> what the column `query` of a candidates table says the user asks for; blank ones are left out.

    Raises:
        DataError: the rows of a user name two queries.
    """
    if QUERY not in candidates:
        return {}
    texts = candidates[QUERY].map(field_text).str.strip()
    pairs = pd.DataFrame({USER: candidates[USER], QUERY: texts})[texts.to_numpy() != ""].drop_duplicates()
    twice = pairs[pairs[USER].duplicated(keep=False)]
    if len(twice):
        user = twice[USER].iloc[0]
        asked = " and ".join(map(repr, twice[QUERY][twice[USER] == user].head(2)))
        raise DataError(
            f"table 'candidates', column {QUERY!r}: the list of user {user!r} has {asked}; a list has one query: rank "
            "the lists of each query in a call of its own"
        )
    return dict(zip(pairs[USER].tolist(), pairs[QUERY].tolist(), strict=True))


def asked_for(candidates: pd.DataFrame, queries: Mapping[UserId, str] | None) -> Mapping[UserId, str]:
    """The queries of a call: those that were given, or else those of the table.

    Raises:
        ConfigError: both hold some.
        DataError: the rows of a user name two queries.
    """
    of_table = queries_of(candidates)
    if queries and of_table:
        raise ConfigError(
            f"queries= was given, and the candidates have a column {QUERY!r}, too: drop one of them, so that it is "
            "plain which counts"
        )
    return queries or of_table


def with_queries(
    scorer: LLMScorer,
    catalog: Catalog,
    lists: ItemLists,
    served: ServedScores,
    queries: Mapping[UserId, str],
    verdict: QueryVerdict | None = None,
) -> ServedScores:
    """Served scores with the log-odds of relevance to each list's query added.

    The weight is the one that `fit` learned on lists with queries. Without such lists it is 1, a combination that no
    log was asked about: what is known of the user and what the query says count as independent evidence of the choice,
    P(item) ∝ exp(score) · odds of relevance. A first-stage order has no log-odds; by Zipf's law the chance of a rank is
    taken as 1 / rank.

    Args:
        scorer: has the engine that reads.
        catalog: the items' texts; an unknown item has none and counts as the least relevant of its list.
        lists: validated candidates.
        served: their scores.
        queries: user id -> query; lists of others stay as they are, and so do those with a blank query.
        verdict: what `fit` learned of queries; where they do not count, nothing is read.
    """
    asked = [number for number, user in enumerate(lists.users) if queries.get(user, "").strip()]
    weight = FIXED_WEIGHT if verdict is None else verdict.served_weight
    if not asked or not weight:
        return served
    items = [[lists.items[row] for row in lists.positions[number].tolist()] for number in asked]
    found = _relevance(scorer, catalog, items, [queries[lists.users[number]] for number in asked])
    scores, tokens = served.scores.copy(), served.prompt_tokens.copy()
    for number, (log_odds, n_tokens) in zip(asked, found, strict=True):
        at = lists.positions[number]
        if served.orders[number] == "first_stage":
            scores[at] = -np.log(lists.ranks[at])
        scores[at] += weight * log_odds
        tokens[number] += n_tokens
    return replace(served, scores=scores, prompt_tokens=tokens)


def judge_queries(
    windows: Sequence[CandidateLists],
    scorer: LLMScorer,
    catalog: Catalog,
    fusion_model: FusionModel,
    most: int | None = None,
    l2: float = 1.0,
    seed: int = 0,
) -> QueryVerdict | None:
    """What the queries of the windows' lists are worth beside the order that the guard serves, read by this scorer.

    Args:
        windows: whose candidates may have a column `query`.
        scorer: has the engine that reads.
        catalog: the items' texts.
        fusion_model: as `FusionModel.fit` leaves it, with its cross-fitted `scores`.
        most: lists that are read, at most, drawn at random; `READ_LISTS` by default.
        l2: ridge penalty.
        seed: of the draw, of cross-fitting and of the bootstrap.

    Returns:
        The verdict; None where no list has a query, or fewer than 20 users have one with a choice.

    Raises:
        DataError: the rows of a user name two queries.
    """
    found = [_Asked.of(*part) for part in zip(windows, _personal(windows, fusion_model), strict=True)]
    if not any(one.has_query for one in found):
        return None
    lists = [(one, number) for one in found for number in one.numbers.tolist()]
    most = most or READ_LISTS
    if len(lists) > most:
        drawn = np.random.default_rng(seed).choice(len(lists), most, replace=False)
        lists = [lists[place] for place in sorted(drawn.tolist())]
    users = user_numbers((one.window.domain, one.window.users[number]) for one, number in lists)
    if len(np.unique(users)) < _FEWEST:
        logger.warning(
            "queries: %d users have a list with a query and a choice, and it takes %d to learn what a query is worth: "
            "it counts with a fixed weight",
            len(np.unique(users)),
            _FEWEST,
        )
        return None
    rows = [one.rows_of[number] for one, number in lists]
    items = [one.window.candidates[ITEM].iloc[at].tolist() for (one, _), at in zip(lists, rows, strict=True)]
    queries = [one.queries[one.window.users[number]] for one, number in lists]
    read = _relevance(scorer, catalog, items, queries)
    return judge_relevance(
        np.concatenate([one.personal[at] for (one, _), at in zip(lists, rows, strict=True)]),
        np.concatenate([log_odds for log_odds, _ in read]),
        np.repeat(np.arange(len(rows)), list(map(len, rows))),
        np.concatenate([one.window.relevant[at] for (one, _), at in zip(lists, rows, strict=True)]),
        np.array([one.window.n_relevant[number] for one, number in lists], dtype=np.int64),
        users,
        l2,
        seed,
    )


class _Asked:
    """A window's lists with queries.

    Attributes:
        window: the lists.
        personal: (rows,) cross-fitted scores of the order that is served; NaN where the LLM read nothing.
        queries: user -> query.
        rows_of: number of a list -> its rows.
        numbers: of lists with a query, a choice and a score for each candidate.
        has_query: whether any list has a query.
    """

    def __init__(self, window: CandidateLists, personal: NDArray[np.float64], queries: dict[UserId, str]) -> None:
        self.window, self.personal, self.queries = window, personal, queries
        order = np.argsort(window.list_index, kind="stable")
        ends = np.cumsum(np.bincount(window.list_index, minlength=len(window.users)))[:-1]
        self.rows_of: list[IntArray] = [part.astype(np.int64) for part in np.split(order, ends)]
        unread = np.bincount(window.list_index, weights=np.isnan(personal), minlength=len(window.users)) > 0
        asks = np.array([user in queries for user in window.users], dtype=np.bool_)
        self.numbers: IntArray = np.flatnonzero(asks & window.covered & ~unread)
        self.has_query = bool(queries)

    @classmethod
    def of(cls, window: CandidateLists, personal: NDArray[np.float64]) -> "_Asked":
        return cls(window, personal, queries_of(window.candidates))


def _personal(windows: Sequence[CandidateLists], fusion_model: FusionModel) -> list[NDArray[np.float64]]:
    """For each window (rows,) cross-fitted scores of what the guard serves, minus log rank of a first-stage order."""
    guard, begin, result = fusion_model.guard, 0, []
    for window in windows:
        scores = -np.log(window.first_stage_rank.astype(np.float64))
        served = (guard.holds_for(window.n_known) & (guard.serve != "first_stage"))[window.list_index]
        if served.any():
            scores[served] = fusion_model.scores[guard.serve][begin : begin + len(scores)][served]
        result.append(scores)
        begin += len(scores)
    return result


def _relevance(
    scorer: LLMScorer, catalog: Catalog, items: Sequence[Sequence[ItemId]], queries: Sequence[str]
) -> list[tuple[NDArray[np.float64], int]]:
    """Of each list (n_items,) log-odds of relevance to its query, an unknown item like the least; and tokens read."""
    found = scorer.relevance.read(
        [
            QueryDocuments(
                query=query,
                documents=[
                    heading_and_body(item, _FIELDS) if known in catalog else ("", "")
                    for known, item in zip(listed, catalog.items(listed), strict=True)
                ],
            )
            for query, listed in zip(queries, items, strict=True)
        ]
    )
    result = []
    for listed, reading in zip(items, found, strict=True):
        unknown = np.array([known not in catalog for known in listed])
        result.append((np.where(unknown, reading.log_odds.min(), reading.log_odds), reading.prompt_tokens))
    return result
