"""The public face: a first-stage list goes in, and an order comes out that a validation fold says is not worse."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.config import BOOSTED
from reranker.data.dataset import Dataset
from reranker.data.frames import Table, as_frame
from reranker.data.item_lists import Candidates
from reranker.data.schema import ITEM, USER, validate_candidates, validate_items
from reranker.errors import ConfigError, DataError
from reranker.explain import Explanation
from reranker.fusion import FusionHead, Order
from reranker.fusion.boosted import require_lightgbm
from reranker.pipeline.adapting import Adaptive
from reranker.pipeline.explaining import explain_list
from reranker.pipeline.fit_basis import FitBasis
from reranker.pipeline.fitting import FittedRanker, fit_ranker, reads_with
from reranker.pipeline.inspection import Inspection, inspect_list
from reranker.pipeline.lists import CandidateLists
from reranker.pipeline.lists_to_rank import lists_to_rank
from reranker.pipeline.persistence import Persistent
from reranker.pipeline.pricing import price_rules
from reranker.pipeline.query_ranking import asked_for, judge_queries
from reranker.pipeline.results import OrderScores, RankingResult
from reranker.pipeline.text_ranking import RankedDocument, TextList, TextRanking, rank_texts
from reranker.pipeline.unread import unread
from reranker.pipeline.windows import windows_of
from reranker.protocols import CandidateGenerator, ProposesNewItems
from reranker.rules import Rules
from reranker.types import IntArray, ItemId, UserId, UserState

logger = logging.getLogger(__name__)


class Reranker(Persistent, Adaptive):
    """Reranks candidate lists with a causal LM, this domain's soft prompt and interaction features.

    Build one with `from_pretrained`, `fit` it on a domain, `rerank` lists; or `load` a bundle. The model loads at need.

    Attributes:
        config: the settings.
        llm_scorer: the language model's half: engine, prompts, scorer.
        fusion_model: what `fit` learned, or None.
        generator: the candidate generator the Reranker was fitted with, or None.
        states: adapted users, as `adapt` left them; empty after `fit` and `load`.
        ladder: what each rung was worth on the data, where `ladder.climb` chose this Reranker, or None.
        fitted_at, identity: when `fit` or a refresh ended, and the bundle that this was saved or loaded as, or None.
    """

    def fit(
        self,
        data: Dataset,
        generator: CandidateGenerator | None = None,
        *,
        candidates: pd.DataFrame | None = None,
        held_out: pd.DataFrame | None = None,
        rules: Rules | None = None,
        progress: bool | None = None,
    ) -> "Reranker":
        """Learns this domain: scorer coefficients, fusion weights, and what the guard will serve.

        Either give a fitted `generator`: each user's last interaction is held out, a clone of the stage is fitted
        on the rest and proposes lists; where these are few, the interaction before it is held out likewise, and so
        on (`windows`). Or give what your own first stage served: `candidates`, and in `held_out` what the users
        chose afterwards.

        Args:
            data: interactions and items of the domain, up to now.
            generator: the stage whose lists will be reranked; saved with the bundle.
            candidates: lists served at one time.
            held_out: interactions after that.
            rules: what these cost is worked out (`fusion_model.rules`); they are applied where `rerank` is given them.
            progress: show progress bars on stderr; None does on a terminal and in a notebook.

        Raises:
            DataError: a table is wrong, or there is nothing to learn from.
            ConfigError: neither the first stage nor logs were given, or both.
        """
        windows = windows_of(data, generator, candidates, held_out, self.config, progress, lean=True)
        return self.fit_windows(data, windows, generator, rules=rules, progress=progress)

    def fit_windows(
        self,
        data: Dataset,
        windows: Sequence[CandidateLists],
        generator: CandidateGenerator | None = None,
        *,
        rules: Rules | None = None,
        progress: bool | None = None,
    ) -> "Reranker":
        """`fit` on windows that are made already, as `windows_of` makes them: several Rerankers can share them.

        Raises:
            DataError, ConfigError: as `fit` does.
        """
        return self.fit_on(FitBasis.of(data, windows, generator, self.config, progress, rules), progress)

    def fit_on(self, basis: FitBasis, progress: bool | None = None) -> "Reranker":
        """`fit` on windows and statistics that other Rerankers with the same `l2`, `seed` and `calibration_histories`
        may share.

        Raises:
            DataError, ConfigError: as `fit` does.
        """
        config, domain = self.config, basis.dataset.domain
        if config.ranker == BOOSTED:
            require_lightgbm()  # now, not after hours of reading
        self.states, self.ladder = {}, None
        self.fusion_model = None  # if this fails, nothing old must be served over new data
        self.llm_scorer = self.llm_scorer.for_domain(domain, takes_engine=True)
        self.generator, self._data = basis.generator, basis.data
        catalog = self._data.catalog
        scorer = self.llm_scorer.calibrated_by(self._data.calibration_histories)
        with scorer.reading_catalog(progress):
            scorer = scorer.for_catalog(catalog.items(self.item_ids))
            fusion_model = fit_ranker(
                basis.windows,
                reads_with(scorer, catalog, progress),
                scorer.scorer.components,
                most=config.lists_to_read,
                l2=config.l2,
                seed=config.seed,
                ranker=config.ranker,
                pages=basis.pages if config.judges_new_items else None,
                progress=progress,
            )
            self.llm_scorer = scorer.for_window(catalog, self._data.statistics)
            queries = judge_queries(
                basis.windows, scorer, catalog, fusion_model, config.fit_users, config.l2, config.seed
            )
        own, vectors, priced = basis.worth.columns, basis.worth.vectors, price_rules(basis, fusion_model, config.seed)
        self.fusion_model = replace(
            fusion_model.guarded(), own=own, own_vectors=vectors, rules=priced, queries=queries, scores={}
        )
        self.mark_fitted()
        said = [verdict.summary() for verdict in (own, vectors, priced, queries) if verdict is not None]
        if (of_new := fusion_model.new_items_verdict) is not None:
            said.append(of_new.summary(fusion_model.reads_no_new_items))
        said += self.fusion_model.trees_summary()
        for line in (*said, self.fusion_model.guard.summary(), *unread(basis.dataset, self.llm_scorer)):
            logger.info("domain %r: %s", domain, line)
        return self

    def add_items(self, items: pd.DataFrame, progress: bool | None = None, *, item_vectors: Table | None = None) -> int:
        """Adds items that came after `fit`: the model knows them by their text from now on, and nothing is fitted anew.

        Nobody chose them yet, so they have no statistics (until the next `fit`), but categories. Items known already
        take the new row's text. The scorer "embedding" reads the texts here; `save` keeps them. A generator with places
        for new items (`new_share`) proposes them from now on.

        Args:
            items: `item_id`, `title` and the further columns of the items table.
            progress: as in `fit`.
            item_vectors: of new or known items, as `Dataset` takes them, where `fit` was given such.

        Returns:
            How many are new.

        Raises:
            DataError: nothing was fitted, a table breaks its contract, its ids are of another type, or the ranker goes
                by no item vectors.
        """
        before = self._require_data()
        items = validate_items(as_frame(items, "items", {ITEM: before.items[ITEM]}))
        after = before.with_items(items, item_vectors)
        with self.llm_scorer.reading_catalog(progress):
            self.llm_scorer.keep_items(after.catalog.items(items[ITEM]))
        if isinstance(self.generator, ProposesNewItems) and self.generator.takes_new_items:
            self.generator.add_items(items)
        self._data = after  # if reading fails, nothing has changed
        return len(after.items) - len(before.items)

    def rerank(
        self,
        candidates: Table,
        k: int | None = None,
        *,
        interactions: Table | Mapping[UserId, Sequence[ItemId]] | None = None,
        disliked: Mapping[UserId, Sequence[ItemId]] | None = None,
        order: Order | None = None,
        states: Mapping[UserId, UserState] | None = None,
        queries: Mapping[UserId, str] | None = None,
        rules: Rules | None = None,
        identities: Mapping[UserId, UserId] | None = None,
        progress: bool = False,
    ) -> RankingResult:
        """Reranks each user's list.

        Args:
            candidates: `user_id, item_id` and `score` or `rank`: a pandas, polars or pyarrow table, or a path of one;
                the columns of candidates that `features` named when the ranker was fitted; and `query`, if users ask
                for something.
            k: rows kept a user; None or more than there are keeps all.
            interactions: newer histories, as a table or as user id -> items, oldest first; they replace the stored ones
                of the users they contain.
            disliked: beside `interactions` by user: user id -> items that the user dislikes; a table of interactions
                says so itself (`event`, `rating`).
            order: serve this order whatever the guard decided: "fused", "baseline" or "first_stage".
            states: users' adapted contexts, for instance from a `UserStore`; what `adapt` kept by default.
            queries: user id -> what the user asks for, in place of the column `query`: the log-odds of the items'
                relevance to it are added to the scores, whichever order is served, by the weight that `fit` learned on
                lists with queries, or by 1 where it had none.
            rules: what is excluded, pinned, pushed, capped, owed or diversified after scoring; `rules` of the result
                counts what was done and names what could not be met.
            identities: user of `candidates` -> the user whose columns of the user table count, where a list goes by
                another name; each is himself by default.
            progress: show a progress bar on stderr.

        Returns:
            The lists, users in the order they came in: `to_frame()` is the table. The guard may keep the first-stage
            order for users of whom as little, or as much, is known; `orders` says what each list was served.

        Raises:
            DataError: a table breaks its contract, its ids are of another type than those of `fit` or most of them only
                written otherwise ("196.0" for "196"), or nothing was fitted.
            ConfigError: k < 1, an unknown order, rules about columns that the item table lacks, or queries twice.
        """
        if k is not None and k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        data, _ = self.fitted()
        if rules is not None:
            data.item_columns.require(rules)
        lists, newer = lists_to_rank(data, candidates, interactions)
        ranked = self.ranker.rank(
            lists,
            data.statistics.histories_with(newer, disliked),
            self.states if states is None else states,
            identities,
            k=k,
            order=order,
            queries=asked_for(lists, queries),
            rules=rules,
            progress=progress,
        )
        if ranked.report.unknown_users or ranked.report.unknown_items:
            logger.warning(ranked.report.summary())
        return ranked

    async def arerank(self, candidates: Table, k: int | None = None, **options: Any) -> RankingResult:
        """`rerank` in a worker thread, so that a server's event loop goes on."""
        return await asyncio.to_thread(self.rerank, candidates, k, **options)

    def rank(
        self,
        query: str,
        documents: Sequence[str | Mapping[str, object]],
        *,
        history: Sequence[str | Mapping[str, object]] = (),
        max_tokens_per_doc: int | None = None,
    ) -> list[RankedDocument]:
        """Ranks texts by how well they answer `query` and follow `history`; no ids, no fit needed. Best first.

        There is no first-stage list here, hence no features and no guard: equal scores keep the order that came in.
        `rank_texts` says what was cut, too.

        Args:
            query: what is asked for, or "recently watched: ...".
            documents: texts, or items with `title` or `text` and further fields.
            history: titles or items chosen before, oldest first.
            max_tokens_per_doc: read of a document, 512 by default; of a longer one the best window is read.

        Raises:
            DataError: a document without text.
        """
        one = TextList(query=query, documents=documents, history=history, max_tokens_per_doc=max_tokens_per_doc)
        return list(self.rank_texts([one])[0].documents)

    def rank_texts(self, lists: Sequence[TextList]) -> list[TextRanking]:
        """`rank` for many lists, which the engine reads together, each with what was read and what was cut.

        Raises:
            DataError: a document without text.
        """
        learned = self.fusion_model is not None and self.llm_scorer.of_texts is self.llm_scorer
        return rank_texts(
            self.llm_scorer, lists, self.fusion_model.coefficients if self.fusion_model and learned else None
        )

    def explain(
        self,
        user: UserId,
        candidates: pd.DataFrame | Sequence[ItemId],
        k: int | None = None,
        *,
        history: Sequence[ItemId] | None = None,
        order: Order | None = None,
        state: UserState | None = None,
        disliked: Sequence[ItemId] | None = None,
        tokens: bool = False,
    ) -> Explanation:
        """Why each candidate of one user's list stands where it does.

        Contributions of the head's columns are exact: they add up to the score's difference from the list's mean. Each
        of the newest items of the history is left out once; the list that came in stays as it is.

        Args:
            user: whose list; what `fit` knows of the history counts.
            candidates: item ids, best first, or a table with `item_id` and `score` or `rank`.
            k: candidates explained, the best; all by default.
            history: items chosen, oldest first, in place of what is known.
            order: explain this order whatever the guard decided.
            state: the user's adapted context.
            disliked: items that the user dislikes, in place of what is known; nothing where `history` alone is given.
            tokens: by "likelihood", also divide each title's log-likelihood among the history's words: a minute each.

        Raises:
            DataError: nothing was fitted, the table breaks its contract or holds no row of the user.
            ConfigError: an unknown order, or `tokens` without such a scorer, gradients or captum.
        """
        return explain_list(
            self, user, candidates, k, history=history, order=order, state=state, disliked=disliked, tokens=tokens
        )

    def inspect(self, candidates: pd.DataFrame, k: int | None = None) -> Inspection:
        """One user's list as the model sees it: prompt, spans, tokens, components and weights.

        Raises:
            DataError: the table breaks its contract or holds more than one user.
        """
        data, fusion_model = self.fitted()
        lists = validate_candidates(candidates, further=data.candidate_columns)
        if lists[USER].nunique() != 1:
            raise DataError(f"inspect takes one user's list, got {lists[USER].nunique()} users")
        one = self.llm_scorer.lists(lists, data.catalog, data.statistics.history, self.states)[0]
        components = self.llm_scorer.components([one])[0]
        ranked = self.rerank(lists, k)
        return inspect_list(
            ranked, lists, one, components, self.llm_scorer.scorer, self.llm_scorer.renderer, fusion_model
        )

    def head_columns(
        self,
        candidates: Candidates,
        order: Order,
        *,
        histories: Mapping[UserId, IntArray] | None = None,
        states: Mapping[UserId, UserState] | None = None,
        identities: Mapping[UserId, UserId] | None = None,
    ) -> tuple[FusionHead, NDArray[np.float64]]:
        """The head behind an order and the (rows, n_columns) values that it weighs, of validated candidates.

        Args:
            candidates: validated.
            order: "fused" or "baseline"; the model reads for the first alone.
            histories: user id -> rows of the statistics' index, oldest first; the stored ones by default.
            states: users' adapted contexts; what `adapt` kept by default.
            identities: as for `rerank`.

        Raises:
            DataError: nothing was fitted.
            ConfigError: the order that came in has no head.
        """
        data, _ = self.fitted()
        known = data.statistics.histories if histories is None else histories
        return self.ranker.head_columns(candidates, order, known, self.states if states is None else states, identities)

    def score_all(
        self,
        candidates: Candidates,
        *,
        histories: Mapping[UserId, IntArray] | None = None,
        states: Mapping[UserId, UserState] | None = None,
        identities: Mapping[UserId, UserId] | None = None,
        progress: bool | None = False,
    ) -> OrderScores:
        """Every order's scores for validated candidates, one LLM pass: how systems are compared.

        Args:
            candidates: validated.
            histories: user id -> rows of the statistics' index, oldest first; the stored ones by default.
            states: users' adapted contexts; what `adapt` kept by default.
            identities: as for `rerank`.
            progress: show a progress bar on stderr.

        Raises:
            DataError: nothing was fitted.
        """
        data, _ = self.fitted()
        known = data.statistics.histories if histories is None else histories
        return self.ranker.score(candidates, known, self.states if states is None else states, identities, progress)

    @property
    def ranker(self) -> FittedRanker:
        """What `fit` made: scores and ranks validated candidates without looking at them again, as a server needs it.

        Raises:
            DataError: nothing was fitted.
        """
        data, fusion_model = self.fitted()
        return FittedRanker(scorer=self.llm_scorer, fusion_model=fusion_model, data=data)
