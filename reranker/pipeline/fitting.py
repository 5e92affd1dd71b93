"""One fit and one way to rank, for the Reranker, the ladder, the estimate, refreshes and the evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reranker.config import Ranker
from reranker.data.catalog import Catalog
from reranker.data.item_lists import Candidates, ItemLists
from reranker.errors import ConfigError
from reranker.fusion import Choices, FusionHead, FusionModel, Order, as_order
from reranker.fusion.new_items import NewItemPages
from reranker.pipeline.domain import DomainData
from reranker.pipeline.lists import CandidateLists
from reranker.pipeline.llm_scorer import LLMScorer
from reranker.pipeline.query_ranking import with_queries
from reranker.pipeline.results import OrderScores, RankingResult, ServedScores, first_stage_scores
from reranker.rules import Rules
from reranker.types import IntArray, UserId, UserState
from reranker.utils.progress import step

Components = NDArray[np.float64]
"""(n_candidates, n_components) that the LLM says of one list."""

ReadLists = Callable[[CandidateLists, IntArray], Sequence[Components]]
"""Lists of a window, and positions of some of them in `users`, ascending -> the components of each."""


def fit_ranker(
    windows: Sequence[CandidateLists],
    read: ReadLists,
    components: Mapping[str, str],
    *,
    most: int | None = None,
    l2: float = 1.0,
    seed: int = 0,
    past: FusionModel | None = None,
    ranker: Ranker = "linear",
    pages: CandidateLists | None = None,
    progress: bool | None = False,
) -> FusionModel:
    """Fits weights and guard on windows: the one fit of this package.

    Args:
        windows: newest first.
        read: gives what the LLM says of lists; asked once a window, for lists that hold a chosen item.
        components: name of each component -> what it says, in words.
        most: lists that the LLM reads, as `lists_to_read` has it.
        l2: ridge penalty.
        seed: of the draw, of cross-fitting and of the bootstrap.
        past: what was fitted before, which these windows update.
        ranker: as `RerankerConfig.ranker`.
        pages: of items that are new by pretence, as `new_item_pages` makes them; all of them are read.
        progress: show a line on stderr; None does on a terminal and in a notebook.

    Raises:
        DataError: no list holds a chosen item.
        BundleError: `past` cannot be updated.
    """
    choices = Choices.joined([window.choices for window in windows])
    if len({window.domain for window in windows}) > 1:  # users of two domains are never the same
        choices = replace(choices, users=[(window.domain, user) for window in windows for user in window.users])
    begins = np.cumsum([0, *(len(window.users) for window in windows[:-1])])
    found: dict[int, Components] = {}
    for window, begin, numbers in zip(windows, begins.tolist(), lists_to_read(windows, most, seed), strict=True):
        if len(numbers):
            found |= zip((begin + numbers).tolist(), read(window, numbers), strict=True)
    new = None
    if pages is not None and components:
        raw = np.concatenate(read(pages, np.arange(len(pages.users))))
        new = NewItemPages(choices=pages.choices, raw=raw)
    with step("weights and guard", progress):
        return FusionModel.fit(choices, found, dict(components), l2, seed, past, ranker, new)


def lists_to_read(windows: Sequence[CandidateLists], most: int | None, seed: int = 0) -> list[IntArray]:
    """For each window positions in `users` of lists that hold a chosen item, ascending: the others say nothing.

    Args:
        windows: of one or several domains.
        most: lists a domain, at most, drawn from all its windows alike; None for all.
        seed: of the draw.
    """
    covered = [np.flatnonzero(window.covered) for window in windows]
    for domain in dict.fromkeys(window.domain for window in windows):
        mine = [number for number, window in enumerate(windows) if window.domain == domain]
        ends = np.cumsum([len(covered[number]) for number in mine])
        if most is not None and ends[-1] > most:
            kept = np.zeros(ends[-1], dtype=np.bool_)
            kept[np.random.default_rng(seed).choice(ends[-1], most, replace=False)] = True
            for number, part in zip(mine, np.split(kept, ends[:-1]), strict=True):
                covered[number] = covered[number][part]
    return covered


def read_lists(
    scorer: LLMScorer, catalog: Catalog, window: CandidateLists, numbers: IntArray, progress: bool | None = False
) -> list[Components]:
    """Components of some lists of a window, at these positions in `users`, by a scorer that knows the window.

    Contexts start from the histories of the window, without gradient steps.
    """
    if not scorer.config.reads_texts:
        sizes = np.bincount(window.list_index, minlength=len(window.users))
        return [np.zeros((size, 0)) for size in sizes[numbers].tolist()]
    rows = window.candidates[np.isin(window.list_index, numbers)].reset_index(drop=True)
    return scorer.components(scorer.lists(rows, catalog, window.statistics.history, {}), progress)


def reads_with(scorer: LLMScorer, catalog: Catalog, progress: bool | None = False) -> ReadLists:
    """Lists as the scorer reads them, each window by projections of before its choices.

    Args:
        scorer: for the catalogue.
        catalog: the items' texts.
        progress: as `progress_bar` has it.
    """

    def read(window: CandidateLists, numbers: IntArray) -> list[Components]:
        own = scorer.for_window(catalog, window.statistics) if scorer.config.compares_states else scorer
        return read_lists(own, catalog, window, numbers, progress)

    return read


def serve(
    fusion_model: FusionModel,
    order: Order | None,
    n_known: IntArray,
    first_stage: NDArray[np.float64],
    list_index: IntArray,
    is_new: Callable[[NDArray[np.bool_]], NDArray[np.bool_]],
    features: Callable[[NDArray[np.bool_]], NDArray[np.float64]],
    read: Callable[[NDArray[np.bool_]], tuple[Components, IntArray]],
) -> ServedScores:
    """Scores by `order`, or as the guard decides of each user; only what it does not keep is worked out.

    Args:
        fusion_model: fitted.
        order: to serve whatever the guard decided.
        n_known: (n_users,) interactions known of each user.
        first_stage: (rows,) scores of the first-stage order.
        list_index: (rows,) position of the row's user.
        is_new: rows, True for those wanted -> True where nobody chose the candidate.
        features: the same -> their interaction features.
        read: the same -> (wanted rows, n_components) that the LLM says, and the tokens it read for each of their
            users, by position.

    Raises:
        ConfigError: an unknown order.
    """
    guard = fusion_model.guard.overruled(as_order(order)) if order else fusion_model.guard
    holds = guard.holds_for(n_known)
    scores, tokens = first_stage.copy(), np.zeros(len(n_known), dtype=np.int64)
    rows = holds[list_index]
    if rows.any():
        wanted = features(rows)
        if guard.serve == "fused":
            lists, new = np.unique(list_index[rows], return_inverse=True)[1], is_new(rows)
            read_rows = rows.copy()
            if guard.only_new_items:  # what is read says nothing of a list without two of them
                read_rows[rows] = np.bincount(lists, weights=new)[lists] > 1
            raw = np.zeros((len(wanted), len(fusion_model.coefficients)))
            if read_rows.any():
                raw[read_rows[rows]], tokens[np.unique(list_index[read_rows])] = read(read_rows)
            scores[rows] = fusion_model.orders(wanted, raw, lists, new)["fused"]
        else:
            scores[rows] = fusion_model.features.score(wanted)
    return ServedScores(
        order=guard.serve,
        orders=guard.orders(n_known),
        guard=fusion_model.guard.orders(n_known),
        n_known=n_known,
        scores=scores,
        prompt_tokens=tokens,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedRanker:
    """What was fitted, and what it is fitted to: scores and ranks candidates tables.

    Attributes:
        scorer: the language model's half, which knows the domain.
        fusion_model: weights and guard.
        data: items and statistics.
    """

    scorer: LLMScorer
    fusion_model: FusionModel
    data: DomainData

    def read(
        self,
        candidates: Candidates,
        histories: Mapping[UserId, IntArray],
        states: Mapping[UserId, UserState],
        progress: bool | None = False,
    ) -> tuple[Components, IntArray]:
        """(rows, n_components) that the LLM says, and (n_users,) tokens that it read.

        Args:
            candidates: validated: the rows of a list stand together.
            histories: user id -> rows of the statistics' index, oldest first.
            states: users' adapted contexts.
            progress: show a progress bar on stderr.
        """
        lists = self.scorer.lists(
            candidates, self.data.catalog, lambda user: self.data.statistics.history(user, histories), states
        )
        read = self.scorer.read(lists, progress)
        raw = np.concatenate([scores.components for scores in read])
        return raw, np.array([scores.prompt_tokens for scores in read], dtype=np.int64)

    def score(
        self,
        candidates: Candidates,
        histories: Mapping[UserId, IntArray],
        states: Mapping[UserId, UserState],
        identities: Mapping[UserId, UserId] | None = None,
        progress: bool | None = False,
    ) -> OrderScores:
        """Every order's scores; arguments as `read` and `Reranker.rerank` have them."""
        lists = ItemLists.of(candidates)
        raw, tokens = self.read(lists, histories, states, progress)
        features = self.data.statistics.features(lists, histories, identities)
        is_new = self.data.statistics.nobody_chose(lists)
        orders = self.fusion_model.orders(features, raw, lists.list_index, is_new)
        return OrderScores(first_stage=first_stage_scores(lists), **orders, prompt_tokens=tokens)

    def rank(
        self,
        candidates: Candidates,
        histories: Mapping[UserId, IntArray],
        states: Mapping[UserId, UserState],
        identities: Mapping[UserId, UserId] | None = None,
        *,
        k: int | None = None,
        order: Order | None = None,
        queries: Mapping[UserId, str] | None = None,
        rules: Rules | None = None,
        progress: bool | None = False,
    ) -> RankingResult:
        """The lists as they are served; further arguments as `read` and `Reranker.rerank` have them.

        Raises:
            ConfigError: an unknown order.
        """
        lists, statistics = ItemLists.of(candidates), self.data.statistics
        served = serve(
            self.fusion_model,
            order,
            statistics.n_known(lists.users, histories),
            first_stage_scores(lists),
            lists.list_index,
            lambda rows: statistics.nobody_chose(lists.part(rows)),
            lambda rows: statistics.features(lists.part(rows), histories, identities),
            lambda rows: self.read(lists.part(rows), histories, states, progress),
        )
        if queries:
            served = with_queries(self.scorer, self.data.catalog, lists, served, queries, self.fusion_model.queries)
        return RankingResult(
            lists,
            served,
            self.data.catalog,
            k,
            rules,
            self.data.item_columns,
            lambda user: statistics.history(user, histories),
        )

    def head_columns(
        self,
        candidates: Candidates,
        order: Order,
        histories: Mapping[UserId, IntArray],
        states: Mapping[UserId, UserState],
        identities: Mapping[UserId, UserId] | None = None,
    ) -> tuple[FusionHead, NDArray[np.float64]]:
        """The head behind an order and the (rows, n_columns) values that it weighs; arguments as `read` has them.

        Raises:
            ConfigError: the order that came in has no head.
        """
        lists = ItemLists.of(candidates)
        features = self.data.statistics.features(lists, histories, identities)
        if order == "baseline":
            return self.fusion_model.features, features
        if order != "fused":
            raise ConfigError(f"the order {order!r} has no head: it is the one that came in")
        raw, _ = self.read(lists, histories, states)
        is_new = self.data.statistics.nobody_chose(lists)
        return self.fusion_model.fused_columns(features, raw, lists.list_index, is_new)
