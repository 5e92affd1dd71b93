"""Lists of a catalogue's items under a query: relevance of the items' texts beside what was served without one."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from reranker.data.catalog import Catalog
from reranker.data.schema import CATEGORY, DESCRIPTION, ITEM, RANK, TITLE, USER
from reranker.pipeline.llm_scorer import LLMScorer
from reranker.pipeline.results import ServedScores
from reranker.pipeline.text_ranking import heading_and_body
from reranker.scoring.relevance import QueryDocuments, QueryRelevance
from reranker.types import UserId

_FIELDS = (TITLE, CATEGORY, DESCRIPTION)


def with_queries(
    scorer: LLMScorer, catalog: Catalog, lists: pd.DataFrame, served: ServedScores, queries: Mapping[UserId, str]
) -> ServedScores:
    """Served scores with the log-odds of relevance to each list's query added.

    A fixed combination that no log was asked about, since logs of choices under queries are seldom there: what is known
    of the user and what the query says count as independent evidence of the choice, P(item) ∝ exp(score) · odds of
    relevance. A first-stage order has no log-odds; by Zipf's law the chance of a rank is taken as 1 / rank.

    Args:
        scorer: has the engine that reads.
        catalog: the items' texts; an unknown item has none and counts as the least relevant of its list.
        lists: a validated candidates table.
        served: its scores.
        queries: user id -> query; lists of others stay as they are, and so do those with a blank query.
    """
    number_of = {user: number for number, user in enumerate(dict.fromkeys(lists[USER]))}
    asked = [user for user in number_of if queries.get(user, "").strip()]
    if not asked:
        return served
    rows = lists.groupby(USER, sort=False).indices
    items = {user: lists[ITEM].iloc[rows[user]].tolist() for user in asked}
    found = QueryRelevance(scorer.query_engine, scorer.config.prompt.query_tokens).read(
        [
            QueryDocuments(
                query=queries[user],
                documents=[
                    heading_and_body(item, _FIELDS) if known in catalog else ("", "")
                    for known, item in zip(items[user], catalog.items(items[user]), strict=True)
                ],
            )
            for user in asked
        ]
    )
    scores, tokens = served.scores.copy(), served.prompt_tokens.copy()
    for user, reading in zip(asked, found, strict=True):
        number, at = number_of[user], rows[user]
        if served.orders[number] == "first_stage":
            scores[at] = -np.log(lists[RANK].to_numpy()[at])
        unknown = np.array([known not in catalog for known in items[user]])
        scores[at] += np.where(unknown, reading.log_odds.min(), reading.log_odds)
        tokens[number] += reading.prompt_tokens
    return replace(served, scores=scores, prompt_tokens=tokens)
