"""From jobs to answers: what the engine's thread does."""

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.item_lists import ItemLists
from reranker.data.schema import ITEM, RANK, SCORE, USER
from reranker.engines.encoder import ENCODER, LLM
from reranker.engines.lexical import LEXICAL
from reranker.errors import RerankerError
from reranker.explain import HISTORY_ITEMS, Language
from reranker.fusion import Order
from reranker.pipeline.text_ranking import TextList, TextRanking
from reranker.rules import Rules, RulesReport, apply_rules
from reranker.scoring.relevance import MAX_TOKENS_PER_DOC
from reranker.serve.domains import Domain
from reranker.types import ItemId, UserState
from reranker.utils.team_draft import INTERLEAVED

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemList:
    """Items of the catalogue to rank.

    Attributes:
        items: in the order of the candidate generator.
        first_stage_scores: the candidate generator's score of each; None goes by the order.
        user: as the bundle knows the user; None for a new user.
        state: what the store keeps of the user.
        history: items chosen before, oldest first, in place of what is known of the user.
        order: to serve whatever the guard decided.
        query: what the user asks for; "" for nothing.
        explained: how many of the best are explained.
        language: of the sentences.
        rules: applied after scoring.
        features: column of candidates -> value for each item.
    """

    items: Sequence[ItemId]
    first_stage_scores: Sequence[float] | None
    user: str | int | None = None
    state: UserState | None = None
    history: Sequence[ItemId] | None = None
    order: Order | None = None
    query: str = ""
    explained: int = 0
    language: Language = "en"
    rules: Rules | None = None
    features: Mapping[str, Sequence[object]] = field(default_factory=dict)

    @cached_property
    def first_stage_order(self) -> list[int]:
        """(n,) places in the request, best first."""
        return first_stage_order(self.first_stage_scores, len(self.items))

    def chosen(self, domain: Domain) -> Sequence[ItemId]:
        """The items to go by, oldest first."""
        if self.history is not None:
            return self.history
        return () if self.user is None else domain.history(self.user, self.state)

    def disliked(self, domain: Domain) -> Sequence[ItemId]:
        """What the user dislikes; nothing beside a history that came with the request."""
        return () if self.user is None or self.history is not None else domain.disliked(self.user, self.state)


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """An answer.

    Attributes:
        order: positions in the list that came in, best first.
        scores: log-odds of each, in that order; reciprocal ranks of the first-stage order and of interleaved ones.
        served: which order this is.
        guard: which one the guard decided on; None for texts.
        unknown_items: items that are not in the catalogue.
        prompt_tokens: that the model read for it; 0 where the guard serves an order without the model.
        explanations: of the best, in that order; empty where none was asked for.
        relevances: of each, in that order, between 0 and 1; None where they follow from the scores.
        texts: what `meta` says of texts and queries: what they were scored by, and what was not read of them.
        is_for_query: relevance to a query was added to the served scores of items.
        rules: what rules did; None where there are none. `order` is without what they exclude.
        unread_fields: of documents; None where the templates tell.
    """

    order: tuple[int, ...]
    scores: tuple[float, ...]
    served: str
    guard: str | None = None
    unknown_items: int = 0
    prompt_tokens: int = 0
    explanations: tuple[dict[str, Any], ...] = ()
    relevances: tuple[float, ...] | None = None
    texts: Mapping[str, object] = field(default_factory=dict)
    is_for_query: bool = False
    rules: RulesReport | None = None
    unread_fields: tuple[str, ...] | None = None

    def shares(self) -> tuple[float, ...]:
        """Scores between 0 and 1: the chance of each to be relevant to the query, without one that of each to be the
        one chosen, or the reciprocal ranks."""
        if self.relevances is not None:
            return self.relevances
        if self.served == INTERLEAVED or (self.served == "first_stage" and not self.is_for_query):
            return tuple(1.0 / (place + 1) for place in range(len(self.scores)))
        best = max(self.scores, default=0.0)
        odds = [math.exp(score - best) for score in self.scores]  # numpy takes longer for a list of this length
        total = math.fsum(odds)
        return tuple(one / total for one in odds)


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A list to rank in a domain."""

    domain: Domain
    ranks: TextList | ItemList


LONGEST_TEXT = 400_000
"""Characters of one document or history item: cleaning and counting the words of a text cannot be cut into slices."""

_WORDS = 16  # times as fast as the model are the words of a text looked at, at least
_CHARACTERS = 3  # of a token, at least, in most texts
_MARKS = 8  # tokens around an item


def tokens_of(job: Job) -> int:
    """Tokens that the model will read for a job, about and at most: each text is cut to its budget.

    Items of a catalogue whose states are kept count as one token each.
    """
    config = job.domain.reranker.llm_scorer.config
    prompt = config.prompt
    longest = prompt.title_tokens + prompt.category_tokens + prompt.description_tokens + _MARKS
    if isinstance(job.ranks, ItemList):
        readings = 2 + HISTORY_ITEMS if job.ranks.explained else 1
        asked = min(len(job.ranks.query) // _CHARACTERS, prompt.query_tokens) + longest if job.ranks.query else 0
        return len(job.ranks.items) * (readings * (1 if config.compares_states else longest) + asked)
    texts = job.ranks
    history = min(sum(_tokens(item) for item in texts.history), prompt.history_tokens)
    query = min(len(texts.question) // _CHARACTERS + 1, prompt.query_tokens)
    if not texts.question:
        return history + sum(min(_tokens(document), longest) for document in texts.documents)
    most = texts.max_tokens_per_doc or MAX_TOKENS_PER_DOC  # each document has a prompt of its own, the query behind it
    behind = min(len(texts.documents) * longest, sum(map(_tokens, texts.documents))) if history else 0
    lengths = [_tokens(document) for document in texts.documents]
    return history + behind + sum(min(length, most) + query for length in lengths) + sum(lengths) // _WORDS


def too_long(texts: TextList) -> str:
    """Names the first text of more than `LONGEST_TEXT` characters, as "documents.3"; "" where there is none."""
    for name, items in (("documents", texts.documents), ("history", texts.history)):
        for number, item in enumerate(items):
            if _length(item) > LONGEST_TEXT:
                return f"{name}.{number}"
    return ""


def _tokens(item: object) -> int:
    return _length(item) // _CHARACTERS + _MARKS


def _length(item: object) -> int:
    """Characters."""
    values = item.values() if isinstance(item, Mapping) else (item,)
    return sum(len(value if isinstance(value, str) else str(value)) for value in values)


def answer(jobs: Sequence[Job]) -> list[Ranked | Exception]:
    """Ranks all jobs with as few calls of the engine as there are kinds, orders and domains; one that fails takes no
    other with it."""
    answers: dict[int, Ranked | Exception] = {}
    together = defaultdict(list)
    for number, job in enumerate(jobs):
        order = job.ranks.order if isinstance(job.ranks, ItemList) else None
        together[job.domain, _items if isinstance(job.ranks, ItemList) else _texts, order].append(number)
    for (domain, rank, _), numbers in together.items():
        answers.update(zip(numbers, _each(domain, rank, [jobs[at].ranks for at in numbers]), strict=True))
    return [answers[number] for number in range(len(jobs))]


def _each(domain: Domain, rank: Any, lists: Sequence[TextList | ItemList]) -> list[Ranked | Exception]:
    try:
        ranked: list[Ranked | Exception] = rank(domain, lists)
    except Exception as error:  # whatever it is: the others' answers do not depend on it
        if len(lists) > 1:
            return [_each(domain, rank, [one])[0] for one in lists]
        if not isinstance(error, RerankerError):
            logger.error("a list could not be ranked: %s", type(error).__name__)
        return [error]
    return ranked


def first_stage_order(scores: Sequence[float] | None, n: int) -> list[int]:
    """(n,) places in the request, best first by the scores, ties as they came; without scores 0 to n - 1."""
    if scores is None:
        return list(range(n))
    best_first: list[int] = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable").tolist()
    return best_first


def first_stage_ranks(scores: Sequence[float] | None, n: int) -> NDArray[np.int64]:
    """(n,) ranks from 1 in the request's order."""
    ranks = np.empty(n, dtype=np.int64)
    ranks[first_stage_order(scores, n)] = np.arange(1, n + 1)
    return ranks


def _texts(domain: Domain, lists: Sequence[TextList]) -> list[Ranked]:
    return [
        Ranked(
            order=tuple(one.index for one in ranked.documents),
            scores=tuple(one.score for one in ranked.documents),
            relevances=tuple(one.relevance for one in ranked.documents),
            served=_reader(ranked),
            prompt_tokens=ranked.prompt_tokens,
            texts=_of_texts(ranked),
            unread_fields=ranked.fields_not_read if ranked.is_calibrated else None,
        )
        for ranked in domain.reranker.rank_texts(lists)
    ]


def _reader(ranked: TextRanking) -> str:
    """What read the texts; words alone where it was BM25."""
    return next((name for name in ranked.scored_by if name in (LLM, ENCODER)), LEXICAL)


def _of_texts(ranked: TextRanking) -> dict[str, object]:
    """What `meta` says."""
    said: dict[str, object] = {"scored_by": list(ranked.scored_by), "calibrated": ranked.is_calibrated}
    if ranked.cut_documents:
        said["cut_documents"] = list(ranked.cut_documents)
    if ranked.alike_documents:
        said["alike_documents"] = list(ranked.alike_documents)
    if ranked.is_query_cut:
        said["query_cut"] = True
    return said


def lists_of(requests: Sequence[ItemList], columns: Sequence[str] = ()) -> ItemLists:
    """What all requests want ranked, each list by its first stage and named by its number, so that the same user may
    ask twice at once.

    Args:
        columns: of candidates, that the ranker goes by.
    """
    places = [(one, one.first_stage_order) for one in requests]
    return ItemLists(
        users=range(len(requests)),
        list_index=np.repeat(np.arange(len(requests)), [len(one.items) for one in requests]),
        items=[one.items[at] for one, order in places for at in order],
        ranks=np.concatenate([np.arange(1, len(one.items) + 1) for one in requests]),
        scores=np.concatenate([_first_stage_scores(one)[order] for one, order in places]),
        further={
            name: pd.Series([one.features[name][at] for one, order in places for at in order], dtype=object)
            for name in columns
        },
    )


def _items(domain: Domain, requests: Sequence[ItemList]) -> list[Ranked]:
    """Ranks lists that want the same order in one call."""
    reranker, numbered = domain.reranker, list(enumerate(requests))
    ranker = reranker.ranker
    ranked = ranker.rank(
        lists_of(requests, reranker.candidate_columns),
        ranker.data.statistics.histories_with(
            {number: one.chosen(domain) for number, one in numbered},
            {number: one.disliked(domain) for number, one in numbered},
        ),
        {number: one.state for number, one in numbered if one.state is not None},
        {number: _identity(one) for number, one in numbered},
        order=requests[0].order,
        queries={number: one.query for number, one in numbered if one.query},
    )
    has_rules = any(one.rules is not None for one in requests)
    tables = dict(iter(ranked.to_frame().groupby(USER, sort=False))) if has_rules else {}
    results = []
    reported = zip(ranked.best_first(), ranked.orders, ranked.guard, ranked.prompt_tokens.tolist(), strict=True)
    for (number, one), ((places, scored), served, guard, tokens) in zip(numbered, reported, strict=True):
        order, scores, report = [one.first_stage_order[place] for place in places.tolist()], scored.tolist(), None
        if one.rules is not None:
            ruled = apply_rules(
                tables[number],
                one.rules,
                reranker.item_columns,
                history=partial(_chosen_by, one.chosen(domain)),
            )
            place = {item: index for index, item in enumerate(one.items)}
            order, report = [place[item] for item in ruled.ranked[ITEM]], ruled.report
            scores = ruled.ranked[SCORE].tolist()
        results.append(
            Ranked(
                order=tuple(order),
                scores=tuple(scores),
                served=served,
                guard=guard,
                unknown_items=sum(item not in domain.items for item in one.items),
                prompt_tokens=tokens,
                explanations=_explained(domain, one, [one.items[at] for at in order]),
                rules=report,
                texts={"query_judged": reranker.judged_queries} if one.query else {},
                is_for_query=bool(one.query) and reranker.counts_queries,
            )
        )
    return results


def _chosen_by(items: Sequence[ItemId], user: object) -> Sequence[ItemId]:
    """The one user's history, whoever is asked for."""
    return items


def _identity(one: ItemList) -> str | int:
    """The user whose own columns count; of a new one, an id that no request can name and no table has."""
    return "\0" if one.user is None else one.user


def _explained(domain: Domain, one: ItemList, shown: Sequence[ItemId]) -> tuple[dict[str, Any], ...]:
    """Of the first that are shown: without rules, the best."""
    if not one.explained:
        return ()
    table = pd.DataFrame({ITEM: pd.Series(list(one.items), dtype=object), SCORE: _first_stage_scores(one)})
    for name in domain.reranker.candidate_columns:
        table[name] = pd.Series(list(one.features[name]), dtype=object)
    found = domain.reranker.explain(
        _identity(one),
        table.assign(**{RANK: first_stage_ranks(one.first_stage_scores, len(table))}),
        one.explained if one.rules is None else None,
        history=one.chosen(domain),
        disliked=one.disliked(domain),
        order=one.order,
        state=one.state,
    )
    explained = {record["item_id"]: record for record in found.record(one.language)["items"]}
    return tuple(explained[item] for item in shown[: one.explained])


def _first_stage_scores(one: ItemList) -> NDArray[np.float64]:
    """Those given, else reciprocal ranks."""
    if one.first_stage_scores is None:
        return 1.0 / np.arange(1, len(one.items) + 1)
    return np.asarray(one.first_stage_scores, dtype=np.float64)
