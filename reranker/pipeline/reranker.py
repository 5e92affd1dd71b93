"""The public face: a first-stage list goes in, and an order comes out that a validation fold says is not worse."""

import asyncio
import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.config import RerankerConfig, default_scorer
from reranker.data.catalog import Catalog, Item
from reranker.data.dataset import Dataset
from reranker.data.frames import Table, as_frame
from reranker.data.id_matching import refuse_written_otherwise
from reranker.data.schema import (
    ITEM,
    USER,
    refuse_single,
    require_ids_like,
    validate_candidates,
    validate_interactions,
    validate_items,
)
from reranker.errors import BundleError, ConfigError, DataError
from reranker.explain import Explanation
from reranker.fusion import FusionHead, FusionModel, Order
from reranker.fusion.ladder import Ladder
from reranker.pipeline.bundle import BundleState, read_bundle, write_bundle, write_version
from reranker.pipeline.domain import DomainData
from reranker.pipeline.explaining import explain_list
from reranker.pipeline.fitting import FittedRanker, fit_ranker, reads_with, with_worthy_columns
from reranker.pipeline.inspection import Inspection, inspect_list
from reranker.pipeline.lists import CandidateLists
from reranker.pipeline.llm_scorer import LLMScorer
from reranker.pipeline.results import OrderScores, RankingResult
from reranker.pipeline.text_ranking import RankedDocument, TextList, TextRanking, rank_texts
from reranker.pipeline.unread import unread
from reranker.pipeline.untrusted_bundle import TEMPLATES, require_harmless, require_own_templates
from reranker.pipeline.versions import KEPT
from reranker.pipeline.windows import windows_of
from reranker.protocols import CandidateGenerator, Engine, UserStore
from reranker.rules import ItemColumns, Rules
from reranker.soft_tokens import AdaptReport, ContextMap, Support, unseen
from reranker.soft_tokens.checkpoint import DEFAULT, UNTRAINED, Trained
from reranker.soft_tokens.prompt_bank import PromptBank
from reranker.types import IntArray, ItemId, UserId, UserState
from reranker.utils.progress import step

logger = logging.getLogger(__name__)


class Reranker:
    """Reranks candidate lists with a causal LM, this domain's soft prompt and interaction features.

    Build one with `from_pretrained`, `fit` it on a domain, `rerank` lists; or `load` a saved bundle. The model is
    loaded when it is first needed.

    Attributes:
        config: the settings.
        reader: the language model's half: engine, prompts, scorer.
        fusion_model: what `fit` learned, or None.
        generator: the candidate generator the Reranker was fitted with, or None.
        states: adapted users, as `adapt` left them; empty after `fit` and `load`.
        ladder: what each rung was worth on the data, where `ladder.climb` chose this Reranker, or None.
    """

    def __init__(
        self,
        config: RerankerConfig | None = None,
        engine: Engine | None = None,
        prompts: PromptBank | None = None,
        contexts: ContextMap | None = None,
    ) -> None:
        """Takes a ready engine, or loads the one `config` names when it is first needed."""
        self.config = config or RerankerConfig()
        self.reader = LLMScorer(self.config, "generic", prompts or PromptBank(), engine=engine, contexts=contexts)
        self.states: dict[UserId, UserState] = {}
        self.fusion_model: FusionModel | None = None
        self.ladder: Ladder | None = None
        self.generator: CandidateGenerator | None = None
        self._data: DomainData | None = None

    @classmethod
    def from_pretrained(
        cls, name: str | Path = "default", *, engine: Engine | str | None = None, **settings: Any
    ) -> "Reranker":
        """A Reranker that has seen no data of yours yet.

        Args:
            name: "default", which reads by likelihood behind the shipped prompt where the base model is the one it was
                made for; "untrained", which never does; or a directory with a soft prompt to start from. What
                `train prompt` writes beside that comes along: `context.safetensors` (`algorithm: cavia`) gives users
                contexts of their own.
            engine: an engine, or the name of one ("auto", "torch", "vllm").
            settings: fields of `RerankerConfig`; `scorer` by default as `default_scorer` has it, `windows` 1 where a
                prompt was trained: it may have been trained on the choices before the newest, and weights that are
                fitted on those would trust it too much, and so would the guard.

        Raises:
            ConfigError: an unknown setting.
            PromptError: `name` is a directory without a usable soft prompt.
        """
        engine, settings = _named_engine(engine, settings)
        is_trained = str(name) not in (DEFAULT, UNTRAINED)
        runs = str(settings.get("engine", "auto")) if engine is None else engine.name
        defaults = {"scorer": default_scorer(runs, is_trained)} | ({"windows": 1} if is_trained else {})
        settings = {**defaults, **settings}
        config = RerankerConfig.from_mapping(settings)
        trained = Trained.named(name, config.scorer)
        return cls(config, engine, trained.bank, trained.contexts)

    def fit(
        self,
        data: Dataset,
        generator: CandidateGenerator | None = None,
        *,
        candidates: pd.DataFrame | None = None,
        held_out: pd.DataFrame | None = None,
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
            progress: show progress bars on stderr; None does on a terminal and in a notebook.

        Returns:
            self.

        Raises:
            DataError: a table is wrong, or there is nothing to learn from.
            ConfigError: neither the first stage nor logs were given, or both.
        """
        windows = windows_of(data, generator, candidates, held_out, self.config, progress)
        return self.fit_windows(data, windows, generator, progress=progress)

    def fit_windows(
        self,
        data: Dataset,
        windows: Sequence[CandidateLists],
        generator: CandidateGenerator | None = None,
        *,
        progress: bool | None = None,
    ) -> "Reranker":
        """`fit` on windows that are made already, as `windows_of` makes them: several Rerankers can share them.

        Raises:
            DataError, ConfigError: as `fit` does.
        """
        config = self.config
        self.states = {}
        self.ladder = None
        self.fusion_model = None  # if this fails, nothing old must be served over new data
        self.reader = self.reader.for_domain(data.domain, takes_engine=True)
        self.generator = generator
        windows, verdict = with_worthy_columns(windows, config.l2, config.seed)
        own = windows[0].statistics.own
        with step("statistics of all interactions", progress):
            columns = () if own is None else own.columns
            self._data = DomainData.build(data, generator, config.calibration_histories, config.seed, columns)
        catalog = self._data.catalog
        scorer = self.reader.calibrated_by(self._data.calibration_histories)
        with scorer.reading_catalog(progress):
            scorer = scorer.for_catalog(catalog.items(self.item_ids))
            fusion_model = fit_ranker(
                windows,
                reads_with(scorer, catalog, progress),
                scorer.scorer.components,
                most=config.lists_to_read,
                l2=config.l2,
                seed=config.seed,
                progress=progress,
            )
            self.reader = scorer.for_window(catalog, self._data.statistics)
        self.fusion_model = replace(fusion_model, own=verdict)
        if verdict is not None:
            logger.info("domain %r: %s", data.domain, verdict.summary())
        logger.info("domain %r: %s", data.domain, fusion_model.guard.summary())
        for line in unread(data, self.reader):
            logger.info("domain %r: %s", data.domain, line)
        return self

    def add_items(self, items: pd.DataFrame, progress: bool | None = None) -> int:
        """Adds items that came after `fit`: the model knows them by their text from now on, and nothing is fitted anew.

        Nobody chose them yet, so they have no statistics (until the next `fit`), but categories. Items known already
        take the new row's text. The scorer "embedding" reads the texts here; `save` keeps them.

        Args:
            items: `item_id`, `title` and the further columns of the items table.
            progress: as in `fit`.

        Returns:
            How many are new.

        Raises:
            DataError: nothing was fitted, the table breaks its contract, or its ids are of another type.
        """
        before = self._require_data()
        items = validate_items(as_frame(items, "items", {ITEM: before.items[ITEM]}))
        after = before.with_items(items)
        with self.reader.reading_catalog(progress):
            self.reader.keep_items(after.catalog.items(items[ITEM]))
        self._data = after  # if reading fails, nothing has changed
        return len(after.items) - len(before.items)

    def rerank(
        self,
        candidates: Table,
        k: int | None = None,
        *,
        interactions: Table | Mapping[UserId, Sequence[ItemId]] | None = None,
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
                and the columns of candidates that `features` named when the ranker was fitted.
            k: rows kept a user; None or more than there are keeps all.
            interactions: newer histories, as a table or as user id -> items, oldest first; they replace the stored ones
                of the users they contain.
            order: serve this order whatever the guard decided: "fused", "baseline" or "first_stage".
            states: users' adapted contexts, for instance from a `UserStore`; what `adapt` kept by default.
            queries: user id -> what the user asks for: the log-odds of the items' relevance to it are added to the
                scores, whichever order is served. The guard judged orders without queries.
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
            ConfigError: k < 1, an unknown order, or rules about columns that the item table lacks.
        """
        if k is not None and k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        data, _ = self._fitted()
        if rules is not None:
            data.item_columns.require(rules)
        known: dict[str, Iterable[Hashable]] = {USER: data.statistics.histories, ITEM: data.items[ITEM]}
        lists = validate_candidates(as_frame(candidates, "candidates", known), further=data.candidate_columns)
        if isinstance(interactions, Mapping):  # with it come single lists of a server, whose items may all be new
            for user, chosen in interactions.items():
                refuse_single(chosen, "item ids", f"interactions[{user!r}]")
            require_ids_like(lists[USER], pd.Series(list(interactions), dtype=object, name=USER), "interactions")
        else:
            require_ids_like(data.items[ITEM], lists[ITEM], "candidates")
            refuse_written_otherwise(data.items[ITEM], lists[ITEM], "candidates")
            if interactions is None:
                require_ids_like(data.statistics.histories, lists[USER], "candidates")
                refuse_written_otherwise(data.statistics.histories, lists[USER], "candidates")
            else:
                interactions = validate_interactions(as_frame(interactions, "interactions", known))
                require_ids_like(data.items[ITEM], interactions[ITEM], "interactions")
                require_ids_like(lists[USER], interactions[USER], "interactions")
        ranked = self._ranker.rank(
            lists,
            data.statistics.histories_with(interactions),
            self.states if states is None else states,
            identities,
            k=k,
            order=order,
            queries=queries,
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
        learned = self.fusion_model is not None and self.reader.of_texts is self.reader
        return rank_texts(self.reader, lists, self.fusion_model.coefficients if self.fusion_model and learned else None)

    def adapt(
        self,
        users: Iterable[UserId] | None = None,
        *,
        store: UserStore | None = None,
        steps: int = 2,
        progress: bool = False,
    ) -> AdaptReport:
        """Adapts users' contexts to what they chose, many at once.

        A user who was adapted before goes on from there: only interactions since then are read. Where the context was
        adapted under another map, or what the bundle knows of the user is not what it was then, all is read anew.

        Args:
            users: whom to adapt; everyone whose history is known by default, and everyone in `store`.
            store: where states are kept and newer interactions come from; `states` without it.
            steps: gradient steps a user.
            progress: show a progress bar on stderr.

        Returns:
            How many were adapted, how many drifted, and what it cost.

        Raises:
            ConfigError: steps < 1, no context map, or torch is not installed.
            DataError: nothing was fitted, or one text instead of several ids.
        """
        if steps < 1:
            raise ConfigError(f"steps must be at least 1, got {steps}")
        refuse_single(users, "user ids", "users")
        data = self._require_data()
        adapter = self.reader.adapter(steps)
        if users is None:
            users = [*data.statistics.histories, *(store.user_ids() if store else ())]
        asked = list(dict.fromkeys(users))
        known = self.states if store is None else store.get(asked)
        support = []
        for user in asked:
            state, new = self._unseen(known.get(user) or UserState(user_id=user))
            support.append(Support(state=state, items=data.catalog.items(new)))
        states, report = adapter.adapt(support, progress)
        changed = [state for state, one in zip(states, support, strict=True) if one.items]
        if store is None:
            self.states.update((state.user_id, state) for state in changed)
        else:
            store.put_contexts(changed)
        return report

    def is_behind(self, state: UserState) -> bool:
        """Whether `adapt` would read anything of this user: something happened that the context has not seen, or it
        was adapted under another map or bundle.

        Raises:
            DataError: nothing was fitted.
        """
        return bool(self._unseen(state)[1])

    def _unseen(self, state: UserState) -> tuple[UserState, list[ItemId]]:
        """The state to go on from, and what of the user is to be read."""
        return unseen(state, self.history(state.user_id), self.reader.contexts)

    def forget(self, users: Iterable[UserId]) -> int:
        """Drops what `adapt` kept of these users; returns of how many. A store forgets by its own `forget`.

        Raises:
            DataError: one text instead of several ids.
        """
        refuse_single(users, "user ids", "users")
        return sum(self.states.pop(user, None) is not None for user in users)

    def explain(
        self,
        user: UserId,
        candidates: pd.DataFrame | Sequence[ItemId],
        k: int | None = None,
        *,
        history: Sequence[ItemId] | None = None,
        order: Order | None = None,
        state: UserState | None = None,
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

        Raises:
            DataError: nothing was fitted, the table breaks its contract or holds no row of the user.
            ConfigError: an unknown order.
        """
        return explain_list(self, user, candidates, k, history=history, order=order, state=state)

    def inspect(self, candidates: pd.DataFrame, k: int | None = None) -> Inspection:
        """One user's list as the model sees it: prompt, spans, tokens, components and weights.

        Raises:
            DataError: the table breaks its contract or holds more than one user.
        """
        data, fusion_model = self._fitted()
        lists = validate_candidates(candidates, further=data.candidate_columns)
        if lists[USER].nunique() != 1:
            raise DataError(f"inspect takes one user's list, got {lists[USER].nunique()} users")
        one = self.reader.lists(lists, data.catalog, data.statistics.history, self.states)[0]
        components = self.reader.components([one])[0]
        ranked = self.rerank(lists, k)
        return inspect_list(ranked, lists, one, components, self.reader.scorer, self.reader.renderer, fusion_model)

    def head_columns(
        self,
        candidates: pd.DataFrame,
        order: Order,
        *,
        histories: Mapping[UserId, IntArray] | None = None,
        states: Mapping[UserId, UserState] | None = None,
        identities: Mapping[UserId, UserId] | None = None,
    ) -> tuple[FusionHead, NDArray[np.float64]]:
        """The head behind an order and the (rows, n_columns) values that it weighs, of a validated candidates table.

        Args:
            candidates: a validated candidates table.
            order: "fused" or "baseline"; the model reads for the first alone.
            histories: user id -> rows of the statistics' index, oldest first; the stored ones by default.
            states: users' adapted contexts; what `adapt` kept by default.
            identities: as for `rerank`.

        Raises:
            DataError: nothing was fitted.
            ConfigError: the order that came in has no head.
        """
        data, _ = self._fitted()
        known = data.statistics.histories if histories is None else histories
        return self._ranker.head_columns(
            candidates, order, known, self.states if states is None else states, identities
        )

    def score_all(
        self,
        candidates: pd.DataFrame,
        *,
        histories: Mapping[UserId, IntArray] | None = None,
        states: Mapping[UserId, UserState] | None = None,
        identities: Mapping[UserId, UserId] | None = None,
        progress: bool | None = False,
    ) -> OrderScores:
        """Every order's scores for a validated candidates table, one LLM pass: how systems are compared.

        Args:
            candidates: a validated candidates table.
            histories: user id -> rows of the statistics' index, oldest first; the stored ones by default.
            states: users' adapted contexts; what `adapt` kept by default.
            identities: as for `rerank`.
            progress: show a progress bar on stderr.

        Raises:
            DataError: nothing was fitted.
        """
        data, _ = self._fitted()
        known = data.statistics.histories if histories is None else histories
        return self._ranker.score(candidates, known, self.states if states is None else states, identities, progress)

    def __repr__(self) -> str:
        return f"Reranker({self._described()})"

    def __str__(self) -> str:
        served = "" if self.fusion_model is None else f"\n{self.fusion_model.guard.summary()}"
        return f"{self!r}{served}"

    def _described(self) -> str:
        """Domain, base model, scorer and what is served, in a line."""
        config = self.config
        reads = f"model {config.model!r}, engine {config.engine!r}, scoring {config.scorer!r}"
        if self._data is None or self.fusion_model is None:
            return f"not fitted, {reads}"
        sizes = f"{len(self._data.statistics.histories)} users, {len(self._data.items)} items"
        return f"domain {self.reader.domain!r} ({sizes}), {reads}, serves {self.fusion_model.guard.serve!r}"

    def history(self, user_id: UserId) -> list[ItemId]:
        """What the user chose before `fit`, oldest first; empty for a new user."""
        return self._require_data().statistics.history(user_id)

    def titles(self, item_ids: Sequence[ItemId]) -> list[str]:
        """Titles of the catalogue; "(untitled)" for an unknown item."""
        return self._require_data().catalog.titles(item_ids)

    def item_fields(self, item_ids: Sequence[ItemId]) -> list[Item]:
        """Column -> value of each item of the catalogue, without its id; an unknown item is "(untitled)"."""
        return self._require_data().catalog.items(item_ids)

    @property
    def candidate_columns(self) -> list[str]:
        """Columns of the candidates, beside ids, scores and ranks, that the ranker was fitted with."""
        return self._require_data().candidate_columns

    @property
    def item_columns(self) -> ItemColumns:
        """The fitted domain's item table as rules read it."""
        return self._require_data().item_columns

    @property
    def item_ids(self) -> list[ItemId]:
        """The items of the fitted domain's catalogue."""
        return list(self._require_data().items[ITEM])

    @property
    def user_ids(self) -> list[UserId]:
        """The users whose history the fitted domain holds."""
        return list(self._require_data().statistics.histories)

    def save(self, directory: Path | str) -> None:
        """Writes the bundle: a folder without pickle, complete or not there at all.

        Raises:
            DataError: nothing was fitted.
            BundleError: the folder cannot be written; what stood there before is untouched.
        """
        write_bundle(Path(directory), self._state())

    def save_version(self, directory: Path | str, keep: int = KEPT) -> Path:
        """Saves beside the bundle that stands there, as its next version, and makes that the current one.

        Args:
            directory: a bundle, with versions or without.
            keep: versions that stay, the current one among them.

        Returns:
            The version's folder.

        Raises:
            DataError: nothing was fitted.
            BundleError: the folder cannot be written; the current version is untouched.
        """
        return write_version(Path(directory), self._state(), keep)

    def _state(self) -> BundleState:
        data, fusion_model = self._fitted()
        reader = self.reader
        return BundleState(
            config=self.config,
            domain=reader.domain,
            model=reader.model,
            templates_sha256=reader.templates.sha256,
            items=data.items,
            statistics=data.statistics,
            calibration_ids=data.calibration_ids,
            calibration_items=data.calibration_items,
            fusion_model=fusion_model,
            prompts=reader.prompts_to_keep(),
            priors=reader.priors,
            generator=self.generator,
            contexts=reader.contexts,
            hidden_states=reader.hidden_states,
            ladder=self.ladder,
            details=data.details,
        )

    @classmethod
    def load(
        cls,
        directory: Path | str,
        *,
        engine: Engine | str | None = None,
        trusted_options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> "Reranker":
        """Reads a bundle.

        Args:
            directory: what `save` wrote.
            engine: an engine, or the name of one; by default the one the bundle was fitted with.
            trusted_options: options of the engine; a bundle may set harmless ones only, so addresses and whatever runs
                code come from here. And `templates`: the folder of own templates that it was fitted with.
            settings: fields of `RerankerConfig` to change, for instance dtype="float32".

        Raises:
            ConfigError: scorer or prompt are to be other than those that the bundle was fitted with.
            BundleError: the folder is incomplete, damaged, of another version or (once the model is loaded) of another
                model.
        """
        state = read_bundle(Path(directory))
        trusted = dict(trusted_options or {})
        templates = require_own_templates(Path(directory), state.config, trusted.pop(TEMPLATES, None))
        if "engine_options" not in settings and (engine is None or engine == state.config.engine):
            require_harmless(Path(directory), state.config, trusted)
        engine, settings = _named_engine(engine, settings, state.config)
        if trusted:
            options = settings.get("engine_options", state.config.engine_options)
            settings = {**settings, "engine_options": {**options, **trusted}}
        config = RerankerConfig.from_mapping({**state.config.model_dump(exclude_unset=True), **settings})
        if templates is not None and "prompt" not in settings:
            config = config.model_copy(update={"prompt": config.prompt.model_copy(update={"directory": templates})})
        config.require_fitted_with(state.config)
        reranker = cls(config, engine, state.prompts)
        reranker.reader = LLMScorer(
            config,
            state.domain,
            state.prompts,
            priors=state.priors,
            engine=engine,
            model=state.model,
            contexts=state.contexts,
            hidden_states=state.hidden_states,
        )
        reranker.fusion_model = state.fusion_model
        reranker.ladder = state.ladder
        reranker.generator = state.generator
        reranker._data = DomainData(
            items=state.items,
            catalog=Catalog(state.items),
            statistics=state.statistics,
            calibration_ids=state.calibration_ids,
            calibration_items=state.calibration_items,
            details=state.details,
        )
        reranker.reader = reranker.reader.calibrated_by(reranker._data.calibration_histories)
        read = reranker.reader.templates
        if read.sha256 != state.templates_sha256:
            raise BundleError(
                f"the bundle {directory} was fitted with other text in the template {read.name}: scores would not "
                "mean the same. Restore that template (prompt.directory) or fit again"
            )
        return reranker

    @property
    def _ranker(self) -> FittedRanker:
        data, fusion_model = self._fitted()
        return FittedRanker(scorer=self.reader, fusion_model=fusion_model, data=data)

    def _require_data(self) -> DomainData:
        if self._data is None:
            raise DataError("this Reranker knows no domain yet: call fit(data, generator) or load a bundle first")
        return self._data

    def _fitted(self) -> tuple[DomainData, FusionModel]:
        data = self._require_data()
        if self.fusion_model is None:
            raise DataError("this Reranker was not fitted: call fit(data, generator) or load a bundle first")
        return data, self.fusion_model


def _named_engine(
    engine: Engine | str | None, settings: dict[str, Any], before: RerankerConfig | None = None
) -> tuple[Engine | None, dict[str, Any]]:
    """An engine given by name becomes a setting; options of another one before do not fit it."""
    if not isinstance(engine, str):
        return engine, settings
    if before is None or before.engine != engine:
        settings = {"engine_options": {}, **settings}
    return None, {**settings, "engine": engine}
