"""The systems that are judged, by name: controls, the LLM by each scorer, and the fusion."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from reranker.config import RerankerConfig
from reranker.engines import load_engine
from reranker.engines.lexical import LEXICAL
from reranker.engines.sentence_encoder import PACKAGE, SentenceEncoder
from reranker.errors import ConfigError
from reranker.evaluation.baselines import (
    Embed,
    FirstStageOrder,
    GradientBoosted,
    LinearControl,
    Popularity,
    RandomOrder,
    TextSimilarity,
)
from reranker.evaluation.llm_systems import Fused, LLMAlone, Served, ZeroShot
from reranker.evaluation.runner import SystemFactory
from reranker.evaluation.score_cache import ScoreCache
from reranker.protocols import Engine
from reranker.soft_tokens.checkpoint import Trained

SYSTEMS: dict[str, str] = {
    "first_stage": "the list as it came in",
    "popularity": "the most chosen first",
    "random": "a random order",
    "baseline": "conditional logit on the interaction features: the fusion without the LLM",
    "gradient_boosted": "LambdaMART on the same features",
    "text_similarity": "interaction features and MiniLM likeness to the history",
    "text_alone": "MiniLM likeness to the history, nothing else",
    "lexical": "words alone, without a model: what an LLM alone has to beat",
    "lexical_fused": "interaction features and words: what the fused order has to beat",
    "zero_shot_likelihood": "the LLM's likelihood scorer with fixed coefficients",
    "zero_shot_labels": "the LLM asked yes or no of each candidate",
    "zero_shot_listwise": "the LLM asked to pick among all candidates",
    "llm": "the LLM alone, coefficients learned",
    "fused": "interaction features and LLM",
    "served": "what the never-worse guard lets through: fused, baseline or first_stage",
}
"""Name -> what it is."""

_SCORERS = {
    "zero_shot_likelihood": "likelihood",
    "zero_shot_labels": "labels",
    "zero_shot_listwise": "listwise",
}
_LEXICAL: dict[str, type[LLMAlone] | type[Fused]] = {"lexical": LLMAlone, "lexical_fused": Fused}
_LEARNED: dict[str, type[LLMAlone] | type[Fused] | type[Served]] = {"llm": LLMAlone, "fused": Fused, "served": Served}


def default_systems() -> tuple[str, ...]:
    """Every system that is installed here, but for those that cost most and gain least, and texts alone."""
    left_out = {"zero_shot_labels", "zero_shot_listwise", "text_alone"}
    if find_spec("lightgbm") is None:
        left_out.add("gradient_boosted")
    if find_spec(PACKAGE) is None:
        left_out.add("text_similarity")
    return tuple(name for name in SYSTEMS if name not in left_out)


class Suite:
    """Builds systems; the model is loaded when the first system that needs it is built, and shared.

    Args:
        config: of the LLM systems; `scorer` is set by each system.
        load: gives the engine.
        fit_users: lists the LLM reads for fitting, at most, a domain; by default as many as `Reranker.fit` reads.
        families: domain -> template family, for domains that are not called like one.
        progress: show progress bars on stderr.
        directory: where the model's readings are kept for later runs; nowhere by default.
        trained: domain -> what the LLM systems were trained to; untrained by default.
        adapt_steps: gradient steps a user, where there are contexts.
    """

    def __init__(
        self,
        config: RerankerConfig,
        load: Callable[[], Engine],
        fit_users: int | None = None,
        families: Mapping[str, str] | None = None,
        progress: bool = False,
        directory: Path | None = None,
        trained: Mapping[str, Trained] | None = None,
        adapt_steps: int = 2,
    ) -> None:
        self.config = config
        self._trained = trained
        self._adapt_steps = adapt_steps
        self._directory = directory
        self.fit_users = fit_users or config.lists_to_read
        self._load = load
        self._families = families
        self._progress = progress
        self._engine: Engine | None = None
        self._embed: Embed | None = None
        self._readings: dict[str, ScoreCache] = {}

    def factories(self, names: Sequence[str]) -> dict[str, SystemFactory]:
        """Name -> factory.

        Raises:
            ConfigError: an unknown name, or the package of a control is not installed.
        """
        unknown = [name for name in names if name not in SYSTEMS]
        if unknown:
            raise ConfigError(f"unknown systems {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
        return {name: self._factory(name) for name in names}

    def readings(self, scorer: str) -> ScoreCache:
        """The readings that all systems of a scorer share."""
        if scorer not in self._readings:
            if self._engine is None:
                self._engine = self._load()
            config = self.config.model_copy(update={"scorer": scorer})
            self._readings[scorer] = ScoreCache(
                self._engine,
                config,
                self._families,
                self._progress,
                self._directory,
                self._trained,
                self._adapt_steps,
            )
        return self._readings[scorer]

    def _factory(self, name: str) -> SystemFactory:
        if name in _LEARNED:
            system = _LEARNED[name]
            return lambda seed: system(self.readings(self.config.scorer), self.fit_users, self.config.l2)
        if name in _LEXICAL:
            return lambda seed: _named(_LEXICAL[name](self._words(), self.fit_users, self.config.l2), name)
        if name in _SCORERS:
            return lambda seed: ZeroShot(name, self.readings(_SCORERS[name]))
        makers: dict[str, SystemFactory] = {
            "first_stage": lambda seed: FirstStageOrder(),
            "popularity": lambda seed: Popularity(),
            "random": RandomOrder,
            "baseline": lambda seed: LinearControl(self.config.l2),
            "gradient_boosted": lambda seed: GradientBoosted(seed=seed),
            "text_similarity": lambda seed: TextSimilarity(self._embedding(), self.config.l2),
            "text_alone": lambda seed: TextSimilarity(self._embedding(), self.config.l2, alone=True),
        }
        return makers[name]

    def _words(self) -> ScoreCache:
        """The readings of the lexical engine: the default scorer with words in the LM's place."""
        if LEXICAL not in self._readings:
            config = self.config.model_copy(update={"scorer": "embedding", "engine": LEXICAL, "engine_options": {}})
            self._readings[LEXICAL] = ScoreCache(
                load_engine(LEXICAL), config, self._families, self._progress, self._directory
            )
        return self._readings[LEXICAL]

    def _embedding(self) -> Embed:
        if self._embed is None:
            self._embed = SentenceEncoder()
        return self._embed


def _named(system: LLMAlone | Fused, name: str) -> LLMAlone | Fused:
    system.name = name
    return system
