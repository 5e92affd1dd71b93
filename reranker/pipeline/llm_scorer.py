"""The language model's half of a Reranker: engine, prompts and scorer, loaded when first needed."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.config import RerankerConfig
from reranker.data.catalog import LONGEST_HISTORY, Catalog
from reranker.data.schema import ITEM, USER
from reranker.engines import load_engine
from reranker.engines.lexical import LEXICAL
from reranker.errors import BundleError, ConfigError
from reranker.fusion import InteractionStatistics
from reranker.fusion.features import chosen_items
from reranker.hub import resolve_model, states_layer
from reranker.prompting import TEXT_PARTS, PromptRenderer, PromptSettings, TemplateSet, family_for_domain
from reranker.protocols import Engine, RunsApart, n_layers
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
from reranker.soft_tokens import SUPPORT_ITEMS, ContextMap, history_features
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.soft_tokens.prompt_bank import PromptBank
from reranker.types import ItemId, ModelInfo, TokenSequence, UserId, UserState
from reranker.utils.progress import progress_bar

if TYPE_CHECKING:
    from reranker.engines.torch.packed_lm import PackedLM
    from reranker.soft_tokens.user_adaptation import ContextAdapter

LISTS_PER_CALL = 64
_ITEM_BLOCKS = {
    "embedding": TEXT_PARTS,
    "likelihood": ("history_item", "candidate"),
    "labels": ("history_item", "labels_candidate"),
    "listwise": ("history_item", "listwise_candidate"),
}
"""Blocks in which a scorer shows items."""

_TEXT_PRIORS = 100_000  # of texts that clients sent: some 30 MB


def engine_of(config: RerankerConfig, needs: Collection[str] = ()) -> Engine:
    """The engine that the settings name, loaded; one that does what their scorers need, and `needs`.

    Raises:
        ConfigError, ModelError: as `load_engine` does.
    """
    needs = {*needs, *config.engine_needs}
    return load_engine(config.engine, config.model, dtype=config.dtype, needs=needs, **config.engine_options)


class LazyEngine:
    """An engine that is loaded when it is first asked for, for all readers that hold this.

    Args:
        config: names it.
        engine: a ready one.

    Attributes:
        needs: what whoever shares it needs of it, as `load_engine` takes it.
    """

    def __init__(self, config: RerankerConfig, engine: Engine | None = None) -> None:
        self.loaded = engine
        self.needs = frozenset(config.engine_needs)
        self._config = config
        self._loading = threading.Lock()

    def get(self) -> Engine:
        """The engine.

        Raises:
            ConfigError, ModelError: as `engine_of` does.
        """
        with self._loading:
            if self.loaded is None:
                self.loaded = engine_of(self._config, self.needs)
            return self.loaded

    def close(self) -> None:
        """Frees the engine, if it was loaded."""
        engine, self.loaded = self.loaded, None
        if engine is not None:
            engine.close()


class _OfDomain:
    """What is made when it is first needed, once for all scorers of a domain."""

    def __init__(self) -> None:
        self.written: tuple[SoftPrompt | None, SoftPrompt] | None = None  # relative prompt, its sum
        self.of_texts: LLMScorer | None = None
        self.packed: PackedLM | None = None


class LLMScorer:
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
        self.config = config
        self.domain = domain
        self.prompts = prompts
        self.priors = PriorStore() if priors is None else priors
        self.contexts = contexts
        self._hidden_states = hidden_states
        self._calibration_histories: Sequence[Sequence[Mapping[str, object]]] = ()
        self._engine = LazyEngine(config, engine)
        self._owns_engine = True
        self._model = model
        self._renderer: PromptRenderer | None = None
        self._scorer: Scorer | None = None
        self._shared = _OfDomain()
        self._loading = threading.RLock()  # threads that rank at once share one engine and one scorer

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
    def model(self) -> ModelInfo:
        """The model that everything fitted belongs to; loads the engine if that is not known yet."""
        return self._model or self.engine.model

    @property
    def engine(self) -> Engine:
        """The inference engine, loaded on first use."""
        engine = self._engine.get()
        if self._model is None:
            self._model = engine.model
        elif not _same_model(self._model, engine.model):
            fitted, running = self._model, engine.model
            raise BundleError(
                f"the bundle was fitted with {fitted.model_id} (sha256 {fitted.sha256[:12]}, width {fitted.dim}), but "
                f"the engine runs {running.model_id} (sha256 {running.sha256[:12]}, width {running.dim}). Load it with "
                "the first model, or fit a new Reranker"
            )
        return engine

    @property
    def dead(self) -> bool:
        """The process in which the engine ran is gone; False before it is loaded."""
        engine = self._engine.loaded
        return isinstance(engine, RunsApart) and engine.dead

    def close(self) -> None:
        """Frees the engine if it was loaded; one that `share_engine` took is its owner's to free."""
        if self._owns_engine:
            self._engine.close()

    def share_engine(self, other: "LLMScorer") -> bool:
        """Reads with the other's engine from now on, if both would load the same one; nothing is loaded by this.

        Returns:
            False where base model, engine, dtype or options differ: each keeps its own.
        """
        fields = ("engine", "model", "dtype", "engine_options")
        same = all(getattr(self.config, name) == getattr(other.config, name) for name in fields)
        if same and self._engine.loaded is None and self is not other:
            other._engine.needs |= self._engine.needs
            self._engine, self._owns_engine = other._engine, False
        return same

    @property
    def renderer(self) -> PromptRenderer:
        """Turns lists into prompts for this engine, built on first use."""
        with self._loading:
            if self._renderer is None:
                self._renderer = PromptRenderer(
                    self.templates,
                    self.engine.tokenizer,
                    self._prompt_settings(),
                    self.engine.model.max_length,
                    self._calibration_histories,
                )
            return self._renderer

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

    def soft_prompt(self) -> TokenSequence | None:
        """The domain's soft tokens, as `prompt` has them.

        Raises:
            PromptError: the prompt was made for another model.
        """
        found = self.prompt()
        return None if found is None else found.as_sequence()

    def prompt(self) -> SoftPrompt | None:
        """What the domain's lists are read behind: the embeddings of the written instruction, a trained prompt, or
        their sum where the prompt is relative. The shipped prompt is one of `soft_tokens` tokens for one base model;
        where either is another, the instruction stands alone.

        Raises:
            PromptError: the prompt was made for another model.
        """
        if self.config.soft_tokens == 0:
            return None
        found, shipped, length = self.prompts.resolve(self.domain), self.prompts.shipped, self.config.soft_tokens
        if found is not None:
            found.require_model(self.engine.model)
            length = len(found)
        elif shipped is not None and len(shipped) == length and shipped.is_for(self.engine.model):
            found = shipped
        if found is not None and not found.relative:
            return found
        with self._loading:
            if self._shared.written is None or self._shared.written[0] is not found:
                written = SoftPrompt.from_instruction(self.engine, self.renderer.instruction_token_ids(), length)
                self._shared.written = found, written if found is None else found.beside(written)
            return self._shared.written[1]

    def prompts_to_keep(self) -> PromptBank:
        """The prompts, and among them what this domain was read behind: a later instruction may be written otherwise,
        and a later version of the product may ship another prompt."""
        kept = replace(self.prompts, domains=dict(self.prompts.domains))
        if self._shared.written is not None:
            kept.add_domain(self.domain, self._shared.written[1])
        return kept

    def user_tokens(self, history: Sequence[Mapping[str, object]], state: UserState | None) -> TokenSequence | None:
        """The user's own soft tokens.

        An adapted user's come from the kept context; another's, and those of a context that was adapted under another
        map, from the text of the history alone, without a gradient step; a new user gets those of z = 0.

        Raises:
            PromptError: the map belongs to another model.
        """
        contexts = self.contexts
        if contexts is None:
            return None
        contexts.require_model(self.engine.model)
        if state is not None and contexts.reads(state):
            return contexts.tokens(state.vector, state.support)
        if not history:
            return contexts.tokens(np.zeros(0, dtype=np.float32), 0)
        span = self.renderer.continuation(history, self.soft_prompt(), most=SUPPORT_ITEMS).request.candidates[0]
        embeddings = self.engine.embed_tokens(span.sequence.token_ids.tolist())
        start = contexts.start(history_features([embeddings], [len(history)]))[0]
        return contexts.tokens(start, len(history))

    def adapter(self, steps: int) -> "ContextAdapter":
        """Adapts users' contexts by this many gradient steps.

        Raises:
            ConfigError: there is no context map, or torch is not installed.
        """
        if self.contexts is None:
            raise ConfigError(
                "there is no context map, so nothing can be adapted to users: train one with `reranker train prompt` "
                "and algorithm: cavia, and start from the prompt it writes"
            )
        self.contexts.require_model(self.engine.model)
        packed = self.packed_lm()
        from reranker.soft_tokens.user_adaptation import ContextAdapter

        return ContextAdapter(packed, self.renderer, self.soft_prompt(), self.contexts, steps=steps)

    def packed_lm(self) -> "PackedLM":
        """The model as something that gives gradients.

        The torch engine's own where that is the engine; beside others it is loaded once more.

        Raises:
            ConfigError: torch is not installed.
        """
        try:
            import torch

            from reranker.engines.loading import load_causal_lm
            from reranker.engines.precision import AUTO_DEVICE, chosen_device
            from reranker.engines.torch.packed_lm import PackedLM
        except ImportError as error:
            raise ConfigError(f"adapting needs torch ({error}): pip install 'reranker[torch]'") from error
        if self._shared.packed is None:
            self._shared.packed = getattr(self.engine, "packed_lm", None)
        if self._shared.packed is None:
            device = chosen_device(AUTO_DEVICE)
            source = resolve_model(self.config.model)
            self._shared.packed = PackedLM(load_causal_lm(source.path, self.config.dtype, device), torch.device(device))
        return self._shared.packed

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

    def for_window(self, catalog: Catalog, statistics: InteractionStatistics) -> "LLMScorer":
        """For what was known at one time: with projections of who chooses which texts, where texts are compared.

        Args:
            catalog: the texts; the spaces are those of `for_catalog`.
            statistics: of the interactions until then.
        """
        if not self.config.compares_states or self.hidden_states.spaces is None:
            return self
        items, vectors, counts = chosen_items(catalog, statistics)
        return self._with(hidden_states=self._embedding().for_window(items, vectors, counts, self.config.seed).states)

    def keep_items(self, items: Sequence[Mapping[str, object]]) -> None:
        """Reads these texts now where the scorer keeps what it read of an item's text."""
        if self.config.compares_states and items:
            self._embedding().keep(items)

    def lists(
        self,
        candidates: pd.DataFrame,
        catalog: Catalog,
        history_of: Callable[[UserId], Sequence[ItemId]],
        states: Mapping[UserId, UserState],
    ) -> list[ScoringList]:
        """A table of candidates as what is to be read: one list a user, users in order of appearance, candidates in
        row order.

        Args:
            candidates: a validated candidates table.
            catalog: the items' texts.
            history_of: user id -> the user's items, oldest first; empty for a new user.
            states: users' adapted contexts; others start from the text of their histories.
        """
        lists = []
        soft_prompt = self.soft_prompt()
        for user, rows in candidates.groupby(USER, sort=False).indices.items():
            chosen, proposed = history_of(user)[-LONGEST_HISTORY:], candidates[ITEM].iloc[rows].tolist()
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

    def _prompt_settings(self) -> PromptSettings:
        settings = self.config.prompt
        if "family" in settings.model_fields_set:
            return settings
        return settings.model_copy(update={"family": family_for_domain(self.domain, settings.directory)})

    @property
    def templates(self) -> TemplateSet:
        """The blocks in use.

        Raises:
            PromptError: the family or language does not exist.
        """
        settings = self._prompt_settings()
        return TemplateSet.load(settings.family, settings.language, settings.directory)


def _same_model(one: ModelInfo, other: ModelInfo) -> bool:
    """Weights and width; a model whose weights cannot be hashed (a remote one) goes by its name."""
    if one.sha256 and other.sha256:
        return (one.sha256, one.dim) == (other.sha256, other.dim)
    return (one.model_id, one.dim) == (other.model_id, other.dim)
