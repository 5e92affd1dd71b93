"""Rerankers from pretrained parts, to a bundle and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from reranker.config import RerankerConfig, default_scorer
from reranker.data.catalog import Catalog
from reranker.errors import BundleError, PromptError
from reranker.pipeline.bundle import read_bundle, write_bundle, write_version
from reranker.pipeline.bundle_parts import BundleState
from reranker.pipeline.domain import DomainData
from reranker.pipeline.fitted_state import FittedState
from reranker.pipeline.llm_scorer import LLMScorer
from reranker.pipeline.manifest import bundle_identity
from reranker.pipeline.untrusted_bundle import (
    MANIFEST,
    TEMPLATES,
    require_harmless,
    require_known_engine,
    require_own_model,
    require_own_templates,
)
from reranker.pipeline.versions import KEPT
from reranker.protocols import Engine
from reranker.soft_tokens.checkpoint import DEFAULT, UNTRAINED, Trained


class Persistent(FittedState):
    """Making, saving and loading."""

    @classmethod
    def from_pretrained(
        cls, name: str | Path = "default", *, engine: Engine | str | None = None, **settings: Any
    ) -> Self:
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
        engine, settings = named_engine(engine, settings)
        is_trained = str(name) not in (DEFAULT, UNTRAINED)
        runs = str(settings.get("engine", "auto")) if engine is None else engine.name
        defaults = {"scorer": default_scorer(runs, is_trained)} | ({"windows": 1} if is_trained else {})
        settings = {**defaults, **settings}
        config = RerankerConfig.from_mapping(settings)
        trained = Trained.named(name, config.scorer)
        return cls(config, engine, trained.bank, trained.contexts)

    def save(self, directory: Path | str) -> None:
        """Writes the bundle: a folder without pickle, complete or not there at all.

        Raises:
            DataError: nothing was fitted.
            BundleError: the folder cannot be written; what stood there before is untouched.
        """
        write_bundle(Path(directory), self._state())
        self._is_saved_as(bundle_identity(Path(directory)))

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
        version = write_version(Path(directory), self._state(), keep)
        self._is_saved_as(bundle_identity(version))
        return version

    def _state(self) -> BundleState:
        data, fusion_model = self.fitted()
        reader = self.llm_scorer
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
            signals=data.signals,
            fitted=self.fitted_at,
        )

    @classmethod
    def load(
        cls,
        directory: Path | str,
        *,
        engine: Engine | str | None = None,
        trusted_options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Self:
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
                model; or its model is none that comes with the product, RERANKER_MODELS or `settings` name.
        """
        state = read_bundle(Path(directory))
        trusted = dict(trusted_options or {})
        templates = require_own_templates(Path(directory), state.config, trusted.pop(TEMPLATES, None))
        if "engine_options" not in settings and (engine is None or engine == state.config.engine):
            require_harmless(Path(directory), state.config, trusted)
        if engine is None and "engine" not in settings:
            require_known_engine(Path(directory), state.config)
        if "model" not in settings and (engine is None or isinstance(engine, str)):
            named = state.config if engine is None else state.config.model_copy(update={"engine": engine})
            require_own_model(Path(directory), named)
        engine, settings = named_engine(engine, settings, state.config)
        if trusted:
            options = settings.get("engine_options", state.config.engine_options)
            settings = {**settings, "engine_options": {**options, **trusted}}
        config = RerankerConfig.from_mapping({**state.config.model_dump(exclude_unset=True), **settings})
        if templates is not None and "prompt" not in settings:
            config = config.model_copy(update={"prompt": config.prompt.model_copy(update={"directory": templates})})
        config.require_fitted_with(state.config)
        reranker = cls(config, engine, state.prompts)
        reranker.llm_scorer = LLMScorer(
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
            signals=state.signals,
        )
        reranker.fitted_at = state.fitted
        reranker._is_saved_as(state.identity)
        reranker.llm_scorer = reranker.llm_scorer.calibrated_by(reranker._data.calibration_histories)
        try:
            read = reranker.llm_scorer.templates
        except PromptError as error:
            raise BundleError(f"{Path(directory) / MANIFEST} names templates that there are not: {error}") from error
        if read.sha256 != state.templates_sha256:
            raise BundleError(
                f"the bundle {directory} was fitted with other text in the template {read.name}: scores would not "
                "mean the same. Restore that template (prompt.directory) or fit again"
            )
        return reranker


def named_engine(
    engine: Engine | str | None, settings: dict[str, Any], before: RerankerConfig | None = None
) -> tuple[Engine | None, dict[str, Any]]:
    """An engine given by name becomes a setting; options of another one before do not fit it."""
    if not isinstance(engine, str):
        return engine, settings
    if before is None or before.engine != engine:
        settings = {"engine_options": {}, **settings}
    return None, {**settings, "engine": engine}
