"""The language model's half of a Reranker: engine, prompts and scorer, loaded when first needed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.config import RerankerConfig
from reranker.data.catalog import LONGEST_HISTORY, Catalog
from reranker.data.item_lists import Candidates, ItemLists
from reranker.engines.lexical import LEXICAL
from reranker.errors import ConfigError
from reranker.fusion import InteractionStatistics
from reranker.fusion.features import chosen_items
from reranker.hub import states_layer
from reranker.pipeline.domain_model import DomainModel
from reranker.prompting import TEXT_PARTS
from reranker.protocols import LOWER_STATES, Engine, n_layers
from reranker.scoring import (
    CombinedScorer,
    EmbeddingScorer,
    LabelScorer,
    LikelihoodScorer,
    ListScores,
    ListwiseScorer,
    NoScorer,
    PriorStore,
    Scorer,
    ScoringList,
    StateCache,
    StateStore,
    TextsRead,
)
from reranker.soft_tokens import ContextMap
from reranker.soft_tokens.prompt_bank import PromptBank
from reranker.types import ItemId, ModelInfo, UserId, UserState
from reranker.utils.progress import progress_bar

LISTS_PER_CALL = 64
_ITEM_BLOCKS = {
    "embedding": TEXT_PARTS,
    "likelihood": ("history_item", "candidate"),
    "labels": ("history_item", "labels_candidate"),
    "listwise": ("history_item", "listwise_candidate"),
}
"""Blocks in which a scorer shows items."""

_TEXT_PRIORS = 100_000  # of texts that clients sent: some 30 MB


class LLMScorer(DomainModel):
    """Reads what a causal LM says of lists, in one domain.

    What it learns of catalogue and choices makes another scorer, which shares engine and kept states:
    `scorer.calibrated_by(histories).for_catalog(items).for_window(catalog, statistics)`.

    Args:
        config: model, engine, scorer and prompt settings.
        domain: picks the template family and the soft prompt.
        prompts: soft prompts; the instruction's embeddings stand in where there is none for the domain.
        priors: kept likelihoods of titles.
        engine: a ready engine; by default the one `config` names, loaded on first use.
        model: the model that `priors` and everything fitted belong to; another one is refused.
        contexts: what makes users' contexts soft tokens; None gives users none.
        hidden_states: kept hidden states of texts, and the spaces they are compared in.
    """

    def __init__(
        self,
        config: RerankerConfig,
        domain: str,
        prompts: PromptBank,
        *,
        priors: PriorStore | None = None,
        engine: Engine | None = None,
        model: ModelInfo | None = None,
        contexts: ContextMap | None = None,
        hidden_states: StateStore | None = None,
    ) -> None:
        super().__init__(config, domain, prompts, engine=engine, model=model, contexts=contexts)
        self.priors = PriorStore() if priors is None else priors
        self._hidden_states = hidden_states
        if hidden_states is not None and hidden_states.layer:
            self._engine.needs |= {LOWER_STATES}
        self._scorer: Scorer | None = None

    def for_domain(self, domain: str, takes_engine: bool = False) -> "LLMScorer":
        """The same model and prompts in another domain; nothing that was fitted comes along.

        Args:
            domain: its name.
            takes_engine: `close` of the new one frees the engine, for it stands in this one's place.
        """
        scorer = LLMScorer(self.config, domain, self.prompts, contexts=self.contexts)
        scorer._engine, scorer._owns_engine = self._engine, takes_engine and self._owns_engine
        return scorer

    def _with(self, **changes: Any) -> "LLMScorer":
        """One that stands in this one's place, with the same engine and other parts."""
        scorer = copy(self)
        for name, value in changes.items():
            setattr(scorer, f"_{name}", value)
        scorer._scorer = None
        if "calibration_histories" in changes:
            scorer._renderer = None
        return scorer

    @property
    def scorer(self) -> Scorer:
        """The scorer, built on first use."""
        with self._loading:
            if self._scorer is None:
                self._scorer = self._build_scorer()
            return self._scorer

    @property
    def hidden_states(self) -> StateStore:
        """Kept hidden states of texts, and the spaces they are compared in; loads the engine where there are none yet,
        for it decides which layer's are read."""
        with self._loading:
            if self._hidden_states is None:
                compares = self.config.compares_states
                words = compares and self.config.words and self.engine.name != LEXICAL
                self._hidden_states = StateStore(self._states_layer() if compares else None, words)
            return self._hidden_states

    def _states_layer(self) -> int | None:
        """What `config.layer` says, or the base model's default where the engine can stop there; None for the last.

        Raises:
            ConfigError: the engine cannot stop at the layer that was asked for.
        """
        asked, known = self.config.layer, n_layers(self.engine)
        if asked is None:
            usual = states_layer(self.config.model)
            return usual if usual and usual < known else None
        if asked > known:
            has = f"has {known} layers" if known else "shows the states of the last layer only"
            raise ConfigError(f"layer={asked}: the engine {self.engine.name!r} {has}; layer=0 takes the last one's")
        return None if asked in (0, known) else asked

    @property
    def of_texts(self) -> "LLMScorer":
        """What reads texts that belong to no catalogue: by likelihood where this reader compares states, which mean
        something in the space of a catalogue only."""
        if self.config.reads_texts and not self.config.compares_states:
            return self
        with self._loading:
            if self._shared.of_texts is None:
                config = self.config.model_copy(update={"scorer": "likelihood"})
                # No calibration histories: a text that nobody sent before would be read behind each of them.
                priors = PriorStore(most=_TEXT_PRIORS)
                self._shared.of_texts = LLMScorer(
                    config, self.domain, self.prompts, priors=priors, model=self._model, contexts=self.contexts
                )
                self._shared.of_texts.share_engine(self)
            return self._shared.of_texts

    def calibrated_by(self, histories: Sequence[Sequence[Mapping[str, object]]]) -> "LLMScorer":
        """With calibration histories, behind which "likelihood" looks for how likely a title is for anybody.

        Args:
            histories: items, as of `calibration_histories`; without any, titles are read behind no history.
        """
        return self._with(calibration_histories=histories)

    @contextmanager
    def reading_catalog(self, progress: bool | None = None) -> Iterator[None]:
        """Texts that are read inside are a catalogue's: their states are kept in the user's cache, which `fit`,
        `evaluate`, `demo` and `add-items` share; `texts_read` says what was there.

        Args:
            progress: show a progress bar on stderr; None does on a terminal and in a notebook.
        """
        if not self.config.compares_states:
            yield
            return
        cache = StateCache.of_user() if StateCache.takes(self.engine) else None
        with self.hidden_states.reading(cache, progress):
            yield

    @property
    def item_fields(self) -> frozenset[str] | None:
        """Fields of items that the templates of the scorers read; None where that cannot be told."""
        blocks = {block for name in self.config.scorers for block in _ITEM_BLOCKS.get(name, ())}
        fields = [self.templates.fields(block) for block in blocks]
        return None if None in fields else frozenset(field for one in fields for field in one or ())

    @property
    def texts_read(self) -> TextsRead | None:
        """How many texts the model read in the last `reading_catalog`; None where it compares no states."""
        return None if self._hidden_states is None else self._hidden_states.texts_read

    def for_catalog(self, items: Sequence[Mapping[str, object]]) -> "LLMScorer":
        """For a catalogue: with the spaces of its texts, where texts are compared."""
        if not self.config.compares_states or not items:
            return self
        return self._with(hidden_states=self._embedding().for_catalog(items, self.config.seed).states)

    def for_window(
        self, catalog: Catalog, statistics: InteractionStatistics, same_penalties: bool = False
    ) -> "LLMScorer":
        """For what was known at one time: with projections of who chooses which texts, where texts are compared.

        Args:
            catalog: the texts; the spaces are those of `for_catalog`.
            statistics: of the interactions until then.
            same_penalties: as `EmbeddingScorer.for_window` has it.
        """
        if not self.config.compares_states or self.hidden_states.spaces is None:
            return self
        items, vectors, counts = chosen_items(catalog, statistics)
        learned = self._embedding().for_window(items, vectors, counts, self.config.seed, same_penalties)
        return self._with(hidden_states=learned.states)

    def keep_items(self, items: Sequence[Mapping[str, object]]) -> None:
        """Reads these texts now where the scorer keeps what it read of an item's text."""
        if self.config.compares_states and items:
            self._embedding().keep(items)

    def lists(
        self,
        candidates: Candidates,
        catalog: Catalog,
        history_of: Callable[[UserId], Sequence[ItemId]],
        states: Mapping[UserId, UserState],
    ) -> list[ScoringList]:
        """Candidates as what is to be read: one list a user, users in order of appearance, candidates in
        row order.

        Args:
            candidates: validated.
            catalog: the items' texts.
            history_of: user id -> the user's items, oldest first; empty for a new user.
            states: users' adapted contexts; others start from the text of their histories.
        """
        lists = []
        soft_prompt = self.soft_prompt()
        of_users = ItemLists.of(candidates)
        for user, rows in of_users.by_user():
            chosen, proposed = history_of(user)[-LONGEST_HISTORY:], [of_users.items[row] for row in rows.tolist()]
            history = catalog.items(chosen)
            lists.append(
                ScoringList(
                    history=history,
                    candidates=catalog.items(proposed),
                    soft_prompt=soft_prompt,
                    user_tokens=self.user_tokens(history, states.get(user)),
                )
            )
        return lists

    def components(self, lists: Sequence[ScoringList], progress: bool | None = False) -> list[NDArray[np.float64]]:
        """Per list: (n_candidates, n_components), of `read`."""
        return [one.components for one in self.read(lists, progress)]

    def read(self, lists: Sequence[ScoringList], progress: bool | None = False) -> list[ListScores]:
        """What the model says of each list, and the tokens it read for that.

        Lists with histories of like length go to the engine together, so that its batches need little padding.
        """
        by_length = np.argsort([len(one.history) for one in lists], kind="stable").tolist()
        readings: dict[int, ListScores] = {}
        with progress_bar(len(lists), "user", self.scorer.name, progress) as bar:
            for start in range(0, len(lists), LISTS_PER_CALL):
                part = by_length[start : start + LISTS_PER_CALL]
                readings.update(zip(part, self.scorer.read([lists[number] for number in part]), strict=True))
                bar.update(len(part))
        return [readings[number] for number in range(len(lists))]

    def _embedding(self) -> EmbeddingScorer:
        return EmbeddingScorer(self.engine, self.renderer, self.hidden_states)

    def _build_scorer(self) -> Scorer:
        if not self.config.reads_texts:
            return NoScorer()
        engine, renderer, config = self.engine, self.renderer, self.config
        build: dict[str, Callable[[], Scorer]] = {
            "embedding": self._embedding,
            "labels": lambda: LabelScorer(engine, renderer),
            "likelihood": lambda: LikelihoodScorer(engine, renderer, self.priors),
            "listwise": lambda: ListwiseScorer(engine, renderer, config.permutations, seed=config.seed),
        }
        parts = [build[name]() for name in config.scorers]
        return parts[0] if len(parts) == 1 else CombinedScorer(parts)
