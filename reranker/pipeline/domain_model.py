"""The language model in one domain: engine, templates and prompts."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from reranker.config import RerankerConfig
from reranker.engines.encoder import ENCODER
from reranker.errors import BundleError, ConfigError
from reranker.hub import resolve_model
from reranker.pipeline.lazy_engine import LazyEngine, same_model
from reranker.pipeline.query_reader import reads_by_encoder, sentence_encoder
from reranker.prompting import PromptRenderer, PromptSettings, TemplateSet, family_for_domain
from reranker.protocols import Engine, RunsApart
from reranker.scoring.relevance import QueryRelevance
from reranker.soft_tokens import SUPPORT_ITEMS, ContextMap, history_features
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.soft_tokens.prompt_bank import PromptBank
from reranker.types import ModelInfo, TokenSequence, UserState

if TYPE_CHECKING:
    from reranker.engines.torch.packed_lm import PackedLM
    from reranker.pipeline.llm_scorer import LLMScorer
    from reranker.soft_tokens.user_adaptation import ContextAdapter


class _OfDomain:
    """What is made when it is first needed, once for all scorers of a domain."""

    def __init__(self) -> None:
        self.written: tuple[SoftPrompt | None, SoftPrompt] | None = None  # relative prompt, its sum
        self.of_texts: LLMScorer | None = None
        self.packed: PackedLM | None = None


class DomainModel:
    """The language model in one domain: engine, templates, prompts and users' contexts, each loaded on first use.

    Args:
        config: model, engine and prompt settings.
        domain: picks the template family and the soft prompt.
        prompts: soft prompts; the instruction's embeddings stand in where there is none for the domain.
        engine: a ready engine; by default the one `config` names.
        model: the model that everything fitted belongs to; another one is refused.
        contexts: what makes users' contexts soft tokens; None gives users none.
    """

    def __init__(
        self,
        config: RerankerConfig,
        domain: str,
        prompts: PromptBank,
        *,
        engine: Engine | None = None,
        model: ModelInfo | None = None,
        contexts: ContextMap | None = None,
    ) -> None:
        self.config = config
        self.domain = domain
        self.prompts = prompts
        self.contexts = contexts
        self._calibration_histories: Sequence[Sequence[Mapping[str, object]]] = ()
        self._engine = LazyEngine(config, engine)
        self._owns_engine = True
        self._model = model
        self._renderer: PromptRenderer | None = None
        self._shared = _OfDomain()
        self._loading = threading.RLock()  # threads that rank at once share one engine and one scorer

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
        elif not same_model(self._model, engine.model):
            fitted, running = self._model, engine.model
            raise BundleError(
                f"the bundle was fitted with {fitted.model_id} (sha256 {fitted.sha256[:12]}, width {fitted.dim}), but "
                f"the engine runs {running.model_id} (sha256 {running.sha256[:12]}, width {running.dim}). Load it with "
                "the first model, or fit a new Reranker"
            )
        return engine

    @property
    def relevance(self) -> QueryRelevance:
        """What reads a query and the texts that may answer it: see `RerankerConfig.query_reader`.

        Raises:
            ConfigError: it is the sentence encoder, whose package is not installed.
        """
        query_tokens = self.config.prompt.query_tokens
        if not reads_by_encoder(self.config, self._engine.loaded):
            return QueryRelevance(self.engine, query_tokens)
        if self.config.query_reader == ENCODER:
            return QueryRelevance(sentence_encoder(), query_tokens)
        return QueryRelevance(sentence_encoder(), query_tokens, otherwise=lambda: self.engine)

    @property
    def dead(self) -> bool:
        """The process in which the engine ran is gone; False before it is loaded."""
        engine = self._engine.loaded
        return isinstance(engine, RunsApart) and engine.dead

    def close(self) -> None:
        """Frees the engine if it was loaded; one that `share_engine` took is its owner's to free."""
        if self._owns_engine:
            self._engine.close()

    def share_engine(self, other: "DomainModel") -> bool:
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
